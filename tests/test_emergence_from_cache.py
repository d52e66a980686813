"""Emergence from activation caches: what the model gives, padding, partial caches, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tl_emergence as tle
from tests import toys
from tests.test_emergence import PROMPTS, measure
from tl_emergence.capture import capture_states
from tl_emergence.errors import SettingError, StateError, TokenError

pytestmark = pytest.mark.matrix


def caches(model: Any, bos: int | None = None) -> Any:
    distinct = toys.TOKENS.unique()
    before = [] if bos is None else [bos]

    def run(rows: torch.Tensor) -> Any:
        prefix = torch.tensor(before, dtype=torch.int64).expand(len(rows), -1)
        return model.run_with_cache(torch.cat([prefix, rows], dim=1))[1]

    return {
        "cache": run(toys.TOKENS),
        "micro_cache": run(distinct[:, None]),
        "tokens": toys.TOKENS,
        "micro_tokens": distinct,
        "n_prefix": len(before),
    }


@pytest.mark.parametrize("bos", [None, 1])
def test_from_cache_gives_what_the_model_gives(model: Any, bos: int | None) -> None:
    direct = measure(model, bos_token_id=bos, prepend_bos=bos is not None, space="resid")
    cached = tle.information_emergence_from_cache(**caches(model, bos), space="resid")
    assert torch.allclose(direct.emergence, cached.emergence, atol=1e-4)
    assert torch.equal(direct.exact.emergence, cached.exact.emergence)


def test_from_cache_reads_with_the_norms_it_is_given(model: Any) -> None:
    if capture_states(model, PROMPTS).reading.folded:
        pytest.skip("gains folded")
    norms = [*(block.ln1 for block in model.blocks), model.ln_final]

    direct = measure(model, space="read")
    cached = tle.information_emergence_from_cache(**caches(model), norms=norms)
    assert cached.space == "read"
    assert torch.allclose(direct.emergence, cached.emergence, atol=1e-4)


BOS = 1


from_cache: Any = tle.information_emergence_from_cache  # takes lists and arrays, too


def test_a_cache_with_bos_is_not_read_one_position_early(toy: Any) -> None:
    # The state of BOS would be taken for that of the first token, and so on.
    behind_bos, bare = caches(toy, BOS), caches(toy)
    with pytest.raises(StateError, match="the cache is longer than the prompts: saw 4 .*n_prefix=1"):
        from_cache(**{**bare, "cache": behind_bos["cache"]}, space="unit")


def test_a_cache_whose_states_are_shifted_is_refused_though_its_length_fits(toy: Any) -> None:
    # run_with_cache put BOS in front, and the last position was cut off.
    behind_bos, given = caches(toy, BOS), caches(toy)
    states = {name: x[:, :3] for name, x in behind_bos["cache"].items() if "hook_resid_p" in name}
    for positions in (None, [0], [1], [2]):
        with pytest.raises(StateError, match="the cache does not belong to these tokens: saw h_0"):
            from_cache(**{**given, "cache": states}, positions=positions, space="unit")
    elsewhere = {name: x.roll(1, 0) for name, x in given["cache"].items() if "hook_resid_p" in name}
    with pytest.raises(StateError, match="prompts|belong to these tokens"):
        from_cache(**{**given, "cache": elsewhere}, space="unit")


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.tolist])
def test_caches_of_arrays_or_lists_give_what_tensors_give(convert: Any, toy: Any) -> None:
    given = caches(toy)
    plain = from_cache(**given, space="unit")
    for name in ("cache", "micro_cache"):
        given[name] = {hook: convert(x) for hook, x in given[name].items() if "hook_resid_p" in hook}
    given["micro_tokens"] = convert(given["micro_tokens"])
    found = from_cache(**given, space="unit", attention_mask=[[1, 1, 1]] * 8)
    assert torch.equal(found.emergence, plain.emergence)


@pytest.mark.usefixtures("as_shipped")
def test_a_cache_that_holds_something_else_names_its_type(toy: Any) -> None:
    given = caches(toy)
    given["cache"] = dict.fromkeys(given["cache"].keys(), "state")
    with pytest.raises(StateError, match="hook_resid_pre in the cache is no tensor: saw str"):
        from_cache(**given, space="unit")


def test_from_cache_without_norms_warns_that_it_cannot_read(model: Any) -> None:
    with pytest.warns(tle.EmergenceWarning, match="not every norm is known"):
        found = tle.information_emergence_from_cache(**caches(model))
    assert found.space == "unit"
    with pytest.raises(SettingError, match="no norms were passed"):
        tle.information_emergence_from_cache(**caches(model), space="read")


def test_from_cache_finds_the_content_of_padded_runs_by_the_mask(model: Any) -> None:
    given = caches(model)
    plain = tle.information_emergence_from_cache(**given, space="resid")
    pads = torch.arange(8) % 3  # 0, 1 or 2 pads on the left, the rest on the right
    mask = torch.zeros(8, 5, dtype=torch.int64)
    padded = {name: torch.full((8, 5, toys.D_MODEL), 77.0) for name in given["cache"] if "resid" in name}
    for i, pad in enumerate(pads.tolist()):
        mask[i, pad : pad + 3] = 1
        for name, states in padded.items():
            states[i, pad : pad + 3] = given["cache"][name][i]
    given |= {"cache": padded}
    found = tle.information_emergence_from_cache(**given, attention_mask=mask, space="resid")
    assert torch.equal(found.emergence, plain.emergence)


def test_from_cache_needs_only_the_positions_that_are_scored(model: Any) -> None:
    given = caches(model)
    whole = tle.information_emergence_from_cache(**given, space="unit")
    trimmed = {n: v[:, :2] for n, v in given["cache"].items() if n.startswith("blocks") and "resid" in n}
    given |= {"cache": trimmed}
    found = tle.information_emergence_from_cache(**given, positions=[0, 1], space="unit")
    # At position 0 macro is micro, whose draws depend on how many positions there are.
    assert torch.allclose(found.macro[:, 1], whole.macro[:, 1], atol=1e-6)
    with pytest.raises(StateError, match="at least 3 positions"):
        tle.information_emergence_from_cache(**given, positions=[0, 1], space="resid")


def test_from_cache_needs_only_the_layers_that_are_scored(model: Any) -> None:
    given = caches(model)
    few = {
        n: v for n, v in given["cache"].items() if n in ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre")
    }
    given |= {"cache": few}
    found = tle.information_emergence_from_cache(**given, layers=[0], space="resid")
    assert found.layers == (0,)
    with pytest.raises(
        StateError, match=r"a hook is missing from the cache: saw no blocks.1.hook_resid_post"
    ):
        tle.information_emergence_from_cache(**given, space="resid")


def edited(name: str, change: Any) -> Any:
    def edit(given: dict[str, Any]) -> dict[str, Any]:
        states = dict(given[name].items())
        for hook in [h for h in states if h.startswith("blocks.") and "resid" in h]:
            states[hook] = change(states[hook].clone())
        return {**given, name: states}

    return edit


def poison(states: torch.Tensor) -> torch.Tensor:
    states[3, -1, 0] = float("nan")
    return states


def per_prompt(states: torch.Tensor) -> torch.Tensor:
    return states + torch.arange(len(states))[:, None, None]


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda g: {**g, "cache": (1, g["cache"])}, StateError, "cache is no cache: saw tuple"),
        (lambda g: {**g, "micro_cache": None}, StateError, "micro_cache is no cache: saw NoneType"),
        (lambda g: {**g, "micro_tokens": None}, StateError, "micro_tokens is not a tensor of token ids"),
        (
            lambda g: {**g, "norms": torch.nn.Identity()},
            SettingError,
            "norms are not callables: saw Id",
        ),
        (lambda g: {**g, "norms": [torch.ones(2)] * 3}, SettingError, "norms are not callables: saw list"),
        (lambda g: {**g, "cache": {}}, StateError, "no residual stream in the cache: saw 0 entries"),
        (edited("cache", lambda s: s[:, 0]), StateError, "states in the cache do not fit the tokens"),
        (edited("cache", lambda s: s[:4]), StateError, "states in the cache do not fit the tokens"),
        (edited("cache", lambda s: s[:, :2]), StateError, "with 8 examples and at least 3 positions"),
        (edited("cache", lambda s: s.long()), StateError, "do not fit the tokens"),
        (edited("micro_cache", lambda s: s[:, [0, 0]]), StateError, "states in the micro_cache do not fit"),
        (
            edited("cache", poison),
            StateError,
            "states are not finite: saw NaN or infinity in h_0 at position 2",
        ),
        (edited("micro_cache", poison), StateError, "states are not finite"),
        (edited("cache", per_prompt), StateError, "prompts with the same prefix have different states"),
        (
            lambda g: {**g, "micro_tokens": g["micro_tokens"][:4]},
            StateError,
            "tokens without a micro state: saw",
        ),
        (
            lambda g: {**g, "micro_tokens": g["tokens"]},
            StateError,
            "micro_tokens does not name the micro rows",
        ),
        (lambda g: {**g, "tokens": g["tokens"][0]}, TokenError, "tokens have the wrong shape"),
        (lambda g: {**g, "tokens": g["tokens"].float()}, TokenError, "tokens have the wrong dtype"),
        (lambda g: {**g, "n_prefix": -1}, SettingError, "n_prefix out of range: saw -1"),
        (
            lambda g: {**g, "norms": [torch.nn.Identity()]},
            SettingError,
            "wrong number of norms: saw 1; expected 3",
        ),
        (lambda g: {**g, "layers": [2]}, SettingError, r"layer out of range: saw \[2\]"),
        (lambda g: {**g, "positions": [-4]}, SettingError, r"position out of range: saw \[-4\]"),
        (
            lambda g: {**g, "attention_mask": torch.ones(8, 9)},
            StateError,
            "attention_mask does not fit the tokens",
        ),
    ],
)
def test_caches_that_do_not_fit_get_a_typed_error(
    toy: Any, edit: Any, error: type[Exception], message: str
) -> None:
    given: Any = {"space": "resid", **edit(caches(toy))}
    with pytest.raises(error, match=message):
        tle.information_emergence_from_cache(**given)


def test_the_callers_caches_are_not_changed(toy: Any) -> None:
    given = caches(toy)
    before = {name: states.clone() for name, states in given["cache"].items()}
    tle.information_emergence_from_cache(**given, space="resid")
    assert all(torch.equal(given["cache"][name], states) for name, states in before.items())
