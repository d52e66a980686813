"""What an ablated component puts out instead: zero, a mean, or the output on another prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.capture.edited import run_edited
from tl_emergence.capture.forward import with_prefix
from tl_emergence.circuits.components import Component, activation_of, check_output, zeros
from tl_emergence.errors import SettingError, TokenError, unknown_name
from tl_emergence.estimators.interface import generator_for
from tl_emergence.prompts.prompt_set import PromptSet

AblationKind = Literal["zero", "mean", "mean_pos", "resample", "corrupt"]
KINDS: tuple[str, ...] = get_args(AblationKind)


@dataclass(frozen=True, eq=False)
class Reference:
    """The outputs that stand in for those of ablated components.

    Attributes:
        kind: The kind of ablation.
        outputs: For each layer, the outputs on the reference: [prompt, place, ...], or their mean over
            prompts [place, ...] or over prompts and places [...]. Empty for "zero".
        partners: For each draw, the row of the reference that stands in for each prompt; empty for means.
    """

    kind: AblationKind
    outputs: dict[int, Tensor]
    partners: Int[Tensor, "draw prompt"]

    @property
    def draws(self) -> int:
        """How often each ablation is run."""
        return max(1, len(self.partners))

    def value(self, component: Component, draw: int, rows: slice) -> Float[Tensor, "#batch #place _"]:
        """Return what a component puts out instead, for some prompts."""
        if self.kind == "zero":
            return zeros()
        outputs = self.outputs[component.layer]
        if component.kind == "head":
            outputs = outputs[..., component.head, :]
        if self.kind == "mean":
            return outputs[None, None]
        if self.kind == "mean_pos":
            return outputs[None]
        return outputs[self.partners[draw, rows]]


def check_reference(kind: str, prompts: PromptSet, reference: PromptSet | None) -> None:
    """Raise where a kind of ablation lacks its reference, or has one that it may not have.

    Raises:
        SettingError: An unknown kind; a reference missing, or given to "zero".
        TokenError: A reference of another length, one that shares prompts with the set, or a corrupted set
            without a partner for every prompt.
    """
    if kind not in KINDS:
        raise unknown_name("kind of ablation", kind, KINDS)
    if kind == "zero":
        if reference is not None:
            raise SettingError(
                "zero ablation takes no reference",
                seen=repr(reference),
                expected="reference=None",
                fix="Leave reference= away, or choose kind='mean'.",
            )
        return
    if reference is None:
        partner = "a set with a corrupted partner for each prompt, row by row"
        raise SettingError(
            f"{kind} ablation needs a reference",
            seen="reference=None",
            expected=partner if kind == "corrupt" else "prompts of the same kind that are not measured",
            fix="Draw more and split them: from_tokens(drawn.tokens[:n]), from_tokens(drawn.tokens[n:]).",
        )
    if reference.n_positions != prompts.n_positions:
        raise TokenError(
            "reference of another length",
            seen=f"{reference.n_positions} tokens a prompt",
            expected=f"{prompts.n_positions}, as in the prompts measured",
            fix="Make it as the prompts were made.",
        )
    if kind == "corrupt":
        _check_partners(prompts, reference)
        return
    own = set(map(tuple, prompts.tokens.tolist()))
    shared = sum(tuple(row) in own for row in reference.tokens.tolist())
    if shared:
        raise TokenError(
            "reference that overlaps the prompts",
            seen=f"{shared} of {len(reference)} reference prompts are among the {len(prompts)} measured",
            expected="held-out prompts: a mean over the prompts themselves knows them",
            fix="Split one set in two: from_tokens(drawn.tokens[:n]), from_tokens(drawn.tokens[n:]).",
        )


def _check_partners(prompts: PromptSet, reference: PromptSet) -> None:
    if len(reference) != len(prompts):
        raise TokenError(
            "prompts without a corrupted partner",
            seen=f"{len(reference)} corrupted for {len(prompts)} prompts",
            expected="one for each prompt, in the same order",
            fix="Corrupt every prompt once.",
        )
    same = int((prompts.tokens == reference.tokens).all(dim=1).sum())
    if same:
        raise TokenError(
            "prompts that are their own corrupted partner",
            seen=f"{same} of {len(prompts)} rows are the same in both",
            expected="another prompt in every row",
            fix="Corrupt them, or leave those rows out of both.",
        )


def gather_reference(
    model: Any,
    kind: AblationKind,
    components: Sequence[Component],
    places: Sequence[int],
    reference: PromptSet | None,
    *,
    n_prompts: int,
    bos: int | None,
    device: torch.device,
    batch_size: int,
    draws: int,
    seed: int,
) -> Reference:
    """Run the reference prompts once, and keep what the components put out at some input positions."""
    if reference is None:
        return Reference(kind, {}, torch.zeros(0, n_prompts, dtype=torch.long))
    partners = torch.zeros(0, n_prompts, dtype=torch.long)
    if kind == "corrupt":
        partners = torch.arange(n_prompts)[None]
    elif kind == "resample":
        generator = generator_for(seed, "resample")
        partners = torch.randint(len(reference), (draws, n_prompts), generator=generator, device="cpu")
    first = {component.layer: component for component in reversed(components)}
    sums: dict[int, Tensor] = {}
    rows: dict[int, list[Tensor]] = {layer: [] for layer in first}

    def keep(component: Component, output: Tensor) -> None:
        check_output(component, model, output)
        output = output[:, list(places)]
        if kind in ("mean", "mean_pos"):
            total = output.double().cpu().sum(dim=0)
            sums[component.layer] = sums.get(component.layer, torch.zeros_like(total)) + total
        else:
            rows[component.layer].append(output.float().cpu())

    last = max(first) + 1
    for batch in reference.tokens.split(batch_size):
        edits = [
            edit
            for layer, component in sorted(first.items())
            for edit in activation_of(component.kind, model, layer, lambda z, c=component: keep(c, z))
        ]
        run_edited(
            model,
            with_prefix(batch, bos).to(device),
            edits=edits,
            states=(last,),
            on_state=lambda state, stream: None,
        )
    if kind == "mean_pos":
        return Reference(kind, {k: (v / len(reference)).float() for k, v in sums.items()}, partners)
    if kind == "mean":
        return Reference(
            kind, {k: (v.mean(dim=0) / len(reference)).float() for k, v in sums.items()}, partners
        )
    return Reference(kind, {k: torch.cat(v) for k, v in rows.items()}, partners)
