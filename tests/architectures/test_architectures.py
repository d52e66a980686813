"""States, emergence, ablation and head scores of many architectures equal those of plain transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest
import torch

import tl_emergence as tle
from tests.architectures import plain
from tests.architectures.families import BOS, FAMILIES, N_HEADS, N_LAYERS, VOCABULARY, Family, save_family
from tl_emergence import circuits
from tl_emergence.capture import Space, capture_states
from tl_emergence.errors import HookError, ModelLoadError
from tl_emergence.prompts import from_tokens

LENS = ".".join(version("transformer-lens").split(".")[:2])
pytestmark = [
    pytest.mark.matrix,
    pytest.mark.skipif(LENS < "3", reason="TransformerLens 2 goes by names, not by a checkpoint"),
]

N, T = 16, 5
_GENERATOR = torch.Generator().manual_seed(3)
TOKENS, HELD_OUT = (torch.randint(1, VOCABULARY, (n, T), generator=_GENERATOR) for n in (N, 7))
PROMPTS = from_tokens(TOKENS)

# Families that a TransformerLens does not load.
NOT_LOADED: dict[str, dict[str, str]] = {
    "3.5": {
        "Gemma 4": "gemma4_text",
        "GPT-NeoX, sequential": "embed_out",
        "GPT-NeoX, parallel": "embed_out",
        "Mixtral": "block_sparse_moe",
    }
}
# Hooks of MLPs that do not hold what is added to the stream.
WRONG_MLP_HOOKS = {"3.5": {"OLMo 2", "BLOOM", "OPT"}}

METRICS = ["loss", circuits.kl_to_clean(range(T))]

LOADED = [name for name in FAMILIES if name not in NOT_LOADED.get(LENS, {})]
OTHERS = [name for name in FAMILIES if name not in LOADED]


@dataclass(frozen=True, eq=False, repr=False)
class Both:
    """A family's TransformerLens model and its plain model, from the same folder."""

    model: Any
    hf: plain.Plain


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], str]:
    """Write each checkpoint once. Old versions go by the name of a folder: it must not say the family."""
    folders: dict[str, str] = {}

    def folder_of(family: Family) -> str:
        if family.name not in folders:
            folders[family.name] = str(save_family(family, tmp_path_factory.mktemp("checkpoint")))
        return folders[family.name]

    return folder_of


@pytest.fixture(scope="module", params=LOADED)
def both(request: pytest.FixtureRequest, checkpoint: Callable[[Family], str]) -> Both:
    from transformers import AutoModelForCausalLM

    family = FAMILIES[request.param]
    folder = checkpoint(family)
    hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    return Both(tle.models.load(folder, device="cpu"), plain.Plain(family, hf))


def test_states_are_those_of_transformers(both: Both) -> None:
    model, hf = both.model, both.hf
    found = capture_states(model, PROMPTS, bos_token_id=BOS)
    wanted = hf.states(TOKENS)
    for t, (states, rows) in enumerate(zip(found.macro, found.prefix_rows, strict=True)):
        assert torch.allclose(states[:, rows], wanted[:, :, t], atol=1e-5 * float(wanted.abs().max()))


def test_emergence_is_that_of_the_states_of_transformers(both: Both) -> None:
    model, hf = both.model, both.hf
    # In the order of their first appearance, as in a capture: noise draws go by rows.
    vocabulary = torch.tensor(list(dict.fromkeys(TOKENS.t().flatten().tolist())))
    spaces: list[Space] = ["read"] if hf.family.first_norm else ["resid"]
    cells: Any = {"layers": [0, -1], "positions": [-1], "space": spaces}

    def cache(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        *before, last = hf.states(tokens, offset=0)
        states = {f"blocks.{layer}.hook_resid_pre": state for layer, state in enumerate(before)}
        return {**states, f"blocks.{N_LAYERS - 1}.hook_resid_post": last}

    wanted = tle.information_emergence_from_cache(
        cache(TOKENS),
        cache(vocabulary[:, None]),
        tokens=TOKENS,
        micro_tokens=vocabulary,
        norms=hf.norms() if hf.family.first_norm else None,
        **cells,
    )
    found = tle.information_emergence(model, PROMPTS, bos_token_id=BOS, **cells)
    for space in spaces:
        assert torch.allclose(found[space].emergence, wanted[space].emergence, atol=1e-5)


@pytest.mark.parametrize("kind", ["zero", "mean"])
@pytest.mark.parametrize("part", ["head", "mlp", "block"])
def test_effects_of_ablation_are_those_of_the_edit_in_transformers(both: Both, part: str, kind: Any) -> None:
    model, hf = both.model, both.hf
    ablate: Any = {"head": tle.ablate_heads, "mlp": tle.ablate_mlps, "block": tle.ablate_blocks}[part]
    reference = HELD_OUT if kind == "mean" else None
    settings: Any = {"kind": kind, "reference": reference, "bos_token_id": BOS, "batch_size": 10}
    if part == "mlp" and hf.family.name in WRONG_MLP_HOOKS.get(LENS, ()):
        with pytest.raises(HookError, match="hook_mlp_out"):
            ablate(model, PROMPTS, METRICS, **settings)
        return
    found = ablate(model, PROMPTS, METRICS, **settings)
    clean = hf.logits(TOKENS)
    assert torch.allclose(found.baseline["loss"], plain.loss(clean, TOKENS), atol=1e-5)
    for layer in range(N_LAYERS):
        for head in range(N_HEADS if part == "head" else 1):
            ablated = hf.ablated_logits(part, layer, head, TOKENS, reference)
            wanted = plain.loss(ablated, TOKENS) - plain.loss(clean, TOKENS)
            assert float(wanted.abs().max()) > 1e-3, "an edit that changes nothing tells nothing"
            assert torch.allclose(found.effects["loss"][layer, head], wanted, atol=1e-5)
            assert torch.allclose(found.effects["kl"][layer, head], plain.kl(clean, ablated), atol=1e-5)


def test_head_scores_are_those_of_the_attention_of_transformers(both: Both) -> None:
    model, hf = both.model, both.hf
    tokens = TOKENS.repeat(1, 2)
    pattern = hf.patterns(tokens)
    content = pattern[:, :, :, plain.OFFSET :]
    bits = -torch.xlogy(content, content).sum(dim=-1) / torch.log(torch.tensor(2.0))

    def paid(start: int, back: int) -> torch.Tensor:
        places = [plain.OFFSET + t for t in range(start, 2 * T)]
        return torch.stack([pattern[..., t, t - back] for t in places]).mean(dim=(0, 2))

    prompts = from_tokens(tokens)
    options: Any = {"bos_token_id": BOS}
    found = circuits.previous_token_scores(model, prompts, **options)
    assert torch.allclose(found, paid(1, 1), atol=1e-5)
    found = circuits.induction_scores(model, prompts, period=T, **options)
    assert torch.allclose(found, paid(T, T - 1), atol=1e-5)
    found = circuits.attention_entropies(model, prompts, **options)
    assert torch.allclose(found, bits.mean(dim=(1, 3)), atol=1e-5)
    found = circuits.head_norms(model, prompts, **options)
    assert torch.allclose(found, hf.head_norms(tokens), rtol=1e-4)


@pytest.mark.parametrize("name", OTHERS)
def test_a_family_that_this_version_does_not_know_is_refused(
    name: str, checkpoint: Callable[[Family], str]
) -> None:
    with pytest.raises(ModelLoadError, match=NOT_LOADED[LENS][name]):
        tle.models.load(checkpoint(FAMILIES[name]), device="cpu")
