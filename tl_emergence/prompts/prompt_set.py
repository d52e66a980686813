"""The prompt set: content tokens of equal length, and what is known about how they were drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_emergence.checks import as_tensor, integer, integers, is_truth_value, sequence, text
from tl_emergence.errors import SettingError, TokenError
from tl_emergence.torch_state import with_torch_defaults

_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Population:
    """What is known of the population that a prompt set was drawn from.

    Attributes:
        size: Number of prompts in the population; all are equally likely.
        prefix_bits: Entropy of the prefix s_0..s_t of a random prompt, in bits, for each position t.
        token_bits: Entropy of the token s_t alone, in bits, for each position t.
    """

    size: int
    prefix_bits: Float[Tensor, " pos"]
    token_bits: Float[Tensor, " pos"]


@dataclass(frozen=True, eq=False)
class PromptSet:
    """N prompts of T content tokens each, without BOS (BOS is added, alike for all, when a model runs).

    Made by `demonstrations`, `sentences` and `from_tokens`; the constructor checks nothing.

    Attributes:
        tokens: Content tokens, on the CPU; a copy, never the caller's tensor.
        labels: One short label a position, for axes and tables.
        name: What the set is, in a few words.
        population: The population, where it is known in closed form.
        details: How the set was made (lists, shots, seed, ...): JSON values only.
        masked: Whether an attention mask said which tokens count, so that none of those kept is padding.
    """

    tokens: Int[Tensor, "prompt pos"]
    labels: tuple[str, ...]
    name: str
    population: Population | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    masked: bool = False

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def n_positions(self) -> int:
        """Number of content tokens in each prompt, T."""
        return self.tokens.shape[1]

    @property
    def constant(self) -> Bool[Tensor, " pos"]:
        """Which positions hold the same token in every prompt (a separator, say)."""
        return (self.tokens == self.tokens[:1]).all(dim=0)

    @property
    def prompt_ids(self) -> tuple[int, ...] | None:
        """A number per prompt, the same for copies of one prompt; None where all prompts are distinct."""
        distinct, ids = torch.unique(self.tokens, dim=0, return_inverse=True)
        return None if len(distinct) == len(self) else tuple(ids.tolist())

    def described_copies(self) -> dict[str, Any]:
        """Return `prompt_ids` as a setting to keep with a result; empty where all prompts are distinct."""
        return {} if self.prompt_ids is None else {"prompt_ids": list(self.prompt_ids)}

    @property
    def enumerates_population(self) -> bool:
        """Whether the set holds every prompt of its population exactly once."""
        return self.population is not None and self.population.size == len(self)

    @property
    def content_hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of shape and tokens, row order included."""
        digest = hashlib.sha256(repr(tuple(self.tokens.shape)).encode())
        digest.update(self.tokens.numpy().tobytes())
        return digest.hexdigest()[:16]

    def take(self, rows: slice | Sequence[int] | Sequence[bool]) -> PromptSet:
        """Return some of the prompts, as a set of its own: disjoint sets, or a reference that is held out.

        Args:
            rows: A slice, the numbers of the rows in the order wanted, or a boolean mask with one truth value
                per prompt. Lists, tuples, NumPy arrays and tensors are taken alike.

        Raises:
            TokenError: Fewer than two prompts, or one that is not there.
            SettingError: Rows that are neither a slice, whole numbers nor a mask of the right length.

        Example:
            >>> import torch
            >>> both = from_tokens(torch.tensor([[5, 7], [6, 7], [5, 8], [6, 8]]))
            >>> both.take(slice(2)), both.take([3, 2]).tokens.tolist()
            (PromptSet('tokens', 2 prompts x 2 tokens), [[6, 8], [5, 8]])
        """
        chosen = list(self._row_numbers(rows))
        missing = [row for row in chosen if not -len(self) <= row < len(self)]
        if missing:
            raise TokenError(
                "no such prompt",
                seen=missing[:5],
                expected=f"rows below {len(self)}",
                fix="Draw more prompts, or take fewer.",
            )
        tokens = self.tokens[chosen].clone()
        return replace(self, tokens=_checked_tokens(tokens))

    def _row_numbers(self, rows: Any) -> Sequence[int]:
        if isinstance(rows, slice):
            bounds = [bound for bound in (rows.start, rows.stop, rows.step) if bound is not None]
            for bound in bounds:
                integer("a bound of the slice", bound)
            if rows.step is not None and integer("step of the slice", rows.step) == 0:
                raise SettingError(
                    "step of the slice is 0", seen=rows, expected="another number", fix="Leave it out."
                )
            return range(len(self))[rows]
        if isinstance(rows, int) or getattr(rows, "ndim", None) == 0:
            raise SettingError(
                "rows is one number",
                seen=repr(rows),
                expected="a slice, a list of row numbers or a boolean mask",
                fix=f"Pass slice({rows}) for the first {rows} prompts, or [{rows}, ...] for single rows."
                if not is_truth_value(rows)
                else "Pass one truth value per prompt.",
            )
        return integers("row", rows, count=len(self)) or ()

    def __repr__(self) -> str:
        known = f", population {self.population.size:,}" if self.population else ""
        return f"PromptSet({self.name!r}, {len(self):,} prompts x {self.n_positions} tokens{known})"


