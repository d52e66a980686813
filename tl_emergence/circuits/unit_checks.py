"""What `correlate` asks of scores, effects and baselines before it compares them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.circuits.units import UnitValues
from tl_emergence.errors import SettingError, UnitError

_LEAST_UNITS, _LEAST_PROMPTS = 4, 8


def are_blocks(values: UnitValues) -> bool:
    """Return whether every unit is a whole block, by its label."""
    return all(label == f"L{layer}" for label, layer in zip(values.labels, values.layers, strict=True))


def check_units(first: UnitValues, other: UnitValues) -> None:
    """Raise UnitError where two quantities are not of the same units, or of too few."""
    if (first.labels, first.layers) != (other.labels, other.layers):
        odd = sorted(set(first.labels) ^ set(other.labels))
        seen = f"{odd[:6]} in one only" if odd else "the same units in another order, or in other layers"
        raise UnitError(
            f"units of {other.name!r} are not those of {first.name!r}",
            seen=seen,
            expected="the same units in the same order",
            fix="Bring both to common labels: values.select(labels).",
        )
    n_units, n_prompts = other.values.shape
    if n_units < _LEAST_UNITS or n_prompts < _LEAST_PROMPTS:
        raise UnitError(
            f"too little of {other.name!r} to correlate",
            seen=f"{n_units} units, {n_prompts} prompts",
            expected=f"at least {_LEAST_UNITS} units and {_LEAST_PROMPTS} prompts",
            fix="Measure more of them.",
        )


def same_prompts(score: UnitValues, effect: UnitValues) -> bool:
    """Return whether prompt i of both is one prompt; without a hash, an equal number is taken to say so."""
    if score.prompts and effect.prompts and score.prompts != effect.prompts:
        return False
    if score.n_prompts == effect.n_prompts:
        return True
    if score.prompts and score.prompts == effect.prompts:
        raise UnitError(
            f"{score.name!r} and {effect.name!r} do not have one row per prompt",
            seen=f"{score.n_prompts} and {effect.n_prompts} values of the same prompt set",
            expected="the same prompts in the same order",
            fix="Measure both on all prompts of the set, or on two sets that share none.",
        )
    return False


def distinct_prompts(*sides: UnitValues) -> Int[np.ndarray, " prompt"]:
    """Return the number of the distinct prompt behind every column, from 0 up, of values of one prompt set.

    Copies of one prompt share a number, so that they stay on one side of every split. Where neither score
    nor effect says which prompts are copies (`UnitValues.prompt_ids`), columns that are equal bit for bit in
    all units of both are taken to be copies. One side alone is taken at its word.

    Args:
        sides: A score or an effect, or both where they are of the same prompts.

    Raises:
        UnitError: Fewer than 8 distinct prompts; two sides that differ about which prompts are copies.
    """
    stated = [side.prompt_ids for side in sides if side.prompt_ids is not None]
    if stated:
        numbers = [np.unique(np.asarray(ids), return_inverse=True)[1] for ids in stated]
        if len({tuple(_first_places(ids).tolist()) for ids in numbers}) > 1:
            raise UnitError(
                f"{sides[0].name!r} and {sides[-1].name!r} differ about which prompts are copies",
                seen="two patterns of prompt_ids for one prompt set",
                expected="the same prompts in the same order",
                fix="Give both the ids of the same prompt set.",
            )
        ids = numbers[0]
    elif len(sides) == 1:
        ids = np.arange(sides[0].n_prompts)
    else:
        columns = np.concatenate([side.values.detach().cpu().double().numpy() for side in sides])
        ids = np.unique(columns, axis=1, return_inverse=True)[1].reshape(-1)
    count = int(ids.max()) + 1
    if count < _LEAST_PROMPTS:
        raise UnitError(
            f"too few distinct prompts behind {sides[0].name!r}",
            seen=f"{count} distinct among {len(ids)} prompts",
            expected=f"at least {_LEAST_PROMPTS}: copies of a prompt add nothing",
            fix="Measure more prompts. If equal columns belong to different prompts, say so with "
            "UnitValues(prompt_ids=range(n)).",
        )
    return ids


def _first_places(ids: Int[np.ndarray, " prompt"]) -> Int[np.ndarray, " prompt"]:
    """Return, for every prompt, the place of the first one with its number: the pattern, not the names."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return first[inverse]


def within_layers_or_not(units: UnitValues, within: object) -> bool:
    """Return whether to compare within layers: as asked, or where any layer has several units.

    Raises:
        SettingError: Neither True, False nor None; within layers with one unit in every layer.
    """
    if within is not None and not isinstance(within, bool | np.bool_):
        raise SettingError(
            "within_layers is not a truth value", seen=repr(within), expected="True, False or None",
            fix="Leave it out: heads are then compared within layers, blocks over all.",
        )  # fmt: skip
    alone = len(set(units.layers)) == len(units.layers)
    if within and alone:
        raise SettingError(
            "nothing to compare within layers",
            seen="one unit in every layer",
            expected="a layer with several units",
            fix="Leave within_layers out for blocks.",
        )
    return not alone if within is None else bool(within)


def baseline_values(name: str, values: Any, units: UnitValues) -> Float[np.ndarray, " unit"]:
    """Return one value per unit of a baseline, from one per unit or from a map [layer, head] of all heads.

    Raises:
        UnitError: Values that are no numbers, do not fit the units, or are not finite.
    """
    try:
        found = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UnitError(
            f"baseline {name!r} is not numeric", seen=f"{type(values).__name__}: {error}",
            expected="numbers", fix="Pass a tensor or an array.",
        ) from error  # fmt: skip
    if found.ndim == 2:  # [layer, head], as `head_scores` gives them
        found = _of_heads(found, units)
    if found.shape != (len(units.labels),) or not np.isfinite(found).all():
        raise UnitError(
            f"baseline {name!r} does not fit the units",
            seen=f"shape {found.shape}" if found.shape != (len(units.labels),) else "NaN or infinity",
            expected=f"one finite value for each of {len(units.labels)} units",
            fix="Pass one value per unit, in the order of the labels, or [layer, head] of all heads.",
        )
    return found


def _of_heads(values: Float[np.ndarray, "layer head"], units: UnitValues) -> Float[np.ndarray, "..."]:
    """Return the units' values from a map of all heads, its means for blocks; the map itself if none fit."""
    if are_blocks(units):
        rows = [values[layer].mean() for layer in units.layers if layer < len(values)]
        return np.array(rows) if len(rows) == len(units.layers) else values
    places = [re.fullmatch(r"L(\d+)H(\d+)", label) for label in units.labels]
    at = [(int(match[1]), int(match[2])) for match in places if match]
    inside = all(layer < values.shape[0] and head < values.shape[1] for layer, head in at)
    return np.array([values[place] for place in at]) if inside and len(at) == len(places) else values
