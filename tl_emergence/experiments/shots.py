"""Lists of 1 to 10 entities: is the staircase the model's, or that of the prompts and their number?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_emergence.capture.spaces import Space
from tl_emergence.checks import integer, integers
from tl_emergence.emergence import information_emergence
from tl_emergence.errors import SettingError
from tl_emergence.experiments.claims import Verdict
from tl_emergence.experiments.curves import Curve, curve, curve_rows, frame, runs
from tl_emergence.experiments.parts import Models, Parts, named_models, space_names
from tl_emergence.experiments.result import Conclusion, ExperimentResult, Finding, with_error
from tl_emergence.prompts import demonstrations
from tl_emergence.results import EmergenceResult

if TYPE_CHECKING:
    from tl_emergence.prompts import PromptSet

QUESTION = "Where does emergence rise along a list, and where does it stop, as the number of prompts varies?"
KNEE = 0.95
"""The knee is the first shot at which macro reaches this part of its largest value over shots."""
FLAT = 0.1
"""Bits: shuffled weights that lie nearer to exact macro than that are said to follow it."""


def shots(
    models: Any | Models,
    *,
    lists: Sequence[str | Sequence[str]] = ("country",),
    most: int = 10,
    n: int | Sequence[int] = (128, 512),
    spaces: Space | Sequence[Space] = ("read", "unit"),
    sigma: float = 0.5,
    seed: int = 0,
    batch_size: int = 64,
    workdir: str | PathLike[str] | None = None,
) -> ExperimentResult:
    """Measure emergence at every position of lists of `most` entities, for several numbers of prompts.

    One run of `most` shots holds all shorter lists: under causal attention the state at the j-th entity is
    that of a list of j. Curves are means over blocks 1 and up. The knee is the first shot at which macro at
    its separator reaches 0.95 of the largest macro at any separator. Beside it stand the knee of the exact
    curve at the same prompts, and the shot at which the entropy of a list, log2(K! / (K - j)!) of K entities,
    exceeds log2 N: from there on N is what any estimate can show.

    Args:
        models: A HookedTransformer or TransformerBridge with a tokenizer, or several by name.
        lists: "country", "animal", "color", or entities of your own.
        most: Entities a prompt, 3 at least.
        n: Numbers of prompts, one or several.
        spaces: Coordinates of the states.
        sigma: Noise level of the estimator `noise`.
        seed: Seed of prompts and noise.
        batch_size: Prompts a forward pass.
        workdir: Keep finished parts there, so that an experiment that was stopped goes on.

    Returns:
        Parts `model/list/N`; tables `curves` and `knees`; conclusions on the claims "positive", "staircase"
        and "seventh shot".

    Raises:
        SettingError: No list, a number out of range, a work folder of another experiment.
        TokenError: Entities that are not one token each in a model's tokenizer.
        HookError, StateError: As `information_emergence`.

    Cost: for each model, list and N one `information_emergence` with the control `shuffled_weights`.
    """
    of = named_models(models)
    if isinstance(lists, str):
        lists = [lists]
    names = [name if isinstance(name, str) else "own" for name in lists]
    most, seed = integer("most (shots a prompt)", most, least=3), integer("seed", seed)
    sizes = integers("n", [n] if isinstance(n, int) else n) or ()
    spaces = space_names(spaces)
    once = len(set(names)) == len(names) and len(set(sizes)) == len(sizes)
    if not names or not sizes or not once:
        raise SettingError(
            "a list or a number of prompts twice" if names and sizes else "nothing to measure",
            seen=f"lists {names}, n {list(sizes)}",
            expected="at least one list and one number of prompts, each once",
            fix="Pass lists=['country'], n=[1024]; one list of your own at a time.",
        )
    settings = {
        "experiment": "shots", "models": list(of),
        "lists": [name if isinstance(name, str) else list(name) for name in lists],
        "most": most, "n": list(sizes), "spaces": list(spaces), "sigma": sigma, "seed": seed,
    }  # fmt: skip
    # Lists that cannot be drawn are refused before a model runs.
    sets = {
        (model_name, name, size): demonstrations(entities, model, shots=most, n=size, seed=seed)
        for model_name, model in of.items()
        for name, entities in zip(names, lists, strict=True)
        for size in sizes
    }
    parts = Parts(None if workdir is None else Path(workdir), settings, of)
    curves, knees, findings, blocks, separators = [], [], [], [], []
    for (model_name, name, size), prompts in sets.items():

        def run(work: Path | None, model: Any = of[model_name], prompts: PromptSet = prompts) -> Any:
            return information_emergence(
                model, prompts, space=tuple(spaces), sigma=sigma, seed=seed, batch_size=batch_size,
                controls=("shuffled_weights",), workdir=work,
            )  # fmt: skip

        key = f"{model_name}/{name}/{size}"
        parts.measure(key, run)
        about = {"model": model_name, "list": name, "n": size}
        curves += curve_rows(parts.results[key], about)
        passed = crossing(prompts, size)
        population = prompts.population
        about_7 = float(population.prefix_bits[12]) if population and most >= 7 else math.nan
        for space, of_run, one in runs(parts.results[key]):
            row = {**about, "space": space, "run": of_run, "crossing": passed, "bits_of_7": about_7}
            knees.append({**row, **_knees(curve(one, "macro"), curve(one))})
            if of_run == "model" and size == max(sizes):
                where = f"{model_name}, {name}, {space}, N = {size:,}"
                findings += _findings(where, one, passed)
                blocks.append(_blocks_above(one))
                separators.append(_rises_at_separators(one, passed))
        for row in knees[-2 * len(spaces) :]:
            if row["run"] == "model":
                where = f"{model_name}, {name}, {row['space']}, N = {size:,}"
                findings.append(_knee_finding(where, row))
    return ExperimentResult(
        name="shots",
        question=QUESTION,
        parts=parts.results,
        tables={"curves": frame(curves), "knees": frame(knees)},
        findings=tuple(findings),
        conclusions=tuple(_conclusions(findings, knees, blocks, separators, _apart(curves))),
        settings=settings,
    )


def crossing(prompts: PromptSet, n: int) -> int:
    """Return the first shot at which the entropy of a list of so many entities exceeds log2 N."""
    assert prompts.population is not None
    at_separators = prompts.population.prefix_bits[1::2]
    above = np.flatnonzero(at_separators.numpy() > math.log2(n))
    return int(above[0]) + 1 if len(above) else len(at_separators) + 1


def _knees(macro: Curve, emergence: Curve) -> dict[str, int]:
    """Return the knees of the measured and of the exact curves, in shots, and how many shots there were."""

    def knee(values: np.ndarray) -> int:
        of, most = values[1::2], values[1::2].max()  # emergence may lie below 0 everywhere
        return int(np.flatnonzero(of >= most - (1 - KNEE) * abs(most))[0]) + 1

    return {
        "knee": knee(macro.values), "exact_knee": knee(macro.exact),
        "emergence_knee": knee(emergence.values), "exact_emergence_knee": knee(emergence.exact),
        "shots": len(macro.values) // 2,
    }  # fmt: skip


def _apart(curves: Sequence[dict[str, Any]]) -> float:
    """Return how far shuffled weights lie from the exact macro at most, in bits."""
    rows = [row for row in curves if row["run"] != "model" and row["quantity"] == "macro"]
    return max((abs(row["value"] - row["exact"]) for row in rows), default=math.nan)


def _blocks_above(result: EmergenceResult) -> tuple[int, int]:
    """Return in how many of the blocks 1 and up emergence at the last position is surely above 0."""
    rows = [i for i, layer in enumerate(result.layers) if layer > 0]
    sure = result.emergence[rows, -1] > 1.96 * result.stderr[rows, -1]
    return int(sure.sum()), len(rows)


def _reach(positions: int, passed: int) -> int:
    """Return the shot up to which there is something to rise to: the crossing, and shot 3 at least."""
    return max(3, min(passed, positions // 2))


def _rises_at_separators(result: EmergenceResult, passed: int) -> tuple[int, int, int, int]:
    """Return at how many separators emergence and macro surely rise, exact emergence rises, of how many."""
    places = [2 * shot - 1 for shot in range(1, _reach(len(result.positions), passed) + 1)]
    emergence, macro = curve(result), curve(result, "macro")
    rises = [[of.rise(t) for t in places] for of in (emergence, macro)]
    sure = [sum(change - 1.96 * error > 0 for change, error in of) for of in rises]
    exact = sum(emergence.exact[t] - emergence.exact[t - 1] > 1e-9 for t in places)
    return sure[0], sure[1], int(exact), len(places)


def _findings(where: str, result: EmergenceResult, passed: int) -> Iterator[Finding]:
    emergence, macro = curve(result), curve(result, "macro")
    last = len(emergence.values) - 1
    above, blocks = _blocks_above(result)
    yield with_error(
        "positive", where,
        f"emergence at the last separator, mean over blocks (above 0 in {above} of {blocks})",
        float(emergence.values[last]), float(emergence.stderr[last]),
    )  # fmt: skip
    starts = [(1, "from the separator of shot 1")]
    if 2 * passed + 1 < last:  # beyond the crossing there is something left to look at
        starts.append((2 * passed + 1, f"past log2 N, from the separator of the shot after, {passed + 1},"))
    for first, what in starts:
        change = float(emergence.values[last] - emergence.values[first])
        exact = float(emergence.exact[last] - emergence.exact[first])
        yield with_error(
            "positive",
            where,
            f"change of emergence {what} to the last (exact: {exact:+.2f})",
            change,
            float(np.hypot(emergence.stderr[last], emergence.stderr[first])),
        )
    exact = float(emergence.exact[1] - emergence.exact[0])
    yield with_error(
        "staircase", where, f"rise of emergence at the separator of shot 1 (exact: {exact:+.2f})",
        *emergence.rise(1),
    )  # fmt: skip
    reach = range(2, _reach(last + 1, passed) + 1)  # the first entity has nothing before it to rise from
    for quantity, of in (("macro", macro), ("emergence", emergence)):
        for what, places in (
            ("at a new entity", [2 * shot - 2 for shot in reach]),
            ("at the separator after it", [2 * shot - 1 for shot in reach]),
        ):
            rises = [of.rise(t) for t in places]
            exact = float(np.mean([of.exact[t] - of.exact[t - 1] for t in places]))
            yield with_error(
                "staircase",
                where,
                f"mean rise of {quantity} {what}, shots {reach.start} to {reach[-1]} (exact: {exact:+.2f})",
                float(np.mean([change for change, _ in rises])),
                float(np.mean([error for _, error in rises])),
            )

    flat = _flat_from(macro)
    if 2 * flat - 1 <= last:
        shots = range(flat, (last + 1) // 2 + 1)
        for what, shift in (("at a new entity", 2), ("at the separator after it", 1)):
            rises = [macro.rise(2 * shot - shift) for shot in shots]
            yield with_error(
                "staircase", where,
                f"later rise of macro {what}, shots {flat} to {shots[-1]}, where exact macro is flat",
                float(np.mean([change for change, _ in rises])),
                float(np.mean([error for _, error in rises])),
            )  # fmt: skip


def _flat_from(macro: Curve) -> int:
    """Return the first shot from which on exact macro rises at no entity by 0.01 bits."""
    rises = np.diff(macro.exact)[1::2]  # at the entities of shots 2, 3, ...
    steps = np.flatnonzero(rises >= 0.01)
    return int(steps[-1]) + 3 if len(steps) else 2


def _knee_finding(where: str, row: dict[str, Any]) -> Finding:
    passed = f"passed at shot {row['crossing']}" if row["crossing"] <= row["shots"] else "not passed"
    said = f"knee of macro (exact {row['exact_knee']}; log2 N is {passed})"
    return Finding("seventh shot", where, said, float(row["knee"]), unit="shots")


def _conclusions(
    findings: Sequence[Finding],
    knees: Sequence[dict[str, Any]],
    blocks: Sequence[tuple[int, int]],
    separators: Sequence[tuple[int, int, int, int]],
    apart: float,
) -> Iterator[Conclusion]:
    positive = [one for one in findings if one.claim == "positive"]
    last = [one for one in positive if one.what.startswith("emergence")]
    grown = [one for one in positive if one.what.startswith("change")]
    early = [one for one in grown if one.what.startswith("change of emergence from")]
    late = [one for one in grown if one.what.startswith("change of emergence past")]
    above, up, on = (sum(one.low > 0 for one in of) for of in (last, early, late))
    falls = sum(one.high < 0 for one in late)
    positive_blocks, of_blocks = (sum(counts) for counts in zip(*blocks, strict=True))
    whole = (above, up, on, positive_blocks) == (len(last), len(early), len(late), of_blocks)
    beyond = (
        f"Once the entropy of the list has passed log2 N it rises on in {on} of {len(late)} and falls in "
        f"{falls}."
        if late
        else "The entropy of the list passes log2 N nowhere before the last shot."
    )
    yield Conclusion(
        "positive",
        "holds" if whole else "holds partly" if above else "does not hold",
        f"the mean over blocks of emergence at the last separator is above 0 in {above} of {len(last)} "
        f"cells, emergence itself in {positive_blocks} of {of_blocks} blocks; the mean is above that at the "
        f"first separator in {up} of {len(early)}. {beyond}",
    )
    steps = [one for one in findings if "mean rise of" in one.what]
    entities = [one for one in steps if "emergence at a new entity" in one.what]
    falls_back = [one for one in steps if "macro at the separator" in one.what]
    cells, macro_falls = len(entities), sum(one.high < 0 for one in falls_back)
    rises, stays = sum(one.low > 0 for one in entities), sum(found[0] == 0 for found in separators)
    rising, macro_rising, exact_rising, places = (sum(of) for of in zip(*separators, strict=True))
    fallen = f" That macro falls at separators, in {macro_falls} of {cells} cells, does not follow."
    fallen = fallen if macro_falls else ""
    alone = (
        f"Shuffled weights, which have learned nothing, follow exact macro to within {apart:.2f} bits: up to "
        "where log2 N is used up, steps follow from the entropy of the prefix and from N alone, without any "
        f"training, and so does the end of the rise.{fallen}{_later(findings)}"
        if apart < FLAT
        else f"Shuffled weights lie up to {apart:.2f} bits from exact macro, so that steps are not shown to "
        "follow from the prompts alone."
    )
    yield Conclusion(
        "staircase",
        "holds"
        if rises == stays == cells
        else "holds partly"
        if rises and rising < places
        else "does not hold",
        f"emergence rises at new entities in {rises} of {cells} cells; it surely rises at {rising} of "
        f"{places} separators too, and at none in {stays} of the cells (macro: at {macro_rising}). Exact "
        f"macro rises at entities only, whatever the model; exact emergence at {exact_rising} of these "
        f"separators, where a token that alone carries nothing lowers the mean micro. {alone}",
    )
    trained = [row for row in knees if row["run"] == "model"]
    knee, of_emergence, exact = (
        sorted({row[name] for row in trained}) for name in ("knee", "emergence_knee", "exact_emergence_knee")
    )
    same, near = (sum(abs(r["knee"] - r["exact_knee"]) <= far for r in trained) for far in (0, 1))
    control = [row for row in knees if row["run"] != "model"]
    alike = sum(abs(row["knee"] - row["exact_knee"]) <= 1 for row in control)
    sizes = sorted({row["n"] for row in knees})
    of_7, shots = trained[0]["bits_of_7"], trained[0]["shots"]
    needed = (
        ""
        if math.isnan(of_7)
        else f" log2 N reaches 7 shots of {trained[0]['list']} at 2^{of_7:.0f} prompts."
    )
    verdict, of_exact = (
        _at_7([row[prefix + name] for row in trained for name in ("knee", "emergence_knee")])
        for prefix in ("", "exact_")
    )
    yield Conclusion(
        "seventh shot",
        "cannot be tested here" if shots < 8 else verdict,
        f"with N = {', '.join(f'{n:,}' for n in sizes)} and {shots} shots the knee of macro sits at shot "
        f"{_span(knee)}: that of the exact curve in {same} of {len(trained)} cells, within one shot of it in "
        f"{near} ({alike} of {len(control)} with shuffled weights); that of emergence at shot "
        f"{_span(of_emergence)} (exact: {_span(exact)}).{_moves(trained) if len(sizes) > 1 else ''}{needed}"
        f" The exact curves alone give the verdict {of_exact!r} at these N: the claim is judged as one of "
        "lists, whatever N.",
    )


def _at_7(knees: Sequence[int]) -> Verdict:
    there = [abs(knee - 7) <= 1 for knee in knees]
    return "holds" if all(there) else "holds partly" if any(there) else "does not hold"


def _later(findings: Sequence[Finding]) -> str:
    """Say what macro does at entities and separators where exact macro is flat."""
    later = [one for one in findings if one.what.startswith("later rise")]
    if not later:
        return ""
    entities, separators = ([one for one in later if of in one.what] for of in ("new entity", "separator"))
    low, high = (of(one.value for one in entities) for of in (min, max))
    rising = sum(one.low > 0 for one in entities)
    own = (
        " Those steps are the model's: a separator carries less of the list than an entity." if rising else ""
    )
    return (
        f" Beyond, exact macro is flat: the model's rises at entities in {rising} of {len(entities)} cells, "
        f"by {low:.2f} to {high:.2f} bits, and falls back at separators in "
        f"{sum(one.high < 0 for one in separators)}.{own}"
    )


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _moves(rows: Sequence[dict[str, Any]]) -> str:
    """Say whether knees move with N."""
    by_cell: dict[tuple[str, ...], list[tuple[int, int, int]]] = {}
    for row in rows:
        cell = (row["model"], row["list"], row["space"])
        by_cell.setdefault(cell, []).append((row["n"], row["knee"], row["exact_knee"]))
    later = sum(max(of)[1] > min(of)[1] for of in by_cell.values())
    exact = sum(max(of)[2] > min(of)[2] for of in by_cell.values())
    return (
        f" The knee of macro moves to a later shot with N in {later} of {len(by_cell)} (exact: in {exact})."
    )
