"""The model of tutorial 04: what ships, what it learned, and whether ablations find the heads that do it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import tl_emergence as tle
from tl_emergence import circuits, experiments
from tl_emergence.circuits import induction_scores, previous_token_scores
from tl_emergence.errors import SettingError
from tl_emergence.prompts import PromptSet, from_tokens
from tutorials.induction import sequences, sizes
from tutorials.induction.load import (
    CHECKPOINTS,
    kept_steps,
    load_induction_model,
    new_model,
    read_weights,
    training_log,
    write_weights,
)
from tutorials.induction.sequences import BOS
from tutorials.induction.train import N_MEASURED, PERIOD, measured

pytestmark = pytest.mark.matrix

MEGABYTE = 10**6
PREVIOUS, INDUCTION = "L0H3", {"L1H0", "L1H1", "L1H2", "L1H3"}


def random_repeats(n: int, seed: int = 7) -> PromptSet:
    return from_tokens(sequences.repeated(n, PERIOD, torch.Generator().manual_seed(seed)))


def few_tokens(n: int) -> PromptSet:
    """Return n of the 2,520 repeats of 5 of 7 tokens, whose prefixes stay below the cap."""
    once = torch.tensor(list(itertools.permutations(range(1, 8), 5)))
    order = torch.randperm(len(once), generator=torch.Generator().manual_seed(0))
    return from_tokens(once[order[:n]].repeat(1, 2))


def test_checkpoints_are_small_and_no_pickles() -> None:
    files = list(CHECKPOINTS.iterdir())
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    assert sum(path.stat().st_size for path in files) < 2 * MEGABYTE
    assert [entry["step"] for entry in training_log()] == list(kept_steps())


def test_models_of_other_widths_are_trained_and_measured_alike() -> None:
    models = {f"width-{width}": sizes.trained(width, steps=2) for width in (8, 16)}
    found = sizes.measure(models, n=32)
    table = found.tables["sizes"].query("run == 'model' and space == 'read'")
    small, large = table["parameters"].tolist()
    assert small < large and len(set(table["exact"].tolist())) == 1
    assert found.conclusions[0].verdict == "cannot be tested here"  # two models make no trend


def test_a_step_that_was_not_kept_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match=r"no weights of that step: saw 7; expected one of \[0, 50, "):
        load_induction_model(7)


@pytest.mark.parametrize("step", [0, 200, 2000])
def test_reloaded_from_float16_a_checkpoint_measures_what_the_log_says(step: int) -> None:
    tokens = sequences.repeated(N_MEASURED, PERIOD, torch.Generator().manual_seed(1))
    (entry,) = [entry for entry in training_log() if entry["step"] == step]
    found = measured(load_induction_model(step), tokens)
    assert found == pytest.approx({k: v for k, v in entry.items() if k != "step"}, abs=1e-2)


def test_weights_go_out_of_a_model_and_back_unchanged() -> None:
    model, other = load_induction_model(), new_model()
    write_weights(other, read_weights(model))
    again = read_weights(other)
    assert all(torch.equal(value, again[name]) for name, value in read_weights(model).items())


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    load_induction_model(0)
    sequences.training_batch(4, torch.Generator().manual_seed(0))
    random_repeats(4)
    assert torch.equal(before, torch.get_rng_state())


def test_training_sequences_repeat_each_with_its_own_period() -> None:
    batch = sequences.training_batch(64, torch.Generator().manual_seed(0))
    assert batch.shape == (64, sequences.LENGTH + 1) and bool((batch[:, 0] == BOS).all())
    assert not bool((batch[:, 1:] == BOS).any())
    periods = set()
    for row in batch[:, 1:]:
        fits = [p for p in range(1, sequences.LENGTH) if bool((row[p:] == row[:-p]).all())]
        periods.add(min(fits))
    assert periods <= set(range(sequences.SHORTEST, sequences.LONGEST + 1)) and len(periods) > 6


def test_the_repeat_is_foreseen_once_induction_was_learned_and_not_before() -> None:
    log = {entry["step"]: entry for entry in training_log()}
    unforeseeable = math.log2(sequences.VOCABULARY - 1)
    assert log[2000]["loss_second_half"] < 0.1 and log[2000]["loss_first_half"] > unforeseeable - 0.2
    assert log[200]["loss_second_half"] > 2.5 and log[250]["loss_second_half"] < 0.5
    assert log[150]["induction_score"] < 0.1 and log[250]["induction_score"] > 0.8


def test_attention_patterns_name_one_previous_token_head_and_the_induction_heads() -> None:
    model, prompts = load_induction_model(), random_repeats(256)
    before = previous_token_scores(model, prompts, bos_token_id=BOS)
    induction = induction_scores(model, prompts, period=PERIOD, bos_token_id=BOS)
    assert before[0, 3] > 0.85 and before.flatten().sort().values[-2] < 0.3
    assert bool((induction[1] > 0.8).all()) and bool((induction[0] < 0.05).all())


def test_ablation_ranks_the_named_heads_first_by_loss() -> None:
    # Of the four heads whose pattern is that of induction, L1H0 writes little and is missed by nobody.
    both = random_repeats(768)
    effects = tle.ablate_heads(
        load_induction_model(),
        both.take(slice(512)),
        circuits.next_token_loss(range(PERIOD, 2 * PERIOD - 1)),
        kind="mean",
        reference=both.take(slice(512, None)),
        bos_token_id=BOS,
    )
    ranked = effects.ranked("loss")["head"].tolist()
    assert ranked[0] == PREVIOUS and set(ranked[1:4]) == INDUCTION - {"L1H0"}


@pytest.mark.slow
def test_ablation_ranks_the_named_heads_first_by_emergence_with_one_that_no_score_named() -> None:
    # L0H0 looks two tokens back: no score here asks for that, and on few tokens the model needs it.
    both = few_tokens(768)
    effects = tle.ablate_heads(
        load_induction_model(),
        both.take(slice(512)),
        [circuits.emergence_at([1], [5, 6, 7, 8], space=s, name=s) for s in ("read", "unit")],
        kind="mean",
        reference=both.take(slice(512, None)),
        bos_token_id=BOS,
    )
    for space in ("read", "unit"):
        ranked = effects.ranked(space)["head"].tolist()
        assert ranked[0] == PREVIOUS and set(ranked[1:5]) == (INDUCTION - {"L1H0"}) | {"L0H0"}


def test_the_experiment_over_training_runs_on_the_checkpoints_that_ship() -> None:
    steps = (0, 200, 2000)
    found = experiments.training(
        {step: lambda step=step: load_induction_model(step) for step in steps},
        prompts=few_tokens(60),
        spaces=("read",),
        bos_token_id=BOS,
    )
    assert list(found.parts) == ["step-000000", "step-000200", "step-002000"]
    table = found.tables["checkpoints"].query("run == 'model'")
    assert table["step"].tolist() == list(steps)
    for step, value in zip(steps, table["value"], strict=True):
        one = tle.information_emergence(
            load_induction_model(step), few_tokens(60), layers=[1], space="read", bos_token_id=BOS
        )
        assert value == pytest.approx(float(one.emergence[0, -1]), abs=1e-5)
    assert len(found.tables["checkpoints"].query("run == 'shuffled_weights'")) == 1
