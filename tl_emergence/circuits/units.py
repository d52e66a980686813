"""Values of heads or blocks, one a prompt: what scores and effects have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from tl_emergence.checks import as_tensor, instance, integers, sequence, text
from tl_emergence.errors import SettingError, UnitError
from tl_emergence.results import EmergenceResult
from tl_emergence.torch_state import with_torch_defaults


@dataclass(frozen=True, eq=False)
class UnitValues:
    """One quantity of every unit (head or block), prompt by prompt.

    A score (the emergence that a head adds) and an effect (the loss that its ablation adds) have the same
    form, so that either may stand on either side of a correlation.

    Attributes:
        name: What was measured: "emergence change", "loss".
        values: One value a unit and prompt; the value of a unit is the mean over its prompts.
        labels: Labels of the units: "L9H3" for a head, "L9" for a block.
        layers: Block number of every unit.
        unit: Unit of the values.
        prompts: Content hash of the prompt set (`PromptSet.content_hash`), or "" where unknown. Values of one
            prompt set must have its prompts in the same order.
        change: Whether the values are changes after an ablation: edited minus clean.
        prompt_ids: One number per prompt, the same for copies of one prompt, which never stand on both sides
            of a split; None where nobody said which are copies.

    Raises:
        UnitError: Values that are not a matrix of at least one unit and prompt, or not all finite; labels or
            layers that do not fit them; a label twice.

    Example:
        >>> UnitValues("loss", torch.ones(2, 3), ("L0H0", "L0H1"), (0, 0))
        UnitValues(loss: 2 units x 3 prompts, bits)
    """

    name: str
    values: Float[Tensor, "unit prompt"]
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    unit: str = "bits"
    prompts: str = ""
    change: bool = False
    prompt_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        values = as_tensor(self.values)
        if values is None or values.dtype == torch.bool or values.is_complex():
            raise UnitError(
                f"{self.name!r} has no numbers",
                seen=type(self.values).__name__ if values is None else str(values.dtype),
                expected="a matrix [unit, prompt]: a tensor, a NumPy array or nested lists of numbers",
                fix="Pass one value for every unit and prompt.",
            )
        # Lists and arrays become a tensor and tuples: what is compared later must be of one type.
        kept = isinstance(self.values, Tensor) and values.dtype in (torch.float32, torch.float64)
        object.__setattr__(self, "values", self.values if kept else values.double())
        labels = tuple(text("a label", label) for label in sequence("labels", self.labels, "texts"))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "layers", integers("layer", self.layers))
        for name in ("name", "unit", "prompts"):
            object.__setattr__(self, name, text(name, getattr(self, name)))
        if self.values.ndim != 2 or 0 in self.values.shape:
            raise UnitError(
                f"{self.name!r} has the wrong shape",
                seen=tuple(self.values.shape),
                expected="a matrix [unit, prompt] with at least one of each",
                fix="Pass one value for every unit and prompt, not their mean.",
            )
        if len(self.labels) != len(self.values) or len(self.layers) != len(self.values):
            raise UnitError(
                f"labels of {self.name!r} do not fit its values",
                seen=f"{len(self.labels)} labels and {len(self.layers)} layers for {len(self.values)} units",
                expected="one label and one layer a unit",
                fix="Pass them in the order of the rows.",
            )
        if len(set(self.labels)) != len(self.labels):
            twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
            raise UnitError(
                f"labels of {self.name!r} are not distinct",
                seen=f"{twice} more than once",
                expected="every unit once",
                fix="Name each unit, as in L9H3.",
            )
        if self.prompt_ids is not None and len(self.prompt_ids) != self.n_prompts:
            raise UnitError(
                f"prompt_ids of {self.name!r} do not fit its values",
                seen=f"{len(self.prompt_ids)} for {self.n_prompts} prompts",
                expected="one number per prompt",
                fix="Pass them in the order of the columns, or leave them out.",
            )
        self._check_finite()

    def _check_finite(self) -> None:
        wrong = ~torch.isfinite(self.values).all(dim=1)
        if wrong.any():
            names = [label for label, bad in zip(self.labels, wrong.tolist(), strict=True) if bad]
            more = "" if len(names) <= 5 else f" and {len(names) - 5} more"
            raise UnitError(
                f"{self.name!r} is not finite",
                seen=f"NaN or infinity in {', '.join(names[:5])}{more}",
                expected="finite values",
                fix="Leave out the units that were not ablated: values[kept], and their labels and layers.",
            )

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return self.values.shape[1]

    def select(self, labels: Sequence[str]) -> UnitValues:
        """Return some of the units, in the order asked for.

        Raises:
            UnitError: A label that no unit has.

        Example:
            >>> both = UnitValues("loss", torch.tensor([[1.0, 2.0], [3.0, 4.0]]), ("L0", "L1"), (0, 1))
            >>> both.select(["L1"]).values.tolist()
            [[3.0, 4.0]]
        """
        labels = sequence("labels", labels, "names")
        missing = [label for label in labels if label not in self.labels]
        if missing:
            raise UnitError(
                f"{self.name!r} lacks units",
                seen=missing,
                expected=f"some of {list(self.labels)}",
                fix="Choose among these.",
            )
        rows = [self.labels.index(label) for label in labels]
        layers = tuple(self.layers[row] for row in rows)
        return replace(self, values=self.values[rows], labels=tuple(labels), layers=layers)

    def __repr__(self) -> str:
        n_units, n_prompts = self.values.shape
        return f"UnitValues({self.name}: {n_units} units x {n_prompts:,} prompts, {self.unit})"


def ids_of_copies(settings: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the numbers of the distinct prompts that a result keeps where its set holds copies."""
    ids = settings.get("prompt_ids")
    return None if ids is None else tuple(ids)


