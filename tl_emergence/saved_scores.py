"""Scores and effects from saved folders, by the names of metrics: what `tl-emergence correlate` compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tl_emergence.circuits import HeadEffects, UnitValues, block_means, block_values, load_effects
from tl_emergence.errors import ResultFileError, SettingError, UnitError, unknown_name
from tl_emergence.files import exists, read_json
from tl_emergence.prompts.lists import LISTS, PAPER_SHOTS
from tl_emergence.saving import load_result
from tl_emergence.selection import singles


def scores_and_effects(
    folder: Path, scores_from: Path | None, score: Sequence[str], effect: Sequence[str]
) -> tuple[list[UnitValues], list[UnitValues]]:
    """Return scores and effects of the same units, from the folders that `ablate` and `run` saved in.

    By default the metrics of states are scores, the metrics of logits effects. Emergence and information of
    the same cells change alike: the first of the two stands for both. Scores of blocks stand beside the means
    of the effects over the heads of each block.

    Args:
        folder: Saved effects.
        scores_from: Other effects, or a result; the same folder for None.
        score: Names of the scores; none for the default.
        effect: Names of the effects; none for the default.

    Raises:
        ResultFileError: Nothing there.
        SettingError: A metric that was not measured, or none left for one side.
        UnitError: Scores and effects of different parts of one draw of prompts, or a result without
            pointwise values.
    """
    effects = load_effects(folder)
    told = [effects.values(name) for name in effect]
    if scores_from is None:
        scores = _scores(effects, score, but=effect)
        taken = [one.name for one in scores]
        others = [m for m in effects.metrics if m not in taken and not _repeats(effects, m, taken)]
        return scores, told or _effects(effects, others)
    of_logits = [name for name in effects.metrics if not _is_of_states(effects, name)]
    values = told or _effects(effects, of_logits)
    if _holds(scores_from, "effects"):
        scores = _scores(load_effects(scores_from), score, but=())
    else:
        scores = _block_scores(scores_from, score)
        values = [block_means(one) for one in values]
    _check_draws(scores_from, folder, scores, values)
    return scores, values


def _scores(of: HeadEffects, names: Sequence[str], but: Sequence[str]) -> list[UnitValues]:
    by_default = [name for name in of.metrics if _is_of_states(of, name) and name not in but]
    # The change of emergence is that of macro information of the same cells: one test, not two.
    by_default = [name for k, name in enumerate(by_default) if not _repeats(of, name, by_default[:k])]
    return [of.values(name) for name in names or _some("score", by_default, of)]


def _effects(of: HeadEffects, names: Sequence[str]) -> list[UnitValues]:
    return [of.values(name) for name in _some("effect", names, of)]


def _is_of_states(effects: HeadEffects, metric: str) -> bool:
    """Return whether a metric is information or emergence, by how it was measured."""
    return "sigma" in effects.settings.get("metrics", {}).get(metric, {})


def _repeats(effects: HeadEffects, metric: str, before: Sequence[str]) -> bool:
    """Return whether a metric of states has the cells of one before it, so that both change alike."""

    def cells(name: str) -> list[Any]:
        about = effects.settings["metrics"][name]
        return [about[key] for key in ("layers", "positions", "space", "sigma")]

    of_states = [name for name in before if _is_of_states(effects, name)]
    return _is_of_states(effects, metric) and any(cells(metric) == cells(name) for name in of_states)


def _some(side: str, names: Sequence[str], effects: HeadEffects) -> Sequence[str]:
    if not names:
        raise SettingError(
            f"no {side} to correlate",
            seen=f"only {list(effects.metrics)}",
            expected=f"a metric that stands as {side} by default",
            fix=f"Name one by --{side}, or ablate again with more of --metric.",
        )
    return names


def _holds(folder: Path, stem: str) -> bool:
    return exists(folder / f"{stem}.json") or exists(folder / stem / f"{stem}.json")


def _block_scores(folder: Path, names: Sequence[str]) -> list[UnitValues]:
    """Return the emergence of blocks of a saved result: one for each estimator, space and noise level."""
    if not _holds(folder, "result"):
        raise ResultFileError(
            "no scores there",
            seen=f"{folder}: neither effects nor a result",
            expected="the --out folder of `tl-emergence ablate` or `tl-emergence run`",
            fix="Check the path.",
        )
    found = list(singles(load_result(folder)))
    # Only what tells them apart is named.
    parts = [(one.estimator, one.space, f"sigma {one.sigma:g}") for one in found]
    telling = [k for k in range(3) if len({part[k] for part in parts}) > 1]
    ends = [", ".join(part[k] for k in telling) for part in parts]
    named = {f"emergence ({end})" if end else "emergence": one for end, one in zip(ends, found, strict=True)}
    for name in names:
        if name not in named:
            raise unknown_name("score", name, list(named))
    return [replace(block_values(named[name]), name=name) for name in names or named]


def _check_draws(
    scores_from: Path, folder: Path, scores: Sequence[UnitValues], effects: Sequence[UnitValues]
) -> None:
    """Refuse two sets of prompts that are the beginnings of one draw: they share prompts, and their noise."""
    draws = [_draw(of) for of in (scores_from, folder)]
    hashes = {one.prompts for one in (*scores, *effects)}
    if draws[0] is not None and draws[0] == draws[1] and len(hashes) > 1:
        raise UnitError(
            "scores and effects share some of their prompts",
            seen=f"different numbers of prompts of one draw: {draws[0]}",
            expected="the same prompts, which are then split, or prompts that no other side has",
            fix="Measure both with the same --n, or one of them with another --seed (of texts: other texts).",
        )


def _draw(folder: Path) -> dict[str, Any] | None:
    """Return what the command line drew prompts by, or None for what was made otherwise."""
    record = next((at / "run.json" for at in (folder, folder.parent) if exists(at / "run.json")), None)
    if record is None:
        return None
    asked = read_json(record)
    name = asked.get("prompts")
    if name in LISTS:
        shots = asked.get("shots") or PAPER_SHOTS[name]
        return {"prompts": name, "shots": shots, "seed": asked.get("seed")}
    return {"prompts": name, "n_tokens": asked.get("n_tokens"), "anchor": asked.get("anchor")}
