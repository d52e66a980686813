"""The geometry of every scored block and position, from the states that a score has captured anyway."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from tl_emergence.capture.protected import no_grad
from tl_emergence.capture.spaces import Space, check_space, in_space
from tl_emergence.capture.states import CapturedStates
from tl_emergence.checks import instance, seed_number
from tl_emergence.errors import SettingError, StateError
from tl_emergence.estimators.components import principal_components
from tl_emergence.estimators.folds import distinct_rows
from tl_emergence.geometry.criteria import step_criteria, whole_of, with_noise
from tl_emergence.geometry.settings import GeometrySettings
from tl_emergence.geometry.shape import (
    cosine_to_previous,
    effective_rank,
    mean_norm,
    participation_ratio,
    prompt_entropy,
)
from tl_emergence.torch_state import with_torch_defaults

_PROMPTS_AT_ONCE = 1024
_DEFAULT = GeometrySettings()


@dataclass(frozen=True, eq=False)
class Geometry:
    """The geometry of h_l, the state entering block l, at every scored block and position.

    NaN stands where a quantity is not defined on what was captured: `prompt_entropy` and the criteria need
    all positions 0..t (leave `positions` out), `cosine_to_previous` needs h_{l-1} (none at l = 0).

    Attributes:
        effective_rank: Exponential of the entropy of the normalised singular values of the centred states.
        participation_ratio: (tr S)^2 / tr(S^2) of their covariance S.
        prompt_entropy: Matrix-based entropy of the states at positions 0..t of one prompt, mean over
            prompts, in bits; at most log2(t + 1).
        norm: Mean Euclidean norm of the *raw* residual stream, in every space: in `read` and `unit` each
            state has the norm sqrt(d_model) by construction.
        cosine_to_previous: Mean cosine between h_l and h_{l-1} in the space; in `read` each is seen with
            the gain of its own block.
        psi: I(V; V') - sum_j I(X_j; V') in bits: X_j the state at position j <= t, V the whole of them, and
            the prime the next layer. **Very negative under redundancy**, of which a prompt is full.
        delta: max_j [ I(V; X_j') - sum_i I(X_i; X_j') ] in bits; negative under redundancy too.
        gamma: max_j I(V; X_j') in bits.
        psi_stderr: Standard error of `psi`.
        delta_stderr: Standard error of `delta`.
        gamma_stderr: Standard error of `gamma`.
    """

    effective_rank: Float[Tensor, "layer pos"]
    participation_ratio: Float[Tensor, "layer pos"]
    prompt_entropy: Float[Tensor, "layer pos"]
    norm: Float[Tensor, "layer pos"]
    cosine_to_previous: Float[Tensor, "layer pos"]
    psi: Float[Tensor, "layer pos"]
    delta: Float[Tensor, "layer pos"]
    gamma: Float[Tensor, "layer pos"]
    psi_stderr: Float[Tensor, "layer pos"]
    delta_stderr: Float[Tensor, "layer pos"]
    gamma_stderr: Float[Tensor, "layer pos"]

    def tensors(self) -> dict[str, Float[Tensor, "layer pos"]]:
        """Return every quantity by its name."""
        return {name: getattr(self, name) for name in GEOMETRY_NAMES}


GEOMETRY_NAMES = tuple(f.name for f in fields(Geometry))
"""The names of all quantities, which are the columns of data frames."""


@with_torch_defaults
@no_grad
def companion_geometry(
    states: CapturedStates,
    *,
    space: Space,
    settings: GeometrySettings = _DEFAULT,
    seed: int = 0,
    device: torch.device | None = None,
    progress: bool = False,
) -> Geometry:
    """Return dimension, prompt entropy, norm, cosine and emergence criteria of captured states.

    The definitions stand at `effective_rank`, `participation_ratio`, `prompt_entropy` and
    `gaussian_criteria`. The criteria are those of the step from layer to layer, whose parts are the
    positions 0..t: a cell (l, t) depends on nothing after t.

    Args:
        states: What `capture_states` returned.
        space: The coordinates: "read", "unit" or "resid".
        settings: How the criteria see whole and parts.
        seed: Seed of their noise.
        device: Where decompositions run; the CPU by default.
        progress: Show a progress bar.

    Raises:
        StateError: Not what `capture_states` returns.
        SettingError: A space that cannot be had; settings or a seed of a wrong type; p + q >= N - 1
            components in some pair.

    Cost: an eigendecomposition of min(N, d) dimensions a state and position (two for the whole "mean"), T^2
    covariances of a few components a layer, and the N T^4 of `prompt_entropy`. For 18 layers, 8
    positions, N = 2,048 and d = 640: 23 s of one core, 35 s for "mean".

    Example:
        >>> from tl_emergence import capture_states
        >>> states = capture_states(model, from_tokens(tokens))
        >>> found = companion_geometry(states, space="unit", settings=GeometrySettings(components=2))
        >>> found.participation_ratio[:, 1].tolist()[0]  # h_0 at the separator is one vector
        0.0
    """
    _check_types(states, settings)
    seed = seed_number(seed)
    check_space(space, states.reading, states.states)
    if device is not None:
        instance("a device", device, torch.device, "Pass torch.device('cpu').")
    seen = _Seen(states, space, device or torch.device("cpu"))
    shape = (len(states.layers), len(states.positions))
    found = {name: torch.full(shape, torch.nan, dtype=torch.float64) for name in GEOMETRY_NAMES}
    complete = [t for i, t in enumerate(states.positions) if i == t]  # positions before which none is missing
    copies = distinct_rows(states.prompts.tokens)
    before: _Components | None = None
    with tqdm(
        total=len(states.states), desc=f"geometry ({space})", unit="state", disable=not progress
    ) as bar:
        for s, state in enumerate(states.states):
            row = states.layers.index(state) if state in states.layers else None
            now = _Components(state, copies)
            _describe_positions(seen, s, row, complete, settings, seed, now, found)
            if row is not None and complete:
                found["prompt_entropy"][row, complete] = _mean_prompt_entropy(seen, s, len(complete))
            if before is not None and before.state == state - 1 and before.state in states.layers:
                _fill_criteria(states.layers.index(before.state), before, now, seed, found)
            before = now
            bar.update()
    return Geometry(**found)


def _check_types(states: object, settings: object) -> None:
    if not isinstance(states, CapturedStates):
        raise StateError(
            "no captured states",
            seen=type(states).__name__,
            expected="CapturedStates",
            fix="Pass capture_states(model, prompts). For matrices there are effective_rank, mean_norm, "
            "prompt_entropy and gaussian_criteria.",
        )
    if not isinstance(settings, GeometrySettings):
        raise SettingError(
            "settings are no GeometrySettings",
            seen=type(settings).__name__,
            expected="GeometrySettings",
            fix="Pass settings=GeometrySettings(components=2), or leave it out.",
        )


@dataclass(frozen=True)
class _Components:
    """The noisy components of one state: of the parts X_0..X_t, and of their whole V at each t."""

    state: int
    copies: Int[Tensor, " prompt"]
    parts: list[Float[Tensor, "prompt _component"]] = field(default_factory=list)
    wholes: list[Float[Tensor, "prompt _component"]] = field(default_factory=list)


@dataclass(frozen=True)
class _Seen:
    """Captured states in the coordinates of a space."""

    states: CapturedStates
    space: Space
    device: torch.device

    def at(self, s: int, i: int, rows: Tensor | slice = slice(None)) -> Float[Tensor, "row d_model"]:
        """Return distinct states at scored position i, or those of some rows."""
        x = self.states.macro[i][s][rows].to(self.device)
        state = self.states.states[s]
        scale = self.states.rms(state) if self.space == "resid" else 1.0
        return in_space(x, state, self.space, self.states.reading, scale)

    def prompts(self, s: int, n_positions: int) -> Iterator[Float[Tensor, "prompt pos d_model"]]:
        """Yield the states of some prompts at a time, at all of the first positions."""
        for start in range(0, len(self.states.prompts), _PROMPTS_AT_ONCE):
            some = [rows[start : start + _PROMPTS_AT_ONCE] for rows in self.states.prefix_rows[:n_positions]]
            yield torch.stack([self.at(s, i, rows) for i, rows in enumerate(some)], dim=1)


def _describe_positions(
    seen: _Seen,
    s: int,
    row: int | None,
    complete: Sequence[int],
    settings: GeometrySettings,
    seed: int,
    components: _Components,
    found: dict[str, Tensor],
) -> None:
    """Fill in the shape of one state at every position, and collect its components for the criteria."""
    states, state = seen.states, components.state
    total: Tensor | None = None
    for i, t in enumerate(states.positions):
        if row is None and t not in complete:
            continue
        rows = states.prefix_rows[i]
        x = seen.at(s, i)
        weights = torch.bincount(rows, minlength=len(x)).double() / len(rows)
        leading = principal_components(x, weights, settings.components)
        if row is not None:
            found["effective_rank"][row, i] = effective_rank(leading.variances)
            found["participation_ratio"][row, i] = participation_ratio(leading.variances)
            found["norm"][row, i] = mean_norm(states.macro[i][s], weights)
            if s > 0 and states.states[s - 1] == state - 1:
                found["cosine_to_previous"][row, i] = cosine_to_previous(x, seen.at(s - 1, i), weights)
        if t in complete:
            kept = leading.rows[rows.to(x.device)]
            components.parts.append(with_noise(kept, settings, seed, "part", t, state))
            mean = None
            if settings.whole == "mean":
                total = x.double()[rows.to(x.device)] + (0.0 if total is None else total)
                mean = total / len(components.parts)
            components.wholes.append(whole_of(components.parts, mean, settings, seed, state))


def _mean_prompt_entropy(seen: _Seen, s: int, n_positions: int) -> Float[Tensor, " pos"]:
    bits = torch.cat([prompt_entropy(x).cpu() for x in seen.prompts(s, n_positions)])
    return bits.mean(dim=0)


def _fill_criteria(
    row: int, now: _Components, after: _Components, seed: int, found: dict[str, Tensor]
) -> None:
    """Fill in the criteria of the step from one state to the next, whose parts are positions 0..t."""
    if not now.parts:
        return
    steps = step_criteria(now.parts, now.wholes, after.parts, after.wholes, now.copies, seed)
    for t, criteria in enumerate(steps):
        for f in fields(criteria):
            found[f.name][row, t] = getattr(criteria, f.name)
