"""From captured states to the result that was asked for: every estimator and space, controls attached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TypeVar

import torch

from tl_emergence.capture.spaces import Space
from tl_emergence.capture.states import CapturedStates
from tl_emergence.ceiling import exact_deranged
from tl_emergence.checkpoints import Workspace
from tl_emergence.estimators.deranged import DerangedEstimator
from tl_emergence.geometry import Geometry, GeometrySettings, companion_geometry
from tl_emergence.question import Measure, Question
from tl_emergence.results import (
    AnyResult,
    EmergenceResult,
    EstimatorComparison,
    SigmaSweep,
    SpaceComparison,
)
from tl_emergence.scoring import score

Scores = Mapping[str, Mapping[str, list[EmergenceResult]]]
"""Results of one run (the model or a control) by estimator and space, one a noise level."""

_Found = TypeVar("_Found")


def scores_of(
    states: CapturedStates,
    question: Question,
    spaces: Sequence[Space],
    *,
    run: str,
    geometry: GeometrySettings | None,
    workspace: Workspace,
    device: torch.device,
    progress: bool,
) -> Scores:
    """Score the same states by every estimator in every space; for the run "deranged", deranged first.

    All results in a space share one geometry, which no estimator has a part in. A deranged run has none:
    its states are those of the model.
    """
    deranged = run == "deranged"
    scores: Scores = {
        measure.estimator.name: {
            space: score(
                states,
                estimator=DerangedEstimator(measure.estimator) if deranged else measure.estimator,
                sigmas=measure.sigmas,
                space=space,
                seed=question.seed,
                micro=question.micro,
                options=measure.options,
                workspace=workspace,
                part=f"{run}-{measure.estimator.name}",
                device=device,
                progress=progress,
            )
            for space in spaces
        }
        for measure in question.measures
    }
    if deranged:
        exact = exact_deranged(
            states.prompts,
            seed=question.seed,
            layers=states.layers,
            positions=states.positions,
            micro=question.micro,
        )
        return _each(scores, lambda result: replace(result, exact=exact))
    if geometry is None:
        return scores
    settings = {"geometry": asdict(geometry)}
    shapes = {
        space: _geometry(states, geometry, space, question.seed, run, workspace, device, progress)
        for space in spaces
    }
    return _each(
        scores,
        lambda result: replace(
            result, geometry=shapes[result.space], settings={**result.settings, **settings}
        ),
    )


def _geometry(
    states: CapturedStates,
    settings: GeometrySettings,
    space: Space,
    seed: int,
    run: str,
    workspace: Workspace,
    device: torch.device,
    progress: bool,
) -> Geometry:
    """Return the geometry of one run in a space, from the workspace where it is finished there."""
    name = f"{run}-{space}-geometry"
    finished = workspace.load_tensors(name)
    if finished is not None:
        return Geometry(**finished)
    found = companion_geometry(
        states, space=space, settings=settings, seed=seed, device=device, progress=progress
    )
    workspace.save_tensors(name, found.tensors())
    return found


def _each(scores: Scores, changed: Callable[[EmergenceResult], EmergenceResult]) -> Scores:
    return {
        name: {space: [changed(result) for result in results] for space, results in by_space.items()}
        for name, by_space in scores.items()
    }


def answer(runs: Mapping[str, Scores], question: Question) -> AnyResult:
    """Give each result of the run "model" its controls, and the caller the shape that was asked for."""
    by_estimator = {
        measure.estimator.name: _answer_of(runs, measure, question.several_spaces)
        for measure in question.measures
    }
    return EstimatorComparison(by_estimator) if question.several_estimators else _only(by_estimator)


def _answer_of(
    runs: Mapping[str, Scores], measure: Measure, several_spaces: bool
) -> EmergenceResult | SigmaSweep | SpaceComparison:
    own = {run: scores[measure.estimator.name] for run, scores in runs.items()}
    by_space: dict[str, EmergenceResult | SigmaSweep] = {}
    for space, results in own["model"].items():
        complete = [
            replace(found, controls={run: own[run][space][s] for run in own if run != "model"})
            for s, found in enumerate(results)
        ]
        sweep = SigmaSweep(dict(zip(measure.sigmas, complete, strict=True)))
        by_space[space] = sweep if measure.sweep else complete[0]
    return SpaceComparison(by_space) if several_spaces else _only(by_space)


def _only(found: Mapping[str, _Found]) -> _Found:
    return next(iter(found.values()))
