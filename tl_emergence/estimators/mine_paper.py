"""The published procedure, labelled as such: what the paper's MINE would print."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_emergence.checks import in_range, integer
from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators.interface import ChainEstimate, Estimate, StateChain, generator_for
from tl_emergence.torch_state import with_torch_defaults

HIDDEN = (768, 384, 192, 96, 48, 24, 12, 6, 3)
PUBLISHED = {"steps": 10_000, "rows": 300_000, "segment": 768}
_MOST_NOISE = 1e6  # in float32, and without normalisation: beyond it a critic's outputs overflow
_LEARNING_RATE, _LAST_RATE, _POWER, _WARM_UP = 1e-4, 1e-8, 3.0, 5


@dataclass(frozen=True)
class MinePaperEstimator:
    """The estimate of Chen et al. (arXiv 2405.12617, section 3), step by step: MINE, in-sample.

    A critic T on [x, y] (2d -> 768 -> 384 -> 192 -> 96 -> 48 -> 24 -> 12 -> 6 -> 3 -> 1, LeakyReLU between,
    Xavier-normal weights, zero biases) is trained by Adam (1e-4, polynomial decay of power 3 to 1e-8, 5
    warm-up steps) on all rows at every step, against a fresh permutation pi of y, to maximise the
    Donsker-Varadhan value

        V = mean_i T(x_i, y_i) - ln mean_i exp T(x_i, y_pi(i)),

    and the largest training value seen is the result, in bits. Coordinates are cut into segments of 768 when
    d is larger; how the authors combined segments is not known, so they are reported one by one in the
    settings (`segment_bits`), and their mean as `bits`. An incomplete last segment is dropped, and how many
    coordinates that are stands in the settings and in the summary of a result.

    It errs in both directions: the maximum over a training run is biased upward, log2 N bounds what can be
    seen from above. The standard error is that of V at the step of the maximum, from the spread over rows; it
    knows nothing of either bias.

    Cost: 10,000 full passes, forward and backward. `published_seconds()` measures what one cell at the
    published size (300,000 rows, d = 768) would take on this machine.
    """

    name: str = "mine_paper"
    measures: str = "what the paper's procedure would print: in-sample, biased in both directions"
    null_means: str = "not 0: what an over-fitted critic finds in the training rows is reported"
    default_sigma: float = 0.0
    default_emergence_sigma: float = 0.0
    options: tuple[str, ...] = ("steps", "segment", "rows")

    def check(self, sigmas: Sequence[float], options: Mapping[str, Any]) -> None:
        """Raise SettingError for a sigma below 0, fewer than one step, segments without width."""
        wrong = [sigma for sigma in sigmas if not (0 <= sigma <= _MOST_NOISE and in_range(sigma))]
        if wrong:
            raise SettingError(
                "sigma out of range", seen=wrong, expected=f"0 to {_MOST_NOISE:g}", fix="The paper has 0."
            )
        for name, least in (("steps", 1), ("segment", 1), ("rows", 2)):
            left_open = name == "rows" and options.get(name) is None
            if name in options and not left_open:
                integer(name, options[name], least=least)

    def pair(
        self,
        x: Float[Tensor, "sample d_x"],
        y: Float[Tensor, "sample d_y"],
        *,
        sigma: float = 0.0,
        seed: int = 0,
        steps: int = PUBLISHED["steps"],
        segment: int = PUBLISHED["segment"],
        rows: int | None = None,
    ) -> Estimate:
        """Run the procedure on two matrices as they are; `rows` takes a random part of them."""
        found = run_procedure(x, y, generator_for(seed, "mine_paper", "pair"), steps, segment, rows, sigma)
        settings = {
            **self._settings(steps, segment, found.rows),
            "sigma": sigma,
            "seed": seed,
            "segment_bits": list(found.by_segment),
            "coordinates_dropped": found.dropped,
        }
        return Estimate(found.bits, found.stderr, None, False, "none", settings=settings)

    def chain(
        self,
        chain: StateChain,
        *,
        sigmas: Sequence[float],
        seed: int = 0,
        steps: int = PUBLISHED["steps"],
        segment: int = PUBLISHED["segment"],
        rows: int | None = None,
    ) -> ChainEstimate:
        """Run the procedure for every scored pair, series and sigma, one after another."""
        self.check(sigmas, {"steps": steps, "segment": segment, "rows": rows})
        n_series, n = chain.rows.shape
        shape = (len(sigmas), len(chain.pairs), n_series)
        bits, stderr = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        width = chain.states[0].shape[1]
        count = max(1, width // segment)
        segments = torch.zeros(*shape, count, dtype=torch.float64)
        for t, series in enumerate(chain.rows):
            for k, (i, j) in enumerate(chain.pairs):
                x, y = (chain.states[m][series.to(chain.states[m].device)] for m in (i, j))
                for s, sigma in enumerate(sigmas):
                    generator = generator_for(seed, "mine_paper", chain.name, t, chain.numbers[i])
                    found = run_procedure(x, y, generator, steps, segment, rows, sigma)
                    bits[s, k, t], stderr[s, k, t] = found.bits, found.stderr
                    if found.by_segment:
                        segments[s, k, t] = torch.tensor(found.by_segment, dtype=torch.float64)
        counts = torch.arange(1, n_series + 1, dtype=torch.float64)
        return ChainEstimate(
            bits=bits,
            stderr=stderr,
            mean_stderr=stderr.square().cumsum(dim=2).sqrt() / counts,
            cap_bits=None,
            direction="none",
            pointwise=None,
            subsamples={},
            closest=torch.full((len(chain.states),), math.nan, dtype=torch.float64),
            settings={
                **self._settings(steps, segment, min(n, rows or n)),
                "segment_bits": segments.tolist() if count > 1 else None,
                "coordinates_dropped": _dropped(width, segment),
            },
        )

    def _settings(self, steps: int, segment: int, rows: int) -> dict[str, Any]:
        used = {"steps": steps, "rows": rows, "segment": segment}
        smaller = sorted(name for name, value in used.items() if value < PUBLISHED[name])
        return {"estimator": self.name, **used, "below_the_published_settings": smaller}


@dataclass(frozen=True)
class Outcome:
    """What the procedure ended with: the mean over segments, each segment, what was left out."""

    bits: float
    stderr: float
    by_segment: tuple[float, ...]
    rows: int
    dropped: int


def run_procedure(
    x: Float[Tensor, "sample d_x"],
    y: Float[Tensor, "sample d_y"],
    generator: torch.Generator,
    steps: int,
    segment: int,
    rows: int | None,
    sigma: float,
) -> Outcome:
    """Train one critic a segment; a constant side gives 0 without training.

    Raises:
        SettingError: Segments of two matrices of unequal width.
        StateError: Values that float32 does not hold.
    """
    if rows is not None and rows < len(x):
        some = torch.randperm(len(x), generator=generator, device="cpu")[:rows].to(x.device)
        x, y = x[some], y[some]
    widest = max(x.shape[1], y.shape[1])
    if widest > segment and x.shape[1] != y.shape[1]:
        raise SettingError(
            "segments that do not match",
            seen=f"x of {x.shape[1]} and y of {y.shape[1]} coordinates, cut into segments of {segment}",
            expected="as many coordinates on both sides, as in a residual stream",
            fix=f"Pass segment={widest}.",
        )
    if any(bool((m == m[:1]).all()) for m in (x, y)):
        return Outcome(0.0, 0.0, (), len(x), 0)
    x, y = (
        m + sigma * torch.randn(*m.shape, generator=generator, device="cpu").to(m) if sigma else m
        for m in (_single("x", x), _single("y", y))
    )
    count = max(1, x.shape[1] // segment)
    cuts = [slice(k * segment, (k + 1) * segment) for k in range(count)]
    found = [train(x[:, cut], y[:, cut], generator, steps) for cut in cuts]
    bits = tuple(value for value, _ in found)
    stderr = math.sqrt(sum(error**2 for _, error in found)) / count
    return Outcome(sum(bits) / count, stderr, bits, len(x), _dropped(x.shape[1], segment))


def _dropped(width: int, segment: int) -> int:
    """Return the coordinates of an incomplete last segment."""
    return width % segment if width > segment else 0


def _single(name: str, m: Float[Tensor, "sample d"]) -> Float[Tensor, "sample d"]:
    """Return a matrix in the precision of the published procedure, or raise StateError where it does not fit.

    Raises:
        StateError: Values beyond float32, or rows that differ in float64 only.
    """
    found = m.float()
    if found is m:
        return m
    lost = len(found.unique(dim=0)) < len(m.unique(dim=0))
    if lost or not bool(torch.isfinite(found).all()):
        raise StateError(
            f"{name} does not fit into float32, in which mine_paper works",
            seen="rows that are one in float32" if lost else "values above 3.4e38",
            expected="rows that differ by more than a part in ten million",
            fix="Centre and scale it: (x - x.mean(0)) / x.std(0).",
        )
    return found


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    x: Float[Tensor, "sample d_x"], y: Float[Tensor, "sample d_y"], generator: torch.Generator, steps: int
) -> tuple[float, float]:
    """Return the largest training value in bits, and its standard error at that step."""
    critic = make_critic(x.shape[1] + y.shape[1], generator).to(x)
    optimiser = torch.optim.Adam(critic.parameters(), lr=_LEARNING_RATE)
    best, stderr = -math.inf, math.nan
    joint = torch.cat([x, y], dim=1)
    for step in range(steps):
        permutation = torch.randperm(len(x), generator=generator, device="cpu").to(x.device)
        on_pairs = critic(joint)[:, 0]
        on_shuffled = critic(torch.cat([x, y[permutation]], dim=1))[:, 0]
        value = (on_pairs.mean() - on_shuffled.logsumexp(dim=0) + math.log(len(x))) / math.log(2)
        reached = float(value.detach())
        if reached > best:
            best, stderr = reached, _stderr(on_pairs.detach(), on_shuffled.detach())
        optimiser.param_groups[0]["lr"] = learning_rate(step, steps)
        optimiser.zero_grad()
        (-value).backward()
        optimiser.step()
    return best, stderr


def make_critic(width: int, generator: torch.Generator) -> nn.Sequential:
    """Return the critic of the paper, its weights drawn from the generator."""
    layers: list[nn.Module] = []
    for wide, narrow in zip((width, *HIDDEN), (*HIDDEN, 1), strict=True):
        # Built empty: its own initialisation would draw from the global generator.
        linear = cast("nn.Linear", nn.utils.skip_init(nn.Linear, wide, narrow))
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.LeakyReLU()]
    return nn.Sequential(*layers[:-1])


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of a step: 5 steps up from 0, then a polynomial of power 3 down to 1e-8."""
    if step < _WARM_UP:
        return _LEARNING_RATE * step / _WARM_UP
    left = 1 - (step - _WARM_UP) / max(1, steps - _WARM_UP)
    return (_LEARNING_RATE - _LAST_RATE) * left**_POWER + _LAST_RATE


