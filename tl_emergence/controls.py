"""The states of a model and of its controls: weights shuffled, tokens shuffled, states deranged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tl_emergence.capture.shuffled import with_shuffled_weights
from tl_emergence.capture.states import CapturedStates, capture_states
from tl_emergence.checkpoints import Workspace
from tl_emergence.checks import sequence
from tl_emergence.errors import SettingError, unknown_name
from tl_emergence.estimators.interface import generator_for
from tl_emergence.prompts.prompt_set import PromptSet

CONTROLS = ("shuffled_weights", "shuffled_tokens", "deranged")
"""The names that `controls=` knows."""

WITHOUT_MODEL = ("deranged",)
"""Those that are made of the states of the model itself, and run nothing."""


def check_controls(controls: Sequence[str], known: Sequence[str] = CONTROLS) -> None:
    """Raise SettingError unless every control is known, and one of those that can be had."""
    for name in sequence("controls", controls, f"names among {list(known)}"):
        if not isinstance(name, str) or name not in CONTROLS:
            raise unknown_name("control", str(name), CONTROLS)
        if name not in known:
            raise SettingError(
                "a control that needs the model",
                seen=repr(name),
                expected=f"some of {list(known)}",
                fix="Call information_emergence(model, prompts, controls=...), which runs it.",
            )


def captured(
    model: Any,
    prompts: PromptSet,
    run: str,
    seed: int,
    workspace: Workspace,
    progress: bool,
    settings: Mapping[str, Any],
) -> CapturedStates:
    """Capture the states of the model itself or of one control."""
    folder = workspace.subfolder(f"states-{run}")
    if run == "shuffled_weights":
        return with_shuffled_weights(
            model,
            seed,
            lambda: capture_states(model, prompts, folder=folder, progress=progress, **settings),
        )
    if run == "shuffled_tokens":
        prompts = _with_shuffled_tokens(prompts, seed)
    return capture_states(model, prompts, folder=folder, progress=progress, **settings)


def _with_shuffled_tokens(prompts: PromptSet, seed: int) -> PromptSet:
    """Permute the tokens of each position across prompts: marginals stay, the joint goes."""
    columns = [
        column[
            torch.randperm(len(prompts), generator=generator_for(seed, "shuffled_tokens", t), device="cpu")
        ]
        for t, column in enumerate(prompts.tokens.unbind(dim=1))
    ]
    details = {**prompts.details, "shuffled_tokens": {"seed": seed, "of": prompts.content_hash}}
    name = f"{prompts.name}, tokens shuffled"
    return PromptSet(torch.stack(columns, dim=1), prompts.labels, name, None, details, prompts.masked)
