"""Whatever form an input has, every public function gives the value of the plain form or a typed error.

Rows repeated, masks, types of NumPy, lists, float64, bfloat16, tensors that are not contiguous, other default
devices and dtypes. A public function that is neither tried here nor named as one without such inputs fails
`test_every_public_name_is_tried`. TL_EMERGENCE_EXAMPLES=500 tries more.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tl_emergence
from tests import toys
from tl_emergence.errors import EmergenceError

tle: Any = tl_emergence  # arguments here are of other types than annotated, on purpose
EXAMPLES = int(os.environ.get("TL_EMERGENCE_EXAMPLES", "2"))

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(24, 3, generator=GENERATOR).bfloat16().float()  # the same value in every precision
Y = (X + 0.5 * torch.randn(24, 3, generator=GENERATOR)).bfloat16().float()
TOKENS = toys.TOKENS

# ------------------------------------------- forms of an input, and what surrounds a call


def sliced(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x, x], dim=-1)[..., 0]


MATRIX: dict[str, Callable[[torch.Tensor], Any]] = {
    "float64": torch.Tensor.double,
    "bfloat16": torch.Tensor.bfloat16,
    "not contiguous": sliced,
    "transposed": lambda x: x.t().contiguous().t(),
    "NumPy": torch.Tensor.numpy,
    "lists": torch.Tensor.tolist,
    "with gradient": lambda x: x.clone().requires_grad_(),
    "repeated rows": lambda x: x[torch.arange(len(x)) // 2 * 2],
    "integers": torch.Tensor.long,
    "mask": lambda x: x > 0,
    "meta": lambda x: x.to("meta"),
    "one row": lambda x: x[:1],
}
SAME = ("float64", "bfloat16", "not contiguous", "transposed", "NumPy", "lists", "with gradient")
"""Forms of the same numbers: a value, where one is given, is that of the plain form."""

INTEGERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "uint8": lambda x: x.to(torch.uint8),
    "int16": lambda x: x.to(torch.int16),
    "not contiguous": sliced,
    "transposed": lambda x: x.t().contiguous().t() if x.ndim == 2 else x,
    "NumPy": torch.Tensor.numpy,
    "lists": torch.Tensor.tolist,
    "float64": torch.Tensor.double,
    "mask": lambda x: x > 6,
    "meta": lambda x: x.to("meta"),
}
WHOLE = ("uint8", "int16", "not contiguous", "transposed", "NumPy", "lists", "float64")

INDEX: dict[str, Any] = {  # forms of the list [1] of two, and things that are not
    "list": [1],
    "tuple": (1,),
    "range": range(1, 2),
    "NumPy": np.array([1]),
    "uint8": np.array([1], dtype=np.uint8),
    "tensor": torch.tensor([1]),
    "negative": [-1],
    "mask": [False, True],
    "mask of NumPy": np.array([False, True]),
    "mask of PyTorch": torch.tensor([False, True]),
    "short mask": [True],
    "float": [1.0],
    "set": {1},
    "text": "1",
    "number": 1,
}
ALSO_ONE = tuple(INDEX)[:10]


@contextmanager
def surroundings(name: str) -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16) if name == "autocast" else nullcontext():
        try:
            if name == "meta":
                torch.set_default_device("meta")
            if name in ("float64", "bfloat16"):
                torch.set_default_dtype(getattr(torch, name))
            yield
        finally:
            torch.set_default_device(None)
            torch.set_default_dtype(torch.float32)


AROUND = ("nothing", "meta", "float64", "bfloat16", "autocast")

# ---------------------------------------------------------------- the public functions


def numbers(value: Any) -> list[float]:
    """Return all numbers of a value, as plain floats."""
    if isinstance(value, torch.Tensor):
        return value.detach().double().flatten().tolist()
    if isinstance(value, tuple | list):
        return [x for part in value for x in numbers(part)]
    if isinstance(value, tl_emergence.Estimate):
        return [value.bits, value.stderr]
    if isinstance(value, tl_emergence.EmergenceResult):
        return numbers([value.macro, value.emergence, value.stderr])
    if isinstance(value, tl_emergence.Ceiling):
        return numbers([value.macro, value.micro])
    if isinstance(value, tl_emergence.HalfBlocks):
        return numbers([value.attention, value.mlp])
    if isinstance(value, tl_emergence.HeadEffects):
        return numbers([value.mean(metric) for metric in value.metrics])
    if isinstance(value, tl_emergence.UnitValues):
        return numbers([value.values, list(value.layers)])
    if isinstance(value, tl_emergence.PromptSet):
        return numbers(value.tokens)
    if hasattr(value, "psi"):
        return [value.psi, value.delta, value.gamma]
    return [float(value)]


OFF: Any = {"prepend_bos": False}
UNIT: Any = {**OFF, "space": "unit"}


def of_cache(model: Any, convert: Callable[[torch.Tensor], Any]) -> Any:
    distinct = TOKENS.unique()
    with tl_emergence.torch_state.torch_defaults():  # the pass is the caller's own
        caches = [
            {name: convert(x) for name, x in model.run_with_cache(rows)[1].items() if "hook_resid_p" in name}
            for rows in (TOKENS, distinct[:, None])
        ]
    return tle.information_emergence_from_cache(
        *caches, tokens=TOKENS, micro_tokens=distinct, n_prefix=0, space="unit"
    )


def patched(model: Any, tokens: Any, **options: Any) -> Any:
    with tle.emergence_metric(model, tokens, **{"layer": 0, **UNIT, **options}) as metric:
        with tl_emergence.torch_state.torch_defaults():
            model(TOKENS)
        return metric()


WEIGHTS = torch.full((24,), 1 / 24)
OF_MATRIX: dict[str, Callable[[Any, Any], Any]] = {
    "mutual_information": lambda model, x: tle.mutual_information(x, Y, estimator="noise", sigma=0.5),
    "mutual_information gaussian": lambda model, x: tle.mutual_information(x, Y, estimator="gaussian"),
    "usable_information": lambda model, x: tle.estimators.usable_information(
        x, (X[:, 0] > 0).long(), folds=2
    ),
    "cosine_to_previous": lambda model, x: tle.geometry.cosine_to_previous(x, Y, WEIGHTS),
    "mean_norm": lambda model, x: tle.geometry.mean_norm(x, WEIGHTS),
    "UnitValues": lambda model, x: tle.UnitValues("x", x, [f"L{i}H0" for i in range(24)], range(24)),
    "information_emergence_from_cache": lambda model, x: of_cache(model, FORM[0]),
}
OF_TOKENS: dict[str, Callable[[Any, Any], Any]] = {
    "from_tokens": lambda model, t: tle.prompts.from_tokens(t),
    "exact_emergence": lambda model, t: tle.exact_emergence(tle.prompts.from_tokens(t), layers=[1]),
    "exact_population": lambda model, t: tle.exact_population(
        tle.prompts.from_tokens(t), layers=[1], positions=[0]
    ),
    "information_emergence": lambda model, t: tle.information_emergence(model, t, **UNIT, positions=[2]),
    "half_block_emergence": lambda model, t: tle.half_block_emergence(model, t, **UNIT, positions=[2]),
    "capture_states": lambda model, t: tle.capture_states(model, tle.prompts.from_tokens(t), **OFF).micro,
    "ablate_heads": lambda model, t: tle.ablate_heads(model, t, "loss", kind="zero", **OFF),
    "ablate_mlps": lambda model, t: tle.ablate_mlps(model, t, "loss", kind="zero", **OFF),
    "ablate_blocks": lambda model, t: tle.ablate_blocks(model, t, "loss", kind="zero", **OFF),
    "emergence_metric": patched,
    "model_tokens": lambda model, t: tle.circuits.model_tokens(model, t, **OFF),
    "attention_entropies": lambda model, t: tle.circuits.attention_entropies(model, t, **OFF),
    "head_norms": lambda model, t: tle.circuits.head_norms(model, t, **OFF),
    "previous_token_scores": lambda model, t: tle.circuits.previous_token_scores(model, t, **OFF),
    "logit_difference": lambda model, t: tle.ablate_mlps(
        model, TOKENS, tle.circuits.logit_difference(column(t, 0), column(t, 2)), kind="zero", **OFF
    ),
}
OF_INDEX: dict[str, Callable[[Any, Any], Any]] = {
    "information_emergence": lambda model, i: tle.information_emergence(model, TOKENS, layers=i, **UNIT),
    "half_block_emergence": lambda model, i: tle.half_block_emergence(model, TOKENS, layers=i, **UNIT),
    "capture_states": lambda model, i: (
        tle.capture_states(model, tle.prompts.from_tokens(TOKENS), layers=i, **OFF).micro
    ),
    "exact_emergence": lambda model, i: tle.exact_emergence(
        tle.prompts.from_tokens(TOKENS[:, :2]), layers=[1], positions=i
    ),
    "ablate_mlps": lambda model, i: tle.ablate_mlps(model, TOKENS, "loss", kind="zero", layers=i, **OFF),
    "next_token_loss": lambda model, i: tle.ablate_mlps(
        model, TOKENS, tle.circuits.next_token_loss(i), kind="zero", **OFF
    ),
    "kl_to_clean": lambda model, i: tle.ablate_mlps(
        model, TOKENS, tle.circuits.kl_to_clean(i), kind="zero", **OFF
    ),
    "emergence_at": lambda model, i: tle.ablate_mlps(
        model, TOKENS, tle.circuits.emergence_at(i, [2], space="unit"), kind="zero", **OFF
    ),
    "information_at": lambda model, i: tle.ablate_mlps(
        model, TOKENS, tle.circuits.information_at(i, [2], space="unit"), kind="zero", **OFF
    ),
}
FORM: list[Any] = [torch.Tensor.clone]


def column(tokens: Any, k: int) -> Any:
    return [row[k] for row in tokens] if isinstance(tokens, list) else tokens[:, k]


NOT_TRIED = {
    "results, settings and names: made by the functions, not from users' arrays": (
        "Baseline Ceiling CapturedStates ChainEstimate CorrelationReport Direction EmergenceCriteria "
        "EmergenceMetric EmergenceResult EmergenceWarning Estimate Estimator EstimatorComparison Geometry "
        "GeometrySettings HalfBlocks HeadEffects Norm PairCorrelation Population Preflight PromptSet Reading "
        "SigmaSweep Space SpaceComparison StateChain UnitMeans Whole SPACES ESTIMATORS LISTS ANIMAL COLOR "
        "COUNTRY"
    ),
    "estimators: called through mutual_information, which checks for them": (
        "DerangedEstimator ExactEstimator GaussianEstimator MinePaperEstimator NceEstimator NoiseEstimator "
        "VinfoEstimator"
    ),
    "take names, numbers, texts, folders or results": (
        "demonstrations sentences load_effects load_report load_result get_estimator option_defaults "
        "takes_noise published_seconds derangement correlate block_means block_values"
    ),
    "take what the package has captured, or a model alone": (
        "companion_geometry in_space preflight shuffled_weights induction_scores"
    ),
    "of arrays, tried by the fuzz of the programming interface": (
        "discrete_criteria effective_rank entropy_bits gaussian_criteria miller_madow_bits "
        "participation_ratio prompt_entropy"
    ),
}
PACKAGES = ("", ".capture", ".circuits", ".estimators", ".geometry", ".prompts")


def test_every_public_name_is_tried() -> None:
    tried = {name.split()[0] for calls in (OF_MATRIX, OF_TOKENS, OF_INDEX) for name in calls}
    known = tried | {name for names in NOT_TRIED.values() for name in names.split()}
    public = set()
    for package in PACKAGES:
        module = importlib.import_module(f"tl_emergence{package}")
        public |= {name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)}
    assert public - known == set(), "new public names: try them here"
    assert tried - public == set(), "names that are gone"


# ---------------------------------------------------------------- the property


@pytest.fixture(scope="module")
def model() -> Any:
    return toys.make_model(toys.MODEL_KINDS[0])


PLAIN: dict[tuple[str, str], list[float]] = {}


def check(kind: str, name: str, call: Any, plain: Any, given_form: Any, same: bool, around: str) -> None:
    key = (kind, name)
    if key not in PLAIN:
        PLAIN[key] = numbers(call(plain))
    state = torch.get_rng_state()
    with surroundings(around):
        try:
            seen = call(given_form)
        except EmergenceError:
            return
        finally:
            assert torch.equal(torch.get_rng_state(), state)
        seen = numbers(seen)
    if same:
        assert seen == pytest.approx(PLAIN[key], rel=1e-4, abs=1e-4, nan_ok=True)
    else:
        assert not any(math.isnan(x) for x in seen) or any(math.isnan(x) for x in PLAIN[key])


TRY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
pytestmark = pytest.mark.usefixtures("as_shipped")


@pytest.mark.parametrize("name", OF_MATRIX)
@TRY
@given(form=st.sampled_from(sorted(MATRIX)), around=st.sampled_from(AROUND))
def test_rows_of_every_form_give_the_plain_value_or_a_typed_error(
    name: str, model: Any, form: str, around: str
) -> None:
    if name == "information_emergence_from_cache":
        FORM[0] = torch.Tensor.clone
        if form in ("NumPy", "lists", "not contiguous"):
            FORM[0] = MATRIX[form]
    call = OF_MATRIX[name]
    check("rows", name, lambda x: call(model, x), X, MATRIX[form](X), form in SAME, around)


@pytest.mark.parametrize("name", OF_TOKENS)
@TRY
@given(form=st.sampled_from(sorted(INTEGERS)), around=st.sampled_from(AROUND))
def test_tokens_of_every_form_give_the_plain_value_or_a_typed_error(
    name: str, model: Any, form: str, around: str
) -> None:
    call = OF_TOKENS[name]
    tokens = INTEGERS[form](TOKENS)
    check("tokens", name, lambda t: call(model, t), TOKENS, tokens, form in WHOLE, around)


@pytest.mark.parametrize("name", OF_INDEX)
@TRY
@given(form=st.sampled_from(sorted(INDEX)), around=st.sampled_from(AROUND))
def test_indices_of_every_form_name_the_same_or_are_refused(
    name: str, model: Any, form: str, around: str
) -> None:
    call = OF_INDEX[name]
    check("index", name, lambda i: call(model, i), [1], INDEX[form], form in ALSO_ONE, around)


@TRY
@given(
    rows=st.lists(st.booleans(), min_size=8, max_size=8),
    kind=st.sampled_from(["list", "NumPy", "torch"]),
)
def test_a_mask_takes_the_rows_that_boolean_indexing_takes(rows: list[bool], kind: str) -> None:
    mask: Any = {"list": rows, "NumPy": np.array(rows), "torch": torch.tensor(rows)}[kind]
    prompts: Any = tl_emergence.prompts.from_tokens(TOKENS)
    if sum(rows) < 2:
        with pytest.raises(EmergenceError):
            prompts.take(mask)
    else:
        assert torch.equal(prompts.take(mask).tokens, TOKENS[torch.tensor(rows)])


def test_settings_given_as_numbers_of_numpy_can_be_saved(model: Any, tmp_path: Path) -> None:
    result = tle.information_emergence(
        model,
        TOKENS,
        **UNIT,
        sigma=np.float32(0.5),
        seed=np.int64(1),
        draws=np.int16(4),
        positions=np.array([2]),
    )
    result.save(tmp_path / "result")
    assert numbers(tle.load_result(tmp_path / "result")) == numbers(result)
