"""Separable critics f(x) . g(y), trained by InfoNCE; many independent ones at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import silu

HIDDEN = 128
EMBEDDING = 64
EPOCHS = 40
BATCH = 256
LEARNING_RATE = 6e-3
WEIGHT_DECAY = 0.05
PATIENCE = 10
_WARM_UP = 0.1
_NULL_SPREADS = 2.0
_SCALES = torch.logspace(-0.3, 0.2, 11)


@dataclass(frozen=True, eq=False)
class Task:
    """What one critic learns from: its inputs for all rows, a start, and which rows train and stop it.

    The critic is w start_x . start_y + f(input_x) . g(input_y), f and g networks of two hidden layers. The
    weights w are 1 and the last layer of g is zero at first: training begins at the start, which is kept
    where nothing better is found.
    """

    input_x: Float[Tensor, "row p"]
    input_y: Float[Tensor, "row q"]
    start_x: Float[Tensor, "row k"]
    start_y: Float[Tensor, "row k"]
    train: Int[Tensor, " training"]
    stop: Int[Tensor, " stopping"]
    generator: torch.Generator


@dataclass(frozen=True, eq=False)
class Critic:
    """A trained critic by its features: the logit of x_i and y_j is x[i] . y[j], 0 if not beyond chance."""

    x: Float[Tensor, "row k"]
    y: Float[Tensor, "row k"]
    steps: int
    beyond_chance: bool


def contrastive_nats(logits: Float[Tensor, "*task row row"]) -> Float[Tensor, "*task row"]:
    """Return f_ii - ln( mean_j exp f_ij ) for each row i, j over all rows, i included (arXiv 1807.03748)."""
    own = logits.diagonal(dim1=-2, dim2=-1)
    return own - logits.logsumexp(dim=-1) + math.log(logits.shape[-1])


@torch.inference_mode(False)
@torch.enable_grad()
def train_critics(tasks: Sequence[Task]) -> list[Critic]:
    """Train one critic a task, all as one batched network; no task sees another, or depends on it.

    Every epoch the value on the stopping rows is asked; what was best counts, and a task without a better
    one for some epochs is done. At last the logits are scaled to the best value on the stopping rows; a
    critic whose value there is not two standard errors above 0 is set to 0, which reports exactly 0: noise
    learned by heart would take it below.
    """
    inputs = [_stacked([getattr(task, name) for task in tasks]) for name in ("input_x", "input_y")]
    starts = [_stacked([getattr(task, name) for task in tasks]) for name in ("start_x", "start_y")]
    networks = _initial(tasks, inputs[0].shape[-1], inputs[1].shape[-1])
    weights = torch.ones_like(starts[0][:, :1]).requires_grad_()
    params = [*networks, weights]
    optimizer = torch.optim.AdamW(
        [{"params": networks}, {"params": [weights], "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
    )
    batches = _Batches(tasks)
    stop = torch.stack([task.stop for task in tasks]).to(inputs[0].device)
    at_stop = [_rows_of(m, stop) for m in (*inputs, *starts)]

    def stop_values(scale: float = 1.0) -> Float[Tensor, " task"]:
        with torch.no_grad():
            return contrastive_nats(scale * _logits(params, *at_stop)).mean(dim=-1)

    best, kept = stop_values(), [p.detach().clone() for p in params]
    best_step = torch.zeros(len(tasks), dtype=torch.long, device=best.device)
    waited = torch.zeros_like(best_step)
    total = EPOCHS * batches.per_epoch
    for step in range(1, total + 1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _schedule(step / total)
        rows = batches.next().to(inputs[0].device)
        logits = _logits(params, *(_rows_of(m, rows) for m in (*inputs, *starts)))
        loss = -(contrastive_nats(logits) + contrastive_nats(logits.mT)).mean(dim=-1).sum() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % batches.per_epoch == 0:
            values = stop_values()
            better = (values > best) & (waited < PATIENCE)
            waited = torch.where(better, 0, waited + 1)
            best, best_step = torch.where(better, values, best), torch.where(better, step, best_step)
            _keep(kept, params, better)
            if bool((waited >= PATIENCE).all()):
                break
    with torch.no_grad():
        for param, value in zip(params, kept, strict=True):
            param.copy_(value)
        scales = _SCALES.to(best)
        tried = torch.stack([stop_values(float(scale)) for scale in _SCALES])
        scale = scales[tried.argmax(dim=0)]
        logits = scale[:, None, None] * _logits(params, *at_stop)
        beyond = _beyond_chance(contrastive_nats(logits))
        scale = torch.where(beyond, scale, 0.0)
        x, y = _features(params, *inputs, *starts)
    return [Critic(scale[k] * x[k], y[k], int(best_step[k]), bool(beyond[k])) for k in range(len(tasks))]


class _Batches:
    """Random batches of training rows, for every task by its own generator."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._fewest = min(len(task.train) for task in tasks)
        self._size = min(BATCH, self._fewest)
        self._left: list[Tensor] = []
        self.per_epoch = max(1, self._fewest // self._size)

    def next(self) -> Int[Tensor, "task batch"]:
        """Return the rows of the next batch; the odd rows of an epoch wait for the next order."""
        if not self._left:
            orders = [
                task.train.cpu()[torch.randperm(len(task.train), generator=task.generator, device="cpu")]
                for task in self._tasks
            ]
            whole = self.per_epoch * self._size
            shuffled = torch.stack([order[:whole] for order in orders])
            self._left = list(rearrange(shuffled, "task (step batch) -> step task batch", batch=self._size))
        return self._left.pop()


def _initial(tasks: Sequence[Task], p: int, q: int) -> list[Tensor]:
    """Return the weights of f and g for every task, drawn by its own generator; padding gets zeros."""
    drawn = []
    for task in tasks:
        of_task = []
        for matrix, width in ((task.input_x, p), (task.input_y, q)):
            k, norm = matrix.shape[1], matrix[task.train].square().sum(dim=1).mean().sqrt()

            def normal(*shape: int, task: Task = task) -> Tensor:
                return torch.randn(*shape, generator=task.generator, device="cpu")

            first = torch.zeros(width, HIDDEN)
            first[:k] = normal(k, HIDDEN) / float(norm.clamp_min(1e-9))
            last = normal(HIDDEN, EMBEDDING + 1) / math.sqrt(HIDDEN)
            of_task += [
                first,
                normal(1, HIDDEN),
                normal(HIDDEN, HIDDEN) / math.sqrt(HIDDEN),
                torch.zeros(1, HIDDEN),
                last if matrix is task.input_x else torch.zeros_like(last),
                torch.zeros(1, EMBEDDING + 1),
            ]
        drawn.append(of_task)
    like = tasks[0].input_x
    return [torch.stack(group).to(like).requires_grad_() for group in zip(*drawn, strict=True)]


def _network(weights: Sequence[Tensor], rows: Float[Tensor, "task row k"]) -> Float[Tensor, "task row e"]:
    first, shift, second, second_shift, last, last_shift = weights
    hidden = silu(torch.baddbmm(shift, rows, first))
    hidden = hidden + silu(torch.baddbmm(second_shift, hidden, second))
    return torch.baddbmm(last_shift, hidden, last)


def _features(
    params: Sequence[Tensor], x: Tensor, y: Tensor, start_x: Tensor, start_y: Tensor
) -> tuple[Float[Tensor, "task row k"], Float[Tensor, "task row k"]]:
    of_x, of_y = _network(params[:6], x), _network(params[6:12], y)
    # The last feature of y stands alone: a term of y only.
    of_x = torch.cat([of_x[..., :-1], torch.ones_like(of_x[..., :1])], dim=-1)
    return torch.cat([params[12] * start_x, of_x], dim=-1), torch.cat([start_y, of_y], dim=-1)


def _logits(params: Sequence[Tensor], *rows: Tensor) -> Float[Tensor, "task i j"]:
    return einsum(*_features(params, *rows), "task i k, task j k -> task i j")


def _rows_of(m: Float[Tensor, "task row k"], rows: Int[Tensor, "task some"]) -> Float[Tensor, "task some k"]:
    return m.gather(1, rows[:, :, None].expand(-1, -1, m.shape[-1]))


def _stacked(parts: Sequence[Float[Tensor, "row _"]]) -> Float[Tensor, "task row k"]:
    """Stack matrices, filled up with columns of zeros, which change nothing."""
    width = max(part.shape[1] for part in parts)
    return torch.stack([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


def _beyond_chance(nats: Float[Tensor, "task row"]) -> Bool[Tensor, " task"]:
    return nats.mean(dim=-1) > _NULL_SPREADS * nats.std(dim=-1) / math.sqrt(nats.shape[-1])


def _keep(kept: Sequence[Tensor], params: Sequence[Tensor], better: Bool[Tensor, " task"]) -> None:
    for old, new in zip(kept, params, strict=True):
        old[better] = new.detach()[better]


def _schedule(done: float) -> float:
    """Return the share of the learning rate: a linear rise, then half a cosine."""
    if done < _WARM_UP:
        return done / _WARM_UP
    return (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2
