"""Ablation: what a hand-written hook on `hook_z` gives, for every class, kind and metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence import circuits, models
from tl_emergence.capture import edited
from tl_emergence.errors import SettingError
from tl_emergence.prompts import from_tokens

PROMPTS = from_tokens(toys.TOKENS)
HELD_OUT = from_tokens(torch.tensor([[10, 9, 7], [11, 9, 8], [12, 9, 5], [13, 9, 6]]))
PARTNERS = from_tokens(toys.TOKENS.flip(0))

pytestmark = [
    pytest.mark.matrix,
    # Of models with folded gains; a test of its own asserts it.
    pytest.mark.filterwarnings("ignore:space='unit' was chosen"),
]


def logits_by_hand(model: Any, hook: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.run_with_hooks(
            PROMPTS.tokens, return_type="logits", fwd_hooks=[(hook, lambda z, hook: edit(z))]
        )


def loss_by_hand(logits: torch.Tensor, tokens: torch.Tensor = PROMPTS.tokens) -> torch.Tensor:
    log_p = logits[:, :-1].double().log_softmax(dim=-1)
    return -log_p.gather(-1, tokens[:, 1:, None])[..., 0].mean(dim=1) / math.log(2)


def outputs(model: Any, hook: str, tokens: torch.Tensor) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    with torch.no_grad():
        model.run_with_hooks(
            tokens, return_type="logits", fwd_hooks=[(hook, lambda z, hook: kept.append(z.clone()))]
        )
    return kept[0]


def replacement(model: Any, kind: str, layer: int, head: int) -> torch.Tensor:
    hook = f"blocks.{layer}.attn.hook_z"
    if kind == "zero":
        return torch.zeros(())
    if kind == "corrupt":
        return outputs(model, hook, PARTNERS.tokens)[:, :, head]
    held_out = outputs(model, hook, HELD_OUT.tokens)[:, :, head]
    return held_out.mean(dim=(0, 1)) if kind == "mean" else held_out.mean(dim=0)


@pytest.mark.parametrize("kind", ["zero", "mean", "mean_pos", "corrupt"])
def test_ablating_a_head_is_editing_hook_z_by_hand(model: Any, kind: Any) -> None:
    reference = {"zero": None, "corrupt": PARTNERS}.get(kind, HELD_OUT)
    found = tle.ablate_heads(
        model, PROMPTS, ["loss"], kind=kind, reference=reference, prepend_bos=False, batch_size=3
    )
    for layer in range(toys.N_LAYERS):
        for head in range(2):
            value = replacement(model, kind, layer, head)

            def edit(z: torch.Tensor, value: torch.Tensor = value, head: int = head) -> torch.Tensor:
                z = z.clone()
                z[:, :, head] = value
                return z

            wanted = loss_by_hand(logits_by_hand(model, f"blocks.{layer}.attn.hook_z", edit))
            got = found.effects["loss"][layer, head] + found.baseline["loss"]
            assert torch.allclose(got, wanted, atol=1e-5)


def test_logits_of_an_ablated_head_equal_those_by_hand(model: Any) -> None:
    seen: list[torch.Tensor] = []

    def keep(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        seen.append(logits.clone())
        return logits[:, 0, 0]

    tle.ablate_heads(model, PROMPTS, keep, kind="zero", heads=["L1H1"], positions=[1], prepend_bos=False)

    def edit(z: torch.Tensor) -> torch.Tensor:
        z = z.clone()
        z[:, 1, 1] = 0
        return z

    wanted = logits_by_hand(model, "blocks.1.attn.hook_z", edit)
    assert len(seen) == 2 and torch.allclose(seen[1], wanted, atol=1e-5)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)


def test_blocks_below_are_left_out_and_nothing_changes(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def measure() -> tle.HeadEffects:
        ran.append(0)
        with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: count(x))]):
            return tle.ablate_heads(
                model, PROMPTS, ["loss", "emergence"], kind="zero", heads=["L1H0", "L1H1"], batch_size=8
            )

    def count(stream: torch.Tensor) -> None:
        ran[-1] += len(stream) == len(PROMPTS)  # not the few prompts of a proof

    short = measure()
    monkeypatch.setattr("tl_emergence.circuits.experiment.prove_shortcuts", lambda *_, **__: edited.WHOLE)
    whole = measure()
    assert ran[1] - ran[0] == 2  # one pass for each head
    for metric in whole.metrics:
        assert torch.allclose(short.effects[metric], whole.effects[metric], atol=1e-6)


def test_a_block_left_out_hands_its_input_on(model: Any) -> None:
    found = tle.ablate_blocks(model, PROMPTS, ["loss"], kind="zero", prepend_bos=False)
    entering = outputs(model, "blocks.1.hook_resid_pre", PROMPTS.tokens)
    wanted = loss_by_hand(logits_by_hand(model, "blocks.1.hook_resid_post", lambda x: entering))
    assert torch.allclose(found.effects["loss"][1, 0] + found.baseline["loss"], wanted, atol=1e-5)


def test_an_mlp_is_ablated_where_it_writes(model: Any) -> None:
    found = tle.ablate_mlps(model, PROMPTS, ["loss"], kind="zero", prepend_bos=False, layers=[-1])
    wanted = loss_by_hand(logits_by_hand(model, "blocks.1.hook_mlp_out", torch.zeros_like))
    assert found.layers == (1,) and found.label(1, 0) == "L1MLP"
    assert torch.allclose(found.effects["loss"][0, 0] + found.baseline["loss"], wanted, atol=1e-5)


@pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="a local checkpoint needs a TransformerBridge")
def test_one_query_head_changes_under_grouped_query_attention(tmp_path: Path) -> None:
    model = models.load(str(toys.save_checkpoint(tmp_path)))
    changed: list[torch.Tensor] = []
    clean = outputs(model, "blocks.0.attn.hook_z", PROMPTS.tokens)

    def watch(tensor: torch.Tensor, hook: Any) -> None:
        if len(tensor) == len(clean):  # not the probe
            changed.append((tensor != clean).flatten(3).any(dim=3).any(dim=1).any(dim=0))

    def keep(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return logits[:, -1, 0]

    run = edited.run_edited

    def watched(model: Any, tokens: torch.Tensor, *, edits: Any = (), **rest: Any) -> Any:
        return run(
            model, tokens, edits=[*edits, ("blocks.0.attn.hook_z", lambda z: watch(z, None) or z)], **rest
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tl_emergence.circuits.experiment.run_edited", watched)
        tle.ablate_heads(model, PROMPTS, keep, kind="zero", heads=[(0, 1)], prepend_bos=False)
    assert changed[0].tolist() == [False, False]  # the clean pass
    assert changed[-1].tolist() == [False, True]


@pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="a local checkpoint needs a TransformerBridge")
def test_parallel_blocks_can_be_ablated(tmp_path: Path) -> None:
    model = models.load(str(toys.save_parallel_checkpoint(tmp_path)))
    found = tle.ablate_heads(model, PROMPTS, ["loss"], kind="zero", heads=["L1H0"], prepend_bos=False)

    def edit(z: torch.Tensor) -> torch.Tensor:
        z = z.clone()
        z[:, :, 0] = 0
        return z

    wanted = loss_by_hand(logits_by_hand(model, "blocks.1.attn.hook_z", edit))
    assert torch.allclose(found.effects["loss"][0, 0] + found.baseline["loss"], wanted, atol=1e-5)


HOOKED = pytest.mark.skipif(toys.LENS_MAJOR > 3, reason="TransformerLens 4 has no HookedTransformer")


@HOOKED
@pytest.mark.parametrize(
    ("changes", "wanted"),
    [({"n_heads": 4, "n_key_value_heads": 2}, 4), ({"parallel_attn_mlp": True}, 2)],
    ids=["grouped queries", "parallel blocks"],
)
def test_hooked_models_with_shared_keys_or_parallel_blocks(changes: dict[str, Any], wanted: int) -> None:
    model = toys.make_model("hooked-LN", **changes)
    found = tle.ablate_heads(model, PROMPTS, ["loss"], kind="zero", prepend_bos=False)
    assert len(found.heads) == wanted
    for layer in range(2):
        for head in range(wanted):

            def edit(z: torch.Tensor, head: int = head) -> torch.Tensor:
                z = z.clone()
                z[:, :, head] = 0
                return z

            by_hand = loss_by_hand(logits_by_hand(model, f"blocks.{layer}.attn.hook_z", edit))
            got = found.effects["loss"][layer, head] + found.baseline["loss"]
            assert torch.allclose(got, by_hand, atol=1e-5)


def test_resampling_is_the_mean_over_draws_of_partners_held_out(toy: Any) -> None:
    found = tle.ablate_heads(
        toy,
        PROMPTS,
        ["loss"],
        kind="resample",
        heads=["L1H1"],
        reference=HELD_OUT,
        draws=400,
        prepend_bos=False,
    )
    z = outputs(toy, "blocks.1.attn.hook_z", HELD_OUT.tokens)
    by_partner = []
    for partner in range(len(HELD_OUT)):

        def edit(clean: torch.Tensor, partner: int = partner) -> torch.Tensor:
            clean = clean.clone()
            clean[:, :, 1] = z[partner, :, 1]
            return clean

        by_partner.append(loss_by_hand(logits_by_hand(toy, "blocks.1.attn.hook_z", edit)))
    values = torch.stack(by_partner)
    wanted, spread = values.mean(dim=0), values.std(dim=0, unbiased=False) / math.sqrt(400)
    got = found.effects["loss"][0, 0] + found.baseline["loss"]
    assert bool(((got - wanted).abs() <= 4 * spread + 1e-6).all())


# metrics


def test_emergence_of_the_clean_model_is_that_of_information_emergence(toy: Any) -> None:
    found = tle.ablate_heads(
        toy,
        PROMPTS,
        {"e": circuits.emergence_at([1], [2]), "m": circuits.information_at([1], [2])},
        kind="zero",
    )
    whole = tle.information_emergence(toy, PROMPTS)
    error = 4 * float(whole.stderr[1, 2]) + 1e-6
    assert abs(float(found.baseline["e"].mean() - whole.emergence[1, 2])) < error
    assert abs(float(found.baseline["m"].mean() - whole.macro[1, 2])) < error
    assert torch.allclose(
        found.effects["e"], found.effects["m"], atol=1e-12
    )  # micro is taken off and put back


def test_a_head_changes_nothing_below_itself(toy: Any) -> None:
    found = tle.ablate_heads(toy, PROMPTS, circuits.information_at([0], [2]), kind="zero")
    assert bool((found.effects["information"][0] != 0).any())
    assert bool((found.effects["information"][1] == 0).all())


def test_blocks_below_a_head_keep_their_information_and_those_above_are_measured(toy: Any) -> None:
    of = {"both": [0, 1], "low": [0], "high": [1]}
    metrics = {name: circuits.information_at(layers, [1, 2]) for name, layers in of.items()}
    found = tle.ablate_heads(toy, PROMPTS, metrics, kind="zero").effects
    assert torch.allclose(found["both"], (found["low"] + found["high"]) / 2, atol=1e-12)
    assert bool((found["both"][1] != 0).any())


def test_effects_become_values_of_units_without_heads_that_were_not_asked_for(toy: Any) -> None:
    found = tle.ablate_heads(toy, PROMPTS, ["loss"], kind="zero", heads=["L1H0", "L0H1"])
    values = found.values("loss")
    assert (values.labels, values.layers, values.unit) == (("L0H1", "L1H0"), (0, 1), "bits, ablated - clean")
    assert values.prompts == PROMPTS.content_hash
    assert torch.equal(values.values, torch.stack([found.effects["loss"][0, 1], found.effects["loss"][1, 0]]))
    with pytest.raises(SettingError, match="kl"):
        found.values("kl")


def test_kl_is_that_of_its_own_positions_also_beside_other_metrics(toy: Any) -> None:
    metrics = [circuits.next_token_loss([1]), circuits.kl_to_clean([0, 2])]
    found = tle.ablate_heads(
        toy, PROMPTS, metrics, kind="zero", heads="L0H1", prepend_bos=False, batch_size=3
    )

    def edit(z: torch.Tensor) -> torch.Tensor:
        z = z.clone()
        z[:, :, 1] = 0
        return z

    ablated = logits_by_hand(toy, "blocks.0.attn.hook_z", edit).double().log_softmax(dim=-1)
    clean = logits_by_hand(toy, "blocks.0.attn.hook_z", torch.clone).double().log_softmax(dim=-1)
    bits = (clean.exp() * (clean - ablated)).sum(dim=-1) / math.log(2)
    assert torch.allclose(found.effects["kl"][0, 0], bits[:, [0, 2]].mean(dim=1), atol=1e-5)


def test_kl_is_0_clean_and_positive_ablated(toy: Any) -> None:
    found = tle.ablate_heads(toy, PROMPTS, ["kl"], kind="zero")
    assert float(found.baseline["kl"].abs().max()) < 1e-6
    assert bool((found.effects["kl"] > 0).all())


def test_logit_difference_is_that_of_each_prompts_own_tokens(toy: Any) -> None:
    right, wrong = torch.arange(8), torch.arange(8) + 20
    metric = circuits.logit_difference(right, wrong)
    found = tle.ablate_heads(toy, PROMPTS, metric, kind="zero", prepend_bos=False, batch_size=3)
    with torch.no_grad():
        last = toy(PROMPTS.tokens, return_type="logits")[:, -1]
    rows = torch.arange(8)
    assert torch.allclose(
        found.baseline["logit_difference"], (last[rows, right] - last[rows, wrong]).double(), atol=1e-5
    )


def test_a_metric_of_logits_alone_is_that_of_logits_and_tokens(toy: Any) -> None:
    metrics = {
        "alone": lambda logits: logits[:, -1, 3],
        "both": lambda logits, tokens: logits[:, -1, 3],
        "optional": lambda logits, tokens, scale=1.0: logits[:, -1, 3] * scale,
    }
    effects = tle.ablate_heads(toy, PROMPTS, metrics, kind="zero", heads=["L0H0", "L1H1"])
    assert float(effects.mean("both").nan_to_num().abs().max()) > 0
    for name in ("alone", "optional"):
        assert torch.equal(effects.effects[name].nan_to_num(), effects.effects["both"].nan_to_num())


def test_effects_do_not_depend_on_the_batch_size(toy: Any) -> None:
    sizes = [
        tle.ablate_heads(
            toy, PROMPTS, ["loss", "kl", "emergence"], kind="mean", reference=HELD_OUT, batch_size=size
        )
        for size in (1, 8)
    ]
    for metric in sizes[0].metrics:
        assert torch.allclose(sizes[0].effects[metric], sizes[1].effects[metric], atol=1e-5)
