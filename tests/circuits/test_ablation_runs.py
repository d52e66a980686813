"""Ablations: the model stays as it was, runs go on, bad input is refused."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tl_emergence as tle
from tests import toys
from tests.circuits.test_ablation import HELD_OUT, PARTNERS, PROMPTS
from tl_emergence import circuits
from tl_emergence.circuits.metrics import InformationMetric, LogitMetric
from tl_emergence.errors import EmergenceError, HookError, SettingError, StateError, TokenError
from tl_emergence.prompts import from_tokens

pytestmark = [
    pytest.mark.matrix,
    # Of models with folded gains; a test of its own asserts it.
    pytest.mark.filterwarnings("ignore:space='unit' was chosen"),
]

ZEROS = torch.zeros(8, dtype=torch.long)
TOO_LARGE = torch.tensor([[10, 9, 95], [11, 9, 8]])


# the model, the work folder


def test_the_model_is_untouched_also_after_an_exception(model: Any) -> None:
    def snapshot() -> tuple[Any, ...]:
        with torch.no_grad():
            logits = model(PROMPTS.tokens, return_type="logits")
        hooks = {name: len(m._forward_hooks) for name, m in model.named_modules()}
        forwards = [block.__dict__.get("forward") for block in model.blocks]
        return (
            logits,
            hooks,
            forwards,
            {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()},
        )

    before = snapshot()
    tle.ablate_heads(model, PROMPTS, ["loss", "emergence"], kind="mean", reference=HELD_OUT)
    after = snapshot()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]

    # In the middle of every forward pass that an ablation runs, one after another.
    passes, seen = 0, []
    while True:
        calls = iter(range(1000))

        def fails(z: torch.Tensor, hook: Any, calls: Any = calls, at: int = passes) -> None:
            if next(calls) == at:
                seen.append(snapshot_inside())
                raise KeyboardInterrupt

        def snapshot_inside() -> tuple[Any, ...]:
            return (
                {name: len(m._forward_hooks) for name, m in model.named_modules()},
                [block.__dict__.get("forward") for block in model.blocks],
            )

        with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", fails)]):
            clean = snapshot_inside()
            try:
                tle.ablate_heads(model, PROMPTS, ["loss"], kind="mean", reference=HELD_OUT)
            except KeyboardInterrupt:
                assert snapshot_inside() == clean, f"after pass {passes}"
            else:
                break
        passes += 1
    assert passes > 5
    assert sum(inside != clean for inside in seen) > 2  # hooks and skipped blocks were there at the time
    after = snapshot()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_a_work_folder_of_another_metric_is_refused(toy: Any, tmp_path: Path) -> None:
    right, wrong = torch.arange(8), torch.arange(8) + 20
    settings: dict[str, Any] = {"kind": "zero", "heads": ["L1H0"]}
    one, other = circuits.logit_difference(right, wrong), circuits.logit_difference(wrong, right)
    tle.ablate_heads(toy, PROMPTS, one, **settings, workdir=tmp_path / "a")
    with pytest.raises(EmergenceError, match="another"):
        tle.ablate_heads(toy, PROMPTS, other, **settings, workdir=tmp_path / "a")

    def first(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return logits[:, 0, 0]

    def second(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return logits[:, 0, 1]

    found = tle.ablate_heads(toy, PROMPTS, {"m": first}, **settings, workdir=tmp_path / "b")
    again = tle.ablate_heads(toy, PROMPTS, {"m": first}, **settings, workdir=tmp_path / "b")
    assert torch.equal(found.effects["m"], again.effects["m"])
    with pytest.raises(SettingError, match="belongs to another metric"):
        tle.ablate_heads(toy, PROMPTS, {"m": second}, **settings, workdir=tmp_path / "b")


def test_the_result_says_which_space_was_measured_and_whether_blocks_were_left_out(toy: Any) -> None:
    found = tle.ablate_heads(toy, PROMPTS, ["emergence"], kind="zero", heads=["L1H0"])
    assert found.settings["metrics"]["emergence"]["space"] == "read"
    assert found.settings["skips_blocks"] is True


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_a_hook_that_is_not_one_of_heads_is_refused(
    toy: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tl_emergence.capture.compat.head_hook", lambda layer: f"blocks.{layer}.hook_resid_pre"
    )
    with pytest.raises(HookError):
        tle.ablate_heads(toy, PROMPTS, "loss", kind=kind, reference=None if kind == "zero" else HELD_OUT)


def test_a_metric_cannot_change_the_prompts(toy: Any) -> None:
    def edits(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        tokens.zero_()
        return logits[:, 0, 0]

    before = PROMPTS.content_hash
    tle.ablate_heads(toy, PROMPTS, edits, kind="zero", heads=["L1H0"])
    assert PROMPTS.content_hash == before


def test_an_infinite_metric_and_tokens_of_other_prompts_are_refused(toy: Any) -> None:
    settings: dict[str, Any] = {"kind": "zero", "heads": ["L1H0"]}
    with pytest.raises(StateError, match="NaN or infinity"):
        tle.ablate_heads(toy, PROMPTS, lambda logits, tokens: logits[:, 0, 0] * math.inf, **settings)
    metric = circuits.logit_difference(torch.arange(16), torch.arange(16) + 1)
    with pytest.raises(SettingError, match="is for other prompts: saw tokens for 16 prompts"):
        tle.ablate_heads(toy, PROMPTS, metric, **settings)
    with pytest.raises(SettingError):
        tle.ablate_heads(toy, PROMPTS, circuits.emergence_at([], []), **settings)


def test_a_stopped_run_goes_on(toy: Any, tmp_path: Path) -> None:
    calls = iter(range(100))

    def stops(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return logits[:, 0, 0]

    metric = LogitMetric("first", "", lambda batch: stops(batch.logits, batch.tokens))
    with pytest.raises(KeyboardInterrupt):
        tle.ablate_heads(toy, PROMPTS, metric, kind="zero", workdir=tmp_path)
    again = tle.ablate_heads(toy, PROMPTS, metric, kind="zero", workdir=tmp_path)
    whole = tle.ablate_heads(toy, PROMPTS, metric, kind="zero")
    assert next(calls) == 4 + 1 + 2 + 5  # stopped at the fourth; clean again, two missing heads; all of them
    assert torch.equal(again.effects["first"], whole.effects["first"])
    with pytest.raises(SettingError, match="another run"):
        tle.ablate_heads(toy, PROMPTS, metric, kind="zero", heads=["L0H0"], workdir=tmp_path)


# bad input


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"heads": ["L2H0"]}, SettingError, "no such head"),
        ({"heads": [(0, 5)]}, SettingError, "no such head"),
        ({"heads": ["9.3"]}, SettingError, "not the name of a head"),
        ({"heads": []}, SettingError, "no head"),
        ({"metrics": []}, SettingError, "no metric"),
        ({"metrics": ["los"]}, SettingError, "Did you mean 'loss'"),
        ({"metrics": ["loss", "loss"]}, SettingError, "one name"),
        ({"metrics": [3]}, SettingError, "not a metric"),
        ({"metrics": None}, SettingError, "no metric"),
        ({"metrics": InformationMetric("i", sigma=0.0)}, SettingError, "sigma out of range"),
        ({"metrics": circuits.logit_difference(ZEROS + 90, ZEROS)}, SettingError, "not in the vocabulary"),
        ({"heads": 3}, SettingError, "not a sequence"),
        ({"heads": [(True, False)]}, SettingError, "not the name of a head"),
        ({"heads": [(0.5, 1)]}, SettingError, "not a whole number"),
        ({"kind": "mean", "reference": from_tokens(TOO_LARGE)}, TokenError, "outside the vocabulary"),
        ({"kind": "mean", "reference": [[1, 2, 3]]}, TokenError, "not a tensor"),
        ({"metrics": circuits.next_token_loss([2])}, SettingError, "looks at the next token"),
        ({"metrics": circuits.information_at([7])}, SettingError, "layer out of range"),
        ({"metrics": lambda logits, tokens: logits.mean()}, SettingError, "wrong shape"),
        ({"metrics": lambda logits, tokens, scale: logits[:, 0, 0]}, SettingError, "the wrong signature"),
        ({"metrics": lambda: 0.0}, SettingError, "the wrong signature"),
        ({"metrics": lambda logits, tokens: logits[:, 0, 0] * math.nan}, StateError, "returned NaN"),
        ({"kind": "remove"}, SettingError, "unknown kind"),
        ({"kind": "mean"}, SettingError, "needs a reference"),
        ({"kind": "corrupt"}, SettingError, "needs a reference"),
        ({"reference": HELD_OUT}, SettingError, "takes no reference"),
        ({"kind": "mean", "reference": PROMPTS}, TokenError, "overlaps"),
        ({"kind": "resample", "reference": PARTNERS}, TokenError, "overlaps"),
        ({"kind": "corrupt", "reference": HELD_OUT}, TokenError, "without a corrupted partner"),
        ({"kind": "corrupt", "reference": PROMPTS}, TokenError, "own corrupted partner"),
        (
            {"kind": "mean", "reference": from_tokens(torch.tensor([[1, 2], [3, 4]]))},
            TokenError,
            "another length",
        ),
        ({"positions": [9]}, SettingError, "position out of range"),
        ({"draws": 0}, SettingError, "draws"),
        ({"batch_size": 0}, SettingError, "batch size"),
    ],
)
def test_bad_input_gets_its_typed_error(
    toy: Any, settings: dict[str, Any], error: type[EmergenceError], message: str, as_shipped: None
) -> None:
    with pytest.raises(error, match=message):
        tle.ablate_heads(toy, PROMPTS, **{"metrics": ["loss"], "kind": "zero", **settings})


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(HookError, match="not a TransformerLens model"):
        tle.ablate_heads(torch.nn.Linear(2, 2), PROMPTS, ["loss"], kind="zero")


@pytest.mark.parametrize("right", [torch.zeros(3, dtype=torch.long), torch.zeros(2, 2, dtype=torch.long)])
def test_logit_difference_wants_one_token_a_prompt(right: torch.Tensor, as_shipped: None) -> None:
    with pytest.raises(SettingError, match="do not fit"):
        circuits.logit_difference(right, torch.zeros(4, dtype=torch.long))


def test_tokens_that_are_none_are_refused(as_shipped: None) -> None:
    with pytest.raises(SettingError, match="do not fit"):
        circuits.logit_difference([1, 2], [3, 4])  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="not a sequence"):
        circuits.kl_to_clean(1)  # type: ignore[arg-type]
    for sigma in ("a", None, -1.0, math.nan):
        with pytest.raises(SettingError, match="sigma"):
            circuits.emergence_at(sigma=sigma)  # type: ignore[arg-type]


def test_tokens_serve_as_prompts_and_reference(toy: Any) -> None:
    settings: dict[str, Any] = {"kind": "mean", "heads": "L1H0"}
    sets = tle.ablate_heads(toy, PROMPTS, "loss", reference=HELD_OUT, **settings)
    plain = tle.ablate_heads(toy, PROMPTS.tokens, "loss", reference=HELD_OUT.tokens, **settings)
    assert torch.equal(sets.effects["loss"], plain.effects["loss"])
    assert circuits.model_tokens(toy, PROMPTS.tokens).tolist() == PROMPTS.tokens.tolist()


def test_numpy_numbers_name_heads(toy: Any, as_shipped: None) -> None:
    heads = [(np.int64(1), np.int64(0))]
    found = tle.ablate_heads(toy, PROMPTS, "loss", kind="zero", heads=heads)  # type: ignore[arg-type]
    assert found.layers == (1,) and found.heads == (0,)


@pytest.mark.skipif(
    "hooked-LNPre" not in toys.MODEL_KINDS, reason="gains are folded in HookedTransformer only"
)
def test_a_space_that_was_chosen_for_the_caller_is_told() -> None:
    folded = toys.make_model("hooked-LNPre")
    with pytest.warns(tle.EmergenceWarning, match="space='unit' was chosen"):
        tle.ablate_heads(folded, PROMPTS, "emergence", kind="zero", heads="L1H0")
    with (
        pytest.warns(tle.EmergenceWarning, match="space='unit' was chosen"),
        tle.emergence_metric(folded, PROMPTS, layer=1),
    ):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = circuits.emergence_at(space="unit")
        tle.ablate_heads(folded, PROMPTS, asked, kind="zero", heads="L1H0")
