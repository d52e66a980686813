"""What an ablation is judged by: loss, logit difference, KL, information and emergence, or any function."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

from tl_emergence.capture.checks import indices
from tl_emergence.capture.spaces import Space
from tl_emergence.checks import integer, integers, number
from tl_emergence.errors import SettingError, StateError, unknown_name
from tl_emergence.prompts.prompt_set import PromptSet
from tl_emergence.question import ask
from tl_emergence.torch_state import with_torch_defaults

_NATS = 1.4426950408889634


@dataclass(frozen=True)
class Batch:
    """Some prompts of the set, as a metric of logits sees them.

    Attributes:
        logits: Of the ablated model at the positions that the metric asked for.
        clean: Of the clean model there, where the metric needs it.
        tokens: The content tokens of the whole prompts.
        positions: The positions of the logits, in content tokens.
        rows: Which prompts they are.
    """

    logits: Float[Tensor, "batch kept vocabulary"]
    clean: Float[Tensor, "batch kept vocabulary"] | None
    tokens: Int[Tensor, "batch pos"]
    positions: tuple[int, ...]
    rows: slice


@dataclass(frozen=True)
class LogitMetric:
    """A number for each prompt, from the logits of one forward pass.

    Attributes:
        name: Its name in results.
        unit: What it is measured in.
        of: The number for each prompt of a batch.
        positions: Content positions whose logits it sees; None for all.
        needs_clean: Whether it sees the clean logits too. They are kept: prompts x positions x vocabulary
            numbers of four bytes.
        worse: Whether larger (1) or smaller (-1) values mean that the model does worse; 0 unknown.
        looks_ahead: Whether it needs the token after each position: the last position has none.
        fingerprint: What tells it from other metrics of its name, for runs that go on; empty where nothing
            does (a function of yours): then its clean values are compared.
        n_prompts: How many prompts it is for, where it knows.
    """

    name: str
    unit: str
    of: Callable[[Batch], Float[Tensor, " batch"]]
    positions: tuple[int, ...] | None = None
    needs_clean: bool = False
    worse: int = 0
    looks_ahead: bool = False
    fingerprint: str = ""
    n_prompts: int | None = None


@dataclass(frozen=True)
class InformationMetric:
    """Information that blocks carry at some positions, from the states of the same forward passes.

    The mean over layers l and positions t of the pointwise values of I(h_l^t ; h_{l+1}^t) over the prompts
    of the set, with the noise draws of the clean run: so a change is not one of draws. With `emergence` the
    mean of the tokens run alone is taken off the baseline. They run clean: ablating a head there is another
    question, and the change of emergence is the change of macro information.

    Attributes:
        name: Its name in results.
        layers: Blocks; negative numbers count from the end; None for the last one.
        positions: Content positions; negative numbers count from the end; None for the last one.
        space: Coordinates of the states; the model's default for None.
        sigma: Noise level.
        emergence: Whether the baseline is emergence, not macro information.
    """

    name: str
    layers: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    space: Space | None = None
    sigma: float = 0.5
    emergence: bool = True

    unit: str = field(default="bits", init=False)
    worse: int = field(default=-1, init=False)


Metric = LogitMetric | InformationMetric
Given = str | Metric | Callable[[Tensor, Tensor], Tensor] | Callable[[Tensor], Tensor]
"""A name, a metric, or a function of logits [batch, pos, vocabulary], alone or with content tokens."""


def next_token_loss(positions: Sequence[int] | None = None, *, name: str = "loss") -> LogitMetric:
    """Return -log2 p(s_{t+1} | s_0..s_t), the mean over positions t, in bits; all but the last by default.

    Example:
        >>> next_token_loss([1, 3]).positions
        (1, 3)
    """
    chosen = integers("position", positions)

    def of(batch: Batch) -> Float[Tensor, " batch"]:
        wanted = batch.tokens[:, torch.tensor(batch.positions) + 1].to(batch.logits.device)
        log_p = batch.logits.float().log_softmax(dim=-1)
        bits = -_NATS * log_p.gather(-1, wanted[..., None]).squeeze(-1)
        return reduce(bits, "batch pos -> batch", "mean")

    return LogitMetric(
        name,
        "bits",
        of,
        None if chosen is None else tuple(chosen),
        worse=1,
        looks_ahead=True,
        fingerprint="next-token loss",
    )


@with_torch_defaults
def logit_difference(
    right: Int[Tensor, " prompt"],
    wrong: Int[Tensor, " prompt"],
    *,
    position: int = -1,
    name: str = "logit_difference",
) -> LogitMetric:
    """Return the logit of the right token minus that of the wrong one, at one position.

    Raises:
        SettingError: Not one right and one wrong token a prompt.
    """
    seen = [_shape_and_type(tokens) for tokens in (right, wrong)]
    position = integer("position", position)
    if not all(map(_is_tokens, (right, wrong))) or right.shape != wrong.shape:
        raise SettingError(
            "tokens to compare do not fit",
            seen=f"{seen[0]} right and {seen[1]} wrong",
            expected="one of each for every prompt",
            fix="Pass two integer tensors [prompt].",
        )
    right, wrong = (tokens.detach().clone().cpu().long() for tokens in (right, wrong))
    digest = hashlib.sha256(torch.stack([right, wrong]).numpy().tobytes()).hexdigest()[:16]

    def of(batch: Batch) -> Float[Tensor, " batch"]:
        logits = batch.logits[:, 0]
        both = torch.cat([right, wrong])
        least, most = int(both.min()), int(both.max())
        if least < 0 or most >= logits.shape[1]:
            raise SettingError(
                "tokens to compare are not in the vocabulary",
                seen=f"ids {least} to {most}",
                expected=f"0 to {logits.shape[1] - 1}",
                fix="Take both from this model's tokenizer.",
            )
        pick = [logits.gather(1, t[batch.rows].to(logits.device)[:, None])[:, 0] for t in (right, wrong)]
        return pick[0] - pick[1]

    return LogitMetric(name, "logits", of, (position,), worse=-1, fingerprint=digest, n_prompts=len(right))


def _is_tokens(tokens: Any) -> bool:
    whole = isinstance(tokens, Tensor) and not tokens.is_floating_point() and tokens.dtype != torch.bool
    return whole and tokens.ndim == 1


def _shape_and_type(tokens: Any) -> str:
    return f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__


def kl_to_clean(positions: Sequence[int] = (-1,), *, name: str = "kl") -> LogitMetric:
    """Return KL(clean || ablated) of the next token, the mean over positions, in bits; 0 for the baseline.

    Raises:
        SettingError: Positions that are no sequence of whole numbers.
    """
    chosen = integers("position", positions)

    def of(batch: Batch) -> Float[Tensor, " batch"]:
        assert batch.clean is not None
        clean, ablated = (m.float().log_softmax(dim=-1) for m in (batch.clean, batch.logits))
        bits = _NATS * (clean.exp() * (clean - ablated)).sum(dim=-1)
        return reduce(bits, "batch pos -> batch", "mean")

    return LogitMetric(name, "bits", of, chosen, needs_clean=True, worse=1, fingerprint="kl")


def emergence_at(
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    *,
    space: Space | None = None,
    sigma: float = 0.5,
    name: str = "emergence",
) -> InformationMetric:
    """Return the emergence of chosen blocks and positions, their mean, at resolution sigma.

    Example:
        >>> emergence_at([9, 10], [7], space="unit", name="emergence unit").layers
        (9, 10)
    """
    return _information(layers, positions, space, sigma, name, True)


def information_at(
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    *,
    space: Space | None = None,
    sigma: float = 0.5,
    name: str = "information",
) -> InformationMetric:
    """Return the macro information of chosen blocks and positions, their mean, at resolution sigma."""
    return _information(layers, positions, space, sigma, name, False)


def _information(
    layers: Sequence[int] | None,
    positions: Sequence[int] | None,
    space: Space | None,
    sigma: float,
    name: str,
    emergence: bool,
) -> InformationMetric:
    where_l, where_t = integers("layer", layers), integers("position", positions)
    return InformationMetric(
        name=name,
        layers=None if where_l is None else tuple(where_l),
        positions=None if where_t is None else tuple(where_t),
        space=space,
        sigma=noise_level(sigma),
        emergence=emergence,
    )


def noise_level(sigma: Any) -> float:
    """Return sigma as a plain number that `noise` can work with.

    Raises:
        SettingError: No number, or out of range.
    """
    level = number("sigma", sigma)
    ask("noise", level, None, "alone", 0, {})
    return level


BY_NAME: Mapping[str, Callable[[], Metric]] = {
    "loss": next_token_loss,
    "kl": kl_to_clean,
    "emergence": emergence_at,
    "information": information_at,
}
"""Metrics that a name is enough for; `logit_difference` needs tokens."""


def named_metrics(given: Sequence[Given] | Mapping[str, Given] | Given) -> tuple[Metric, ...]:
    """Return metrics under distinct names, from names, metrics and functions.

    Raises:
        SettingError: No metric, an unknown name, the same name twice, something that cannot be called.
    """
    if isinstance(given, str | LogitMetric | InformationMetric) or callable(given):
        given = [given]
    if not isinstance(given, Iterable):
        raise SettingError(
            "no metric",
            seen=f"{given!r} ({type(given).__name__})",
            expected=f"{sorted(BY_NAME)} or others",
            fix="Name one.",
        )
    pairs = list(given.items()) if isinstance(given, Mapping) else [(None, metric) for metric in given]
    if not pairs:
        raise SettingError(
            "no metric", seen="an empty list", expected=f"{sorted(BY_NAME)} or others", fix="Name one."
        )
    metrics = [_metric(name, metric) for name, metric in pairs]
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise SettingError(
            "two metrics of one name",
            seen=names,
            expected="names that differ",
            fix="Pass name=, or a mapping from names to metrics.",
        )
    return tuple(metrics)


def _metric(name: str | None, given: Given) -> Metric:
    if isinstance(given, str):
        if given not in BY_NAME:
            raise unknown_name("metric", given, sorted(BY_NAME))
        given = BY_NAME[given]()
    if isinstance(given, LogitMetric | InformationMetric):
        return given if name is None else replace(given, name=name)
    if not callable(given):
        raise SettingError(
            "not a metric",
            seen=type(given).__name__,
            expected="a name, a metric, or a function of logits and tokens",
            fix="See tl_emergence.circuits.metrics.",
        )
    title = name or getattr(given, "__name__", "metric")
    function: Callable[..., Any] = given
    takes = _arguments(function, title)
    return LogitMetric(title, "", lambda batch: function(*(batch.logits, batch.tokens)[:takes]))


def _arguments(function: Callable[..., Any], title: str) -> int:
    """Return how many arguments a function takes: logits and tokens (2), or logits alone (1).

    Raises:
        SettingError: It can be called with neither.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in functions do not always tell
        return 2
    for count in (2, 1):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count
    raise SettingError(
        f"metric {title!r} has the wrong signature",
        seen=f"{title}{signature}",
        expected="a function of logits, or of logits and content tokens",
        fix="Bind its other arguments first, for instance with functools.partial.",
    )