@with_torch_defaults
def published_seconds(*, rows: int = 4096, steps: int = 3) -> float:
    """Measure what one cell at the published size would take here, in seconds.

    A few steps on some rows are timed, and scaled to 300,000 rows of d = 768 and 10,000 steps: the cost of a
    step is proportional to the rows where there are thousands; from fewer it is overrated.

    Raises:
        SettingError: Fewer than two rows, or no step.

    Example:
        >>> published_seconds(rows=64, steps=1) > 0
        True
    """
    integer("rows", rows, least=2)
    integer("steps", steps, least=1)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, rows, PUBLISHED["segment"], generator=generator, device="cpu")
    train(x, y, generator, 1)
    start = time.perf_counter()
    train(x, y, generator, steps)
    each = (time.perf_counter() - start) / steps
    return each * PUBLISHED["steps"] * PUBLISHED["rows"] / rows


def _stderr(on_pairs: Float[Tensor, " sample"], on_shuffled: Float[Tensor, " sample"]) -> float:
    """Return the standard error of V in bits, by the delta method, the critic held fixed."""
    n = len(on_pairs)
    ratios = (on_shuffled - on_shuffled.logsumexp(dim=0) + math.log(n)).exp()
    return float((on_pairs.var() + ratios.var()).div(n).sqrt()) / math.log(2)
