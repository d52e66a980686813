"""The parts of a transformer that can be ablated, one at a time: heads, MLPs, whole blocks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.edited import Edit
from tl_emergence.checks import integer, is_truth_value, sequence
from tl_emergence.errors import HookError, SettingError

Kind = Literal["head", "mlp", "block"]
HeadName = str | tuple[int, int]
"""A head: "L9H3", or (9, 3)."""

_HEAD = re.compile(r"L(\d+)H(\d+)")


@dataclass(frozen=True, order=True)
class Component:
    """One part of a model: what it adds to the residual stream is what an ablation replaces.

    Attributes:
        kind: "head" (its output at `hook_z`), "mlp" (`hook_mlp_out`) or "block" (all that a block adds).
        layer: The block.
        head: The query head; 0 for the other kinds.
    """

    kind: Kind
    layer: int
    head: int = 0

    @property
    def label(self) -> str:
        """`L9H3`, `L9MLP` or `L9`."""
        return f"L{self.layer}" + {"head": f"H{self.head}", "mlp": "MLP", "block": ""}[self.kind]


def head_components(model: Any, heads: Sequence[HeadName] | None) -> tuple[Component, ...]:
    """Return the heads named, in order of layer and head; all for None.

    Raises:
        SettingError: A head that the model does not have, or no head at all.
    """
    layers, n_heads = compat.n_layers(model), compat.n_heads(model)
    if heads is None:
        return tuple(Component("head", i, j) for i in range(layers) for j in range(n_heads))
    found = set()
    for name in [heads] if isinstance(heads, str) else sequence("heads", heads, "names such as 'L9H3'"):
        match = _HEAD.fullmatch(name) if isinstance(name, str) else None
        layer, head = (int(match[1]), int(match[2])) if match else _two_numbers(name)
        if not (0 <= layer < layers and 0 <= head < n_heads):
            raise SettingError(
                "no such head",
                seen=repr(name),
                expected=f"L0H0 to L{layers - 1}H{n_heads - 1}",
                fix="Name query heads: with grouped-query attention there are more of them than key heads.",
            )
        found.add(Component("head", layer, head))
    if not found:
        raise SettingError(
            "no head to ablate", seen="an empty list", expected="heads", fix="Leave heads= away for all."
        )
    return tuple(sorted(found))


def _two_numbers(name: HeadName) -> tuple[int, int]:
    if isinstance(name, tuple) and len(name) == 2 and not any(map(is_truth_value, name)):
        return integer("block", name[0]), integer("head", name[1])
    raise SettingError(
        "not the name of a head", seen=repr(name), expected="'L9H3' or (9, 3)", fix="Write layer and head."
    )


def activation_of(kind: Kind, model: Any, layer: int, keep: Callable[[Tensor], None]) -> list[Edit]:
    """Return hooks that hand on what components of a kind put out at a layer, and change nothing.

    [batch, pos, head, d_head] for heads; [batch, pos, d_model] for the others.
    """

    def kept(tensor: Tensor) -> Tensor:
        keep(tensor)
        return tensor

    if kind == "head":
        return [(compat.head_hook(layer), kept)]
    if kind == "mlp":
        return [(compat.mlp_hook(layer), kept)]
    entering, leaving = compat.block_hooks(model, layer)
    before: list[Tensor] = []

    def enter(tensor: Tensor) -> Tensor:
        before.append(tensor)
        return tensor

    def leave(tensor: Tensor) -> Tensor:
        keep(tensor - before.pop())
        return tensor

    return [(entering, enter), (leaving, leave)]


def replaced(
    component: Component, model: Any, at: Sequence[int], value: Float[Tensor, "#batch #place _"]
) -> list[Edit]:
    """Return the edit that puts `value` in place of what a component puts out, at some input positions."""
    places = list(at)
    if component.kind == "head":

        def head(z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
            z = z.clone()
            z[:, places, component.head] = value.to(z)
            return z

        return [(compat.head_hook(component.layer), head)]
    if component.kind == "mlp":

        def mlp(written: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
            written = written.clone()
            written[:, places] = value.to(written)
            return written

        return [(compat.mlp_hook(component.layer), mlp)]
    entering, leaving = compat.block_hooks(model, component.layer)
    before: list[Tensor] = []

    def enter(stream: Tensor) -> Tensor:
        before.append(stream[:, places])
        return stream

    def leave(stream: Tensor) -> Tensor:
        stream = stream.clone()
        stream[:, places] = before.pop() + value.to(stream)
        return stream

    return [(entering, enter), (leaving, leave)]


def check_hooks(model: Any, components: Sequence[Component]) -> None:
    """Raise HookError where the model lacks the hook of a component."""
    for component in components:
        names = {
            "head": (compat.head_hook(component.layer),),
            "mlp": (compat.mlp_hook(component.layer),),
            "block": compat.block_hooks(model, component.layer),
        }[component.kind]
        missing = [name for name in names if name not in model.hook_dict]
        if missing:
            raise HookError(
                f"{component.label} has no output to read or to replace",
                seen=f"no {missing[0]}",
                expected="the hook of its output",
                fix="Attention-only models have no MLPs, and some blocks of hybrid models no heads: name the "
                "parts that there are, or take whole blocks. Otherwise report it with the model's name.",
            )


def check_output(component: Component, model: Any, seen: Tensor) -> None:
    """Raise HookError where a head's output does not have one slot a query head."""
    if component.kind == "head" and (seen.ndim != 4 or seen.shape[2] != compat.n_heads(model)):
        raise HookError(
            f"{compat.head_hook(component.layer)} has the wrong shape",
            seen=tuple(seen.shape),
            expected=f"[batch, pos, head, d_head] with {compat.n_heads(model)} heads",
            fix="This architecture's heads cannot be told apart; report it with the model's name.",
        )


def zeros() -> Float[Tensor, "1 1 1"]:
    """Return what the zero ablation puts in place of an output."""
    return torch.zeros(1, 1, 1)
