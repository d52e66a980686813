"""Inputs that every function takes alike: masks, indices, BOS, truth values, numbers of NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tl_emergence
from tests import toys
from tl_emergence import circuits as typed_circuits
from tl_emergence import prompts
from tl_emergence.errors import SettingError

# Arguments here are of other types than annotated, on purpose.
tle: Any = tl_emergence
circuits: Any = typed_circuits

pytestmark = pytest.mark.usefixtures("as_shipped")

SECOND = [False, True]
"""A mask of two blocks. Read as numbers it would name both."""


def last_of(kind: str, n: int) -> Any:
    mask = [False] * (n - 1) + [True]
    return {"list": mask, "numpy": np.array(mask), "torch": torch.tensor(mask)}[kind]


@pytest.mark.parametrize("kind", ["list", "numpy", "torch"])
def test_layers_and_positions_take_masks_in_every_function_of_a_model(
    kind: str, toy: Any, tokens: Any
) -> None:
    where = {"layers": last_of(kind, 2), "positions": last_of(kind, 3)}
    options: dict[str, Any] = {"prepend_bos": False, "space": "unit"}
    result = tle.information_emergence(toy, tokens, **where, **options)
    assert (result.layers, result.positions) == ((1,), (2,))
    whole = tle.half_block_emergence(toy, tokens, **where, **options).whole
    assert (whole.layers, whole.positions) == ((1,), (2,))
    states = tle.capture_states(toy, prompts.from_tokens(tokens), **where, prepend_bos=False)
    assert (states.layers, states.positions) == ((1,), (2,))
    assert tle.exact_emergence(states.prompts, layers=[1], positions=where["positions"]).macro.shape == (1, 1)
    loss: dict[str, Any] = {"kind": "zero", "prepend_bos": False}
    assert tle.ablate_mlps(toy, tokens, "loss", layers=where["layers"], **loss).layers == (1,)
    first = tle.ablate_blocks(toy, tokens, "loss", positions=[0], **loss)
    masked = tle.ablate_blocks(toy, tokens, "loss", positions=[True, False, False], **loss)
    assert torch.equal(first.mean("loss"), masked.mean("loss"))


@pytest.mark.parametrize(
    "call",
    [
        lambda toy, tokens: tle.information_emergence(toy, tokens, layers=[True]),
        lambda toy, tokens: tle.information_emergence(toy, tokens, positions=[True, False]),
        lambda toy, tokens: tle.exact_emergence(prompts.from_tokens(tokens), layers=[True, False]),
        lambda toy, tokens: circuits.next_token_loss([True, False, False]),
        lambda toy, tokens: circuits.kl_to_clean(np.array([False, False, True])),
        lambda toy, tokens: circuits.emergence_at([False, True], [2]),
        lambda toy, tokens: circuits.information_at([1], torch.tensor([False, False, True])),
        lambda toy, tokens: tle.emergence_metric(toy, tokens, layer=True).__enter__(),
        lambda toy, tokens: tle.emergence_metric(toy, tokens, layer=0, pos=True).__enter__(),
        lambda toy, tokens: tle.ablate_heads(toy, tokens, "loss", heads=[True, False, True, True]),
        lambda toy, tokens: tle.ablate_heads(toy, tokens, "loss", heads=[(True, 0)]),
        lambda toy, tokens: tle.information_emergence(toy, tokens, prepend_bos=False, space="unit").at(
            True, 2
        ),
    ],
)
def test_a_mask_or_a_truth_value_is_never_read_as_the_numbers_0_and_1(
    call: Any, toy: Any, tokens: Any
) -> None:
    with pytest.raises(SettingError):
        call(toy, tokens)


@pytest.mark.parametrize(
    "options",
    [
        {"prepend_bos": "False"},
        {"prepend_bos": 0},
        {"bos_token_id": 1.9},
        {"bos_token_id": "1"},
        {"bos_token_id": True},
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda toy, tokens, **options: tle.information_emergence(toy, tokens, **options),
        lambda toy, tokens, **options: tle.half_block_emergence(toy, tokens, **options),
        lambda toy, tokens, **options: tle.capture_states(toy, prompts.from_tokens(tokens), **options),
        lambda toy, tokens, **options: tle.ablate_heads(toy, tokens, "loss", kind="zero", **options),
        lambda toy, tokens, **options: tle.emergence_metric(toy, tokens, layer=0, **options).__enter__(),
        lambda toy, tokens, **options: circuits.model_tokens(toy, tokens, **options),
        lambda toy, tokens, **options: circuits.head_norms(toy, tokens, **options),
    ],
)
def test_bos_is_never_guessed_from_a_value_of_another_type(
    call: Any, options: dict[str, Any], toy: Any, tokens: Any
) -> None:
    # bool("False") is True, and int(1.9) is the token 1.
    with pytest.raises(SettingError, match="prepend_bos|bos_token_id"):
        call(toy, tokens, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"space": {"read", "unit"}},
        {"space": 3},
        {"sigma": {0.5: 1}},
        {"sigma": True},
        {"sigma": [0.5, True]},
        {"estimator": {"noise", "exact"}},
        {"estimator": None},
        {"estimator": [3]},
        {"controls": {"deranged"}},
        {"micro": ["alone"]},
        {"seed": True},
        {"seed": 2**70},
        {"draws": True},
        {"progress": "no"},
        {"geometry": "no"},
        {"batch_size": True},
    ],
)
def test_options_of_a_wrong_type_get_a_typed_error(options: dict[str, Any], toy: Any, tokens: Any) -> None:
    with pytest.raises(SettingError):
        tle.information_emergence(toy, tokens, prepend_bos=False, **options)


def test_settings_given_as_numbers_of_numpy_give_the_same_result_and_can_be_saved(
    tmp_path: Path, toy: Any, tokens: Any
) -> None:
    plain = tle.information_emergence(
        toy, tokens, prepend_bos=False, sigma=0.5, space="unit", draws=8, seed=3
    )
    given = tle.information_emergence(
        toy,
        tokens,
        prepend_bos=np.False_,
        sigma=np.float32(0.5),
        space=np.array(["unit"])[0],
        draws=np.int64(8),
        seed=np.uint8(3),
        layers=np.array([0, 1]),
        positions=torch.tensor([0, 1, 2]),
        batch_size=np.int32(64),
    )
    given.save(tmp_path / "given")
    assert torch.equal(tle.load_result(tmp_path / "given").emergence, plain.emergence)
    assert json.dumps(dict(given.settings))


def test_a_model_that_cannot_say_its_bos_warns_once_at_the_line_of_the_call(tokens: Any) -> None:
    model = toys.make_model(toys.MODEL_KINDS[0], default_prepend_bos=True)
    with pytest.warns(
        tle.EmergenceWarning, match="runs without BOS.*bos_token_id=.*prepend_bos=False"
    ) as seen:
        result = tle.information_emergence(model, tokens, space="unit", estimator="exact")
    assert {Path(warning.filename).name for warning in seen} == {"test_inputs.py"}
    assert "no BOS" in result.summary()
    for choice in ({"prepend_bos": False}, {"bos_token_id": 1}):
        tle.information_emergence(model, tokens, space="unit", estimator="exact", **choice)


def test_every_summary_says_whether_bos_was_used(toy: Any, tokens: Any) -> None:
    without: dict[str, Any] = {"space": "unit", "prepend_bos": False}
    behind: dict[str, Any] = {"space": "unit", "bos_token_id": 1}
    for options, words in ((without, "no BOS"), (behind, "BOS (token 1) before each")):
        result = tle.information_emergence(
            toy, tokens, **options, estimator=("exact", "noise"), sigma=(0.5, 1.0)
        )
        for summary in (result.summary(), result["noise"][0.5].summary(), result["exact"]._repr_html_()):
            assert words in summary
        assert words in tle.half_block_emergence(toy, tokens, **options).summary()
        del options["space"]
        assert words in tle.ablate_mlps(toy, tokens, "loss", kind="zero", **options).summary()


def test_the_logit_difference_takes_token_ids_of_any_integer_type(toy: Any, tokens: Any) -> None:
    def difference(dtype: torch.dtype) -> torch.Tensor:
        given = tokens.to(dtype)
        metric = circuits.logit_difference(given[:, 0], given[:, 1])
        return tle.ablate_mlps(toy, given, metric, kind="zero", prepend_bos=False).mean("logit_difference")

    right = difference(torch.int64)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert torch.equal(difference(dtype), right)