@with_torch_defaults
def from_tokens(
    tokens: Int[Tensor, "prompt pos"],
    *,
    attention_mask: Int[Tensor, "prompt pos"] | Bool[Tensor, "prompt pos"] | None = None,
    labels: Sequence[str] | None = None,
    name: str = "tokens",
    details: Mapping[str, Any] | None = None,
) -> PromptSet:
    """Make a prompt set from token ids that you already have.

    Args:
        tokens: Content tokens: no BOS (a run adds it), no padding unless `attention_mask` marks it.
        attention_mask: 1 where a token counts, 0 where it is padding. Padding is dropped before anything
            is computed; every prompt must keep the same number of tokens.
        labels: One label a position; the position numbers otherwise.
        name: What the set is, in a few words.
        details: How the set was made; kept with every result.

    Raises:
        TokenError: Wrong rank or dtype, fewer than two prompts, no position, negative ids, a mask of
            another shape, prompts of unequal length once the padding is gone, labels that do not fit.

    Example:
        >>> import torch
        >>> from_tokens(torch.tensor([[5, 7], [6, 7], [5, 8]]))
        PromptSet('tokens', 3 prompts x 2 tokens)
    """
    kept = _checked_tokens(tokens).to(torch.int64)
    if attention_mask is not None:
        kept = _drop_padding(kept, attention_mask)
    kept = kept.clone(memory_format=torch.contiguous_format)
    names = tuple(str(t) for t in range(kept.shape[1])) if labels is None else _checked_labels(labels)
    if len(names) != kept.shape[1]:
        raise TokenError(
            "labels do not fit the prompts",
            seen=f"{len(names)} labels for {kept.shape[1]} positions",
            expected="one label a position",
            fix="Pass one label for each content token, or none.",
        )
    return PromptSet(
        kept, names, text("name", name), None, _plain_details(details), attention_mask is not None
    )


def as_prompt_set(prompts: PromptSet | Int[Tensor, "prompt pos"]) -> PromptSet:
    """Return a prompt set as it is, and one of content tokens [prompt, pos].

    Raises:
        TokenError: Neither; tokens that are no prompt set (see `from_tokens`).

    Example:
        >>> import torch
        >>> as_prompt_set(torch.tensor([[5, 7], [6, 7]]))
        PromptSet('tokens', 2 prompts x 2 tokens)
    """
    return prompts if isinstance(prompts, PromptSet) else from_tokens(prompts)


def _checked_labels(labels: Any) -> tuple[str, ...]:
    return tuple(text("a label", label) for label in sequence("labels", labels, "texts"))


