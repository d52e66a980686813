"""Ablation: what happens to loss, logits, information and emergence when one part puts out something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypedDict, Unpack

import torch
from jaxtyping import Int
from torch import Tensor

from tl_emergence.capture import compat
from tl_emergence.capture.checks import indices
from tl_emergence.capture.fingerprint import model_fingerprint
from tl_emergence.checkpoints import Workspace
from tl_emergence.checks import integer, seed_number, truth
from tl_emergence.circuits.components import (
    Component,
    HeadName,
    check_hooks,
    head_components,
)
from tl_emergence.circuits.effects import HeadEffects
from tl_emergence.circuits.experiment import Experiment
from tl_emergence.circuits.metrics import Given, named_metrics, placed
from tl_emergence.circuits.references import AblationKind, check_reference
from tl_emergence.files import as_path
from tl_emergence.prompts.prompt_set import PromptSet, as_prompt_set
from tl_emergence.torch_state import with_torch_defaults


class AblationSettings(TypedDict, total=False):
    """The settings that all ablations share, as `ablate_heads` describes them."""

    kind: AblationKind
    positions: Sequence[int] | None
    reference: PromptSet | Int[Tensor, "held_out pos"] | None
    draws: int
    prepend_bos: bool | None
    bos_token_id: int | None
    batch_size: int
    seed: int
    workdir: str | PathLike[str] | None
    progress: bool


@with_torch_defaults
def ablate_heads(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    metrics: Sequence[Given] | Mapping[str, Given] | Given,
    *,
    kind: AblationKind = "mean",
    heads: Sequence[HeadName] | None = None,
    positions: Sequence[int] | None = None,
    reference: PromptSet | Int[Tensor, "held_out pos"] | None = None,
    draws: int = 1,
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    workdir: str | PathLike[str] | None = None,
    progress: bool = False,
) -> HeadEffects:
    """Replace the output of every head, one at a time, and measure what changes, prompt by prompt.

    effect(head, prompt) = metric with the head's output at `hook_z` replaced - metric of the clean model,

    several metrics from the same forward passes. Query heads are replaced one by one, also where they share
    keys and values (grouped-query attention). BOS is left alone.
    Information below a head does not change: its effect there is 0 by construction.

    Args:
        model: A HookedTransformer or TransformerBridge.
        prompts: A `PromptSet` to measure, or content tokens [prompt, pos] without BOS.
        metrics: Names ("loss", "kl", "emergence", "information"), metrics from
            `tl_emergence.circuits.metrics`, or functions of logits [batch, pos, vocabulary], alone or with
            the content tokens, that return [batch]; or a mapping from names to any of these.
        kind: What the head puts out instead: "zero"; "mean" over the reference's prompts and the positions
            that are replaced; "mean_pos", the mean at each position; "resample", its output on a random
            prompt of the reference; "corrupt", its output on the prompt's own partner: `reference`, row by
            row.
        heads: "L9H3" or (9, 3); all by default.
        positions: Content positions at which it is replaced, all by default.
        reference: Prompts of the same length, a set or tokens, none of them among `prompts`; for "corrupt"
            one partner a prompt.
        draws: Random prompts a prompt for "resample"; effects are means over them.
        prepend_bos: Put BOS before every prompt; the model's own habit by default.
        bos_token_id: The BOS token, where the tokenizer does not say.
        batch_size: Prompts a forward pass.
        seed: Seed of noise draws and of resampling.
        workdir: Keep finished heads there, so that a run that was stopped goes on.
        progress: Show a progress bar on standard error.

    Returns:
        `HeadEffects`: [layer, head, prompt] for each metric, with the clean baseline.

    Raises:
        HookError: Not a TransformerLens model, or hooks that do not mean what their names say: what is
            replaced must be seen to be what is added to the stream.
        SettingError: A head, position, layer or metric that is not there, no metric at all, a metric of the
            wrong shape, a reference that the kind takes not or lacks.
        TokenError: Prompts that the model cannot run; a reference that overlaps them or does not fit.
        StateError: NaN or infinity.

    Cost: one pass a head from its block on, where blocks can be left out below it (proven on the model
    beforehand; `settings["skips_blocks"]`), else a whole one. The model is left as it was, whatever happens.

    Single-head effects underestimate what heads do together: others may back it up.

    Example:
        >>> prompts = from_tokens(tokens)
        >>> effects = ablate_heads(model, prompts, ["loss", "emergence"], kind="zero")
        >>> effects.mean("loss").shape  # layers, heads
        torch.Size([2, 2])
    """
    compat.check_model(model)
    return _ablate(
        model,
        prompts,
        head_components(model, heads),
        metrics,
        kind=kind,
        positions=positions,
        reference=reference,
        draws=draws,
        prepend_bos=prepend_bos,
        bos_token_id=bos_token_id,
        batch_size=batch_size,
        seed=seed,
        workdir=workdir,
        progress=progress,
    )


@with_torch_defaults
def ablate_mlps(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    metrics: Sequence[Given] | Mapping[str, Given] | Given,
    *,
    layers: Sequence[int] | None = None,
    **settings: Unpack[AblationSettings],
) -> HeadEffects:
    """Replace what every MLP writes (`hook_mlp_out`), one at a time: `ablate_heads` for MLPs, one column."""
    compat.check_model(model)
    chosen = indices("layer", layers, compat.n_layers(model))
    return _ablate(model, prompts, [Component("mlp", i) for i in chosen], metrics, **settings)


@with_torch_defaults
def ablate_blocks(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    metrics: Sequence[Given] | Mapping[str, Given] | Given,
    *,
    layers: Sequence[int] | None = None,
    **settings: Unpack[AblationSettings],
) -> HeadEffects:
    """Replace all that a block adds to the stream, one block at a time: `ablate_heads` for whole blocks.

    "zero" leaves the block out.
    """
    compat.check_model(model)
    chosen = indices("layer", layers, compat.n_layers(model))
    return _ablate(model, prompts, [Component("block", i) for i in chosen], metrics, **settings)


def _ablate(
    model: Any,
    prompts: PromptSet | Int[Tensor, "prompt pos"],
    components: Sequence[Component],
    metrics: Sequence[Given] | Mapping[str, Given] | Given,
    *,
    kind: AblationKind = "mean",
    positions: Sequence[int] | None = None,
    reference: PromptSet | Int[Tensor, "held_out pos"] | None = None,
    draws: int = 1,
    prepend_bos: bool | None = None,
    bos_token_id: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    workdir: str | PathLike[str] | None = None,
    progress: bool = False,
) -> HeadEffects:
    prompts = as_prompt_set(prompts)
    reference = None if reference is None else as_prompt_set(reference)
    check_hooks(model, components)
    asked = tuple(placed(m, prompts, compat.n_layers(model)) for m in named_metrics(metrics))
    check_reference(kind, prompts, reference)
    experiment = Experiment(
        model=model,
        prompts=prompts,
        metrics=asked,
        components=tuple(components),
        positions=indices("position", positions, prompts.n_positions),
        kind=kind,
        reference=reference,
        draws=integer("draws", draws, least=1),
        bos=compat.bos_token(model, prepend_bos, bos_token_id),
        batch_size=integer("batch size", batch_size, least=1),
        seed=seed_number(seed),
        progress=truth("progress", progress),
    )
    workspace = Workspace(None, {})
    if workdir is not None:
        workspace = Workspace(
            as_path("workdir", workdir),
            {**experiment.described(), "model_fingerprint": model_fingerprint(model)},
        )
    baseline, values, settings = experiment.run(workspace)
    layers = tuple(sorted({c.layer for c in components}))
    heads = tuple(sorted({c.head for c in components}))
    effects = {}
    for k, metric in enumerate(asked):
        grid = torch.full((len(layers), len(heads), len(prompts)), float("nan"), dtype=torch.float64)
        for component, found in zip(components, values, strict=True):
            grid[layers.index(component.layer), heads.index(component.head)] = found[k] - baseline[k]
        effects[metric.name] = grid
    return HeadEffects(
        component=components[0].kind,
        layers=layers,
        heads=heads,
        effects=effects,
        baseline={metric.name: baseline[k] for k, metric in enumerate(asked)},
        units={metric.name: metric.unit for metric in asked},
        worse={metric.name: metric.worse for metric in asked},
        settings=settings,
    )