def placed(metric: Metric, prompts: PromptSet, n_layers: int) -> Metric:
    """Return the metric with its layers and positions as numbers from 0.

    Raises:
        SettingError: A layer or position out of range.
    """
    if isinstance(metric, InformationMetric):
        return replace(
            metric,
            sigma=noise_level(metric.sigma),
            layers=indices("layer", (-1,) if metric.layers is None else metric.layers, n_layers),
            positions=indices(
                "position", (-1,) if metric.positions is None else metric.positions, prompts.n_positions
            ),
        )
    if metric.n_prompts not in (None, len(prompts)):
        raise SettingError(
            f"metric {metric.name!r} is for other prompts",
            seen=f"tokens for {metric.n_prompts} prompts",
            expected=f"one right and one wrong token for each of {len(prompts)}",
            fix="Take the tokens of the same rows.",
        )
    n = prompts.n_positions - metric.looks_ahead
    if metric.positions is None and n > 0:
        return replace(metric, positions=tuple(range(n)))
    chosen = indices("position", metric.positions, prompts.n_positions)
    if max(chosen) >= n:
        raise SettingError(
            f"metric {metric.name!r} looks at the next token",
            seen=f"position {max(chosen)} of prompts of {prompts.n_positions} tokens",
            expected=f"positions below {n}",
            fix="Leave the last position away.",
        )
    return replace(metric, positions=chosen)


def check_values(metric: LogitMetric, values: Any, n: int) -> Float[Tensor, " batch"]:
    """Return what a metric gave for a batch, as float64 on the CPU.

    Raises:
        SettingError: Not one number a prompt.
        StateError: NaN, infinity, complex numbers.
    """
    if not isinstance(values, Tensor) or values.shape != (n,):
        seen = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise SettingError(
            f"metric {metric.name!r} returned the wrong shape",
            seen=seen,
            expected=f"one number for each prompt of the batch: ({n},)",
            fix="Do not average over the batch: effects are kept prompt by prompt.",
        )
    if values.is_complex() or not bool(torch.isfinite(values).all()):
        raise StateError(
            f"metric {metric.name!r} returned NaN or infinity",
            seen=f"{values.dtype}, not all finite" if not values.is_complex() else str(values.dtype),
            expected="finite real numbers",
            fix="Look at the logits of these prompts; float16 overflows are the usual cause.",
        )
    return values.detach().double().cpu()