def _plain_details(details: Mapping[str, Any] | None) -> dict[str, Any]:
    if details is not None and not isinstance(details, Mapping):
        raise TokenError(
            "details are not a mapping",
            seen=type(details).__name__,
            expected="a dictionary of JSON values",
            fix="Pass details={'source': ...}.",
        )
    try:
        plain = json.dumps(dict(details or {}), allow_nan=False)
        plain.encode()
        return json.loads(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise TokenError(
            "details that cannot be saved",
            seen=str(error),
            expected="JSON values only: they are kept with every result",
            fix="Convert arrays and tensors: .tolist(), .item().",
        ) from error


def _checked_tokens(tokens: Tensor) -> Int[Tensor, "prompt pos"]:
    """Return token ids on the CPU."""
    if not isinstance(tokens, Tensor):
        raise TokenError(
            "tokens are not a tensor",
            seen=type(tokens).__name__,
            expected="an integer tensor [prompt, pos]",
            fix="Tokenise first, to one tensor of token ids without BOS: torch.tensor(rows). Texts go to "
            "prompts.sentences, words to prompts.demonstrations.",
        )
    if tokens.dtype not in _INTEGERS:
        raise TokenError(
            "tokens have the wrong dtype",
            seen=str(tokens.dtype),
            expected="an integer dtype (token ids)",
            fix="Pass token ids, not embeddings or probabilities; use .long() if they are whole numbers.",
        )
    if tokens.ndim != 2 or tokens.shape[1] < 1:
        raise TokenError(
            "tokens have the wrong shape",
            seen=tuple(tokens.shape),
            expected="[prompt, pos], with at least one position",
            fix="Stack prompts of one length along the first dimension.",
        )
    if tokens.shape[0] < 2:
        raise TokenError(
            "too few prompts",
            seen=f"{tokens.shape[0]} prompt(s)",
            expected="at least 2: information is measured over a set",
            fix="Draw more prompts.",
        )
    on_cpu = as_tensor(tokens)
    if on_cpu is None:
        raise TokenError(
            "tokens cannot be read",
            seen=f"a {tokens.layout} tensor on the device {tokens.device}",
            expected="a tensor that holds values, strided or sparse",
            fix="Pass the token ids themselves.",
        )
    tokens = on_cpu
    if int(tokens.min()) < 0:
        raise TokenError(
            "negative token ids",
            seen=int(tokens.min()),
            expected="ids from 0 up",
            fix="Mask padding with attention_mask instead of marking it by negative ids.",
        )
    return tokens


def _drop_padding(tokens: Tensor, attention_mask: Any) -> Tensor:
    mask = checked_mask(attention_mask)
    if mask.shape != tokens.shape:
        raise TokenError(
            "attention_mask does not fit the tokens",
            seen=f"{tuple(mask.shape)} for tokens {tuple(tokens.shape)}",
            expected="one entry for each token",
            fix="Pass the mask that your tokenizer returned with these tokens.",
        )
    lengths = mask.sum(dim=1)
    if int(lengths.min()) != int(lengths.max()) or int(lengths.min()) == 0:
        raise TokenError(
            "prompts of unequal length",
            seen=f"between {int(lengths.min())} and {int(lengths.max())} tokens under the mask",
            expected="one length for all: emergence compares prompts position by position",
            fix="Group the prompts by length, or cut a window of one length (prompts.sentences does).",
        )
    return tokens[mask].view(tokens.shape[0], -1)


def checked_mask(attention_mask: Any) -> Bool[Tensor, "prompt pos"]:
    """Return an attention mask of zeros and ones, or of truth values, as booleans on the CPU.

    Tensors, NumPy arrays and lists are taken alike.

    Raises:
        TokenError: Not a matrix, or an entry that is neither 0 nor 1 (NaN would count as true).

    Example:
        >>> checked_mask([[1, 1, 0]])
        tensor([[ True,  True, False]])
    """
    mask = as_tensor(attention_mask)
    if mask is None or mask.ndim != 2:
        raise TokenError(
            "attention_mask does not fit the tokens",
            seen=type(attention_mask).__name__ if mask is None else f"shape {tuple(mask.shape)}",
            expected="a matrix [prompt, pos]",
            fix="Pass the mask that your tokenizer returned with these tokens.",
        )
    if mask.dtype == torch.bool:
        return mask
    wrong = mask[~((mask == 0) | (mask == 1))]
    if len(wrong):
        raise TokenError(
            "attention_mask is not made of zeros and ones",
            seen=f"{wrong[0].item()} in {len(wrong)} place(s)",
            expected="1 where a token counts, 0 where it is padding",
            fix="Pass the mask that your tokenizer returned with these tokens.",
        )
    return mask == 1