@with_torch_defaults
def block_values(result: EmergenceResult, *, positions: Sequence[int] = (-1,)) -> UnitValues:
    """Return the emergence of every measured block, prompt by prompt.

    e[l,i] = mean over the chosen t of ( macro[l,t,i] - mean(micro[l,0..t,i]) )

    with the pointwise values of the estimator, whose mean over the prompts i is `result.emergence` (arXiv
    2405.12617, equation 3). The estimator is held fixed: resampling these values never estimates again, which
    on duplicated rows would bias the information down.

    Args:
        result: A result whose estimator gives pointwise values: noise, nce or vinfo.
        positions: Content positions to average over; -1 is the last scored.

    Raises:
        UnitError: The estimator gives no pointwise values.
        SettingError: No position, one that was not measured, or (with micro run alone) one without all
            positions before it.

    Cost: one pass over the pointwise values.

    Example:
        >>> result = information_emergence(model, tokens, space="unit")
        >>> values = block_values(result)
        >>> values
        UnitValues(emergence: 2 units x 8 prompts, bits)
        >>> bool(torch.allclose(values.values.mean(dim=1), result.emergence[:, -1].float(), atol=1e-4))
        True
    """
    instance("a result", result, EmergenceResult, "Pass one result: of a sweep, sweep[sigma].")
    macro, micro = result.macro_pointwise, result.micro_pointwise
    if macro is None or micro is None:
        raise UnitError(
            "no value for each prompt",
            seen=f"a result of the estimator {result.estimator!r}, which has no pointwise values",
            expected="an estimator that has them: noise, nce or vinfo",
            fix="Measure with estimator='noise'.",
        )
    wanted = integers("position", positions)
    if not wanted:
        raise SettingError("no position", seen="none", expected="one or more", fix="Pass positions=[-1].")
    parts = [_emergence_at(result, macro, micro, position) for position in wanted]
    return UnitValues(
        name="emergence",
        values=torch.stack(parts).mean(dim=0),
        labels=tuple(f"L{layer}" for layer in result.layers),
        layers=result.layers,
        unit="bits",
        prompts=str(result.settings.get("prompts_hash", "")),
        prompt_ids=ids_of_copies(result.settings),
    )


def _emergence_at(
    result: EmergenceResult,
    macro: Float[Tensor, "layer pos prompt"],
    micro: Float[Tensor, "layer pos prompt"],
    position: int,
) -> Float[Tensor, "layer prompt"]:
    t = result.positions[-1] if position == -1 else position
    # With micro="first" every column already holds the micro of the first position.
    before = range(t) if result.settings.get("micro", "alone") == "alone" else ()
    needed = (*before, t)
    missing = [s for s in needed if s not in result.positions]
    if missing:
        raise SettingError(
            "position not measured",
            seen=f"position {t} of a result without {missing}",
            expected="that position and every one before it, whose micro it subtracts",
            fix="Measure without positions=, or with all of them up to this one.",
        )
    columns = [result.positions.index(s) for s in needed]
    return macro[:, result.positions.index(t)] - micro[:, columns].mean(dim=1)


@with_torch_defaults
def block_means(heads: UnitValues) -> UnitValues:
    """Return the mean over the heads of each block, prompt by prompt, to set beside scores of blocks.

    The mean and not the sum, so that blocks in which some heads were left out stay comparable. The sum of
    single-head effects is not the effect of ablating the whole block.

    Args:
        heads: Values of heads.

    Cost: one pass over the values.

    Example:
        >>> loss = torch.tensor([[1.0], [3.0], [5.0]])
        >>> heads = UnitValues("loss", loss, ("L0H0", "L0H1", "L1H0"), (0, 0, 1))
        >>> block_means(heads).values.tolist(), block_means(heads).labels
        ([[2.0], [5.0]], ('L0', 'L1'))
    """
    instance("values of heads", heads, UnitValues, "Pass effects.values(metric).")
    layers = tuple(sorted(set(heads.layers)))
    rows = [[row for row, own in enumerate(heads.layers) if own == layer] for layer in layers]
    means = [reduce(heads.values[chosen], "head prompt -> prompt", "mean") for chosen in rows]
    labels = tuple(f"L{layer}" for layer in layers)
    return replace(heads, values=torch.stack(means), labels=labels, layers=layers)
