"""The oracle: the same checkpoints in plain transformers, edited with PyTorch's own hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.architectures.families import BOS, N_HEADS, N_LAYERS, Family

OFFSET = 1
"""BOS stands before the content, and is left alone."""


def with_bos(tokens: Tensor) -> Tensor:
    return torch.cat([torch.full_like(tokens[:, :1], BOS), tokens], dim=1)


@dataclass(frozen=True, repr=False)
class Plain:
    """A checkpoint in plain transformers, and its parts."""

    family: Family
    model: Any

    def block(self, layer: int) -> Any:
        return self.model.get_submodule(self.family.blocks)[layer]

    def projection(self, layer: int) -> Any:
        return self.block(layer).get_submodule(self.family.projection)

    def written(self, layer: int) -> Any:
        return self.block(layer).get_submodule(self.family.written)

    def norms(self) -> list[Any]:
        first = [self.block(layer).get_submodule(self.family.first_norm) for layer in range(N_LAYERS)]
        return [*first, self.model.get_submodule(self.family.final_norm)]

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(with_bos(tokens)).logits[:, OFFSET:].double()

    @torch.no_grad()
    def states(self, tokens: Tensor, offset: int = OFFSET) -> Tensor:
        """Return every h_l of transformers, the last before its norm: [state, prompt, pos, d_model]."""
        kept: list[Tensor] = []
        handle = self.block(N_LAYERS - 1).register_forward_hook(
            lambda module, args, output: kept.append(first(output).clone())
        )
        try:
            given = self.model(with_bos(tokens), output_hidden_states=True).hidden_states
        finally:
            handle.remove()
        return torch.stack([*given[:N_LAYERS], kept[0]])[:, :, offset:]

    @torch.no_grad()
    def patterns(self, tokens: Tensor) -> Tensor:
        """Return where heads look, [layer, prompt, head, query, key], BOS included."""
        return torch.stack(self.model(with_bos(tokens), output_attentions=True).attentions).double()

    @torch.no_grad()
    def outputs(self, kind: str, layer: int, tokens: Tensor) -> Tensor:
        """Return what heads (side by side), an MLP or a block put out at the content positions."""
        kept: list[Tensor] = []

        def keep(old: Tensor) -> Tensor:
            kept.append(old[:, OFFSET:].clone())
            return old

        with self.edited(kind, layer, keep):
            self.model(with_bos(tokens))
        return kept[0]

    @contextmanager
    def edited(self, kind: str, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Replace what goes into the output projection, what an MLP adds, or what a block adds."""
        entered: list[Tensor] = []

        def into(module: Any, args: tuple[Any, ...]) -> Any:
            return (change(args[0]), *args[1:])

        def enter(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            entered.append(args[0] if args else named["hidden_states"])

        def added(module: Any, args: tuple[Any, ...], output: Any) -> Any:
            before = entered.pop() if kind == "block" else torch.zeros(())
            new = before + change((first(output) - before).view(shape))
            new = new.view(first(output).shape)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        # OPT runs its MLP on all positions in one row in some versions: [batch * pos, d_model].
        shape: tuple[int, ...] = ()

        def note(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            nonlocal shape
            shape = tuple((args[0] if args else named["hidden_states"]).shape)

        handles = [self.block(layer).register_forward_pre_hook(note, with_kwargs=True)]
        if kind == "head":
            handles.append(self.projection(layer).register_forward_pre_hook(into))
        elif kind == "mlp":
            handles.append(self.written(layer).register_forward_hook(added))
        else:
            handles.append(self.block(layer).register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(self.block(layer).register_forward_hook(added))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def ablated_logits(
        self, kind: str, layer: int, head: int, tokens: Tensor, reference: Tensor | None
    ) -> Tensor:
        """Return the logits with a part replaced by zeros, or by its mean over the reference."""
        width = self.head_width(layer)
        columns = slice(head * width, (head + 1) * width) if kind == "head" else slice(None)
        value: Any = 0.0
        if reference is not None:
            value = self.outputs(kind, layer, reference)[..., columns].double().mean(dim=(0, 1)).float()

        def change(old: Tensor) -> Tensor:
            new = old.clone()
            new[:, OFFSET:, columns] = value
            return new

        with self.edited(kind, layer, change):
            return self.logits(tokens)

    def head_width(self, layer: int) -> int:
        """Return the numbers that a head hands to the output projection."""
        weight = self.projection(layer).weight
        # Conv1D keeps its weight the other way round.
        rows = weight.shape[0] if type(self.projection(layer)).__name__ == "Conv1D" else weight.shape[1]
        return rows // N_HEADS

    @torch.no_grad()
    def head_norms(self, tokens: Tensor) -> Tensor:
        """Return the mean size of what each head adds through the output projection, [layer, head]."""
        found = torch.zeros(N_LAYERS, N_HEADS, dtype=torch.float64)
        for layer in range(N_LAYERS):
            z, width = self.outputs("head", layer, tokens), self.head_width(layer)
            nothing = self.projection(layer)(torch.zeros_like(z))
            for head in range(N_HEADS):
                alone = torch.zeros_like(z)
                columns = slice(head * width, (head + 1) * width)
                alone[..., columns] = z[..., columns]
                found[layer, head] = (self.projection(layer)(alone) - nothing).double().norm(dim=-1).mean()
        return found


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return -log2 p of each next content token, the mean over a prompt."""
    log_p = logits[:, :-1].log_softmax(dim=-1)
    return -log_p.gather(-1, tokens[:, 1:, None])[..., 0].mean(dim=1) / math.log(2)


def kl(clean: Tensor, ablated: Tensor) -> Tensor:
    """Return the divergence in bits, the mean over the positions of a prompt."""
    p, q = clean.log_softmax(dim=-1), ablated.log_softmax(dim=-1)
    return (p.exp() * (p - q)).sum(dim=-1).mean(dim=1) / math.log(2)
