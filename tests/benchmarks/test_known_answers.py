"""The known answers themselves, against calculations of another kind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.known_answers import FAMILIES, Case, cases
from benchmarks.known_answers.benchmark_mi import FOLDER as BENCHMARK_MI
from benchmarks.known_answers.benchmark_mi import benchmark_mi
from benchmarks.known_answers.capture_model_states import decodable, draw_labels
from benchmarks.known_answers.channels import (
    amplitude_capacity,
    flip_for_bits,
    shared_amplitude_bits,
    symmetric_channel_bits,
)
from benchmarks.known_answers.constellations import LATTICES, Lattice
from benchmarks.known_answers.gaussians import orthonormal
from benchmarks.known_answers.model_prompts import fill, position_in, rows_with, through_channel
from benchmarks.known_answers.model_states import DESIGNS, Design, model_states, rows_key
from benchmarks.known_answers.model_states import FOLDER as MODEL_STATES
from tests.estimators.oracles import binary_capacity, two_point_information
from tl_emergence import models
from tl_emergence.estimators import mutual_information
from tl_emergence.estimators.exact import entropy_bits

GENERATED = [case for family in list(FAMILIES)[:4] for case in cases(family)]
SMALL_PROMPT_SETS = [case for case in cases("prompt_set") if case.truth_bits < 13]


def named(case: Case) -> str:
    return f"{case.family}: {case.name}"


@pytest.mark.parametrize("case", GENERATED, ids=named)
def test_every_case_draws_finite_float32_rows_the_same_for_the_same_seed(case: Case) -> None:
    x, y = case.draw(64, 3)
    again = case.draw(64, 3)
    assert len(x) == len(y) == 64 and x.dtype == y.dtype == torch.float32
    assert bool(x.isfinite().all()) and bool(y.isfinite().all()) and math.isfinite(case.truth_bits)
    assert torch.equal(x, again[0]) and torch.equal(y, again[1])
    if not case.name.startswith("constant"):
        assert not torch.equal(torch.cat([x, y], 1), torch.cat(case.draw(64, 4), 1))


def test_names_are_unique_and_wrong_ones_are_told() -> None:
    assert len({named(case) for case in GENERATED}) == len(GENERATED)
    assert [case.name for case in cases("gaussian", "1 x 1, 2 bits")] == ["1 x 1, 2 bits"]
    with pytest.raises(KeyError, match="no family 'gausian': there are gaussian"):
        cases("gausian")
    with pytest.raises(KeyError, match=r"no case \['2 x 2'\] in gaussian"):
        cases("gaussian", "2 x 2")


# Truths


@pytest.mark.parametrize("amplitude", [0.1, 0.7, 1.0, 3.0, 8.0])
def test_two_levels_are_the_binary_input_channel(amplitude: float) -> None:
    assert amplitude_capacity(2, 2 * amplitude) == pytest.approx(binary_capacity(amplitude), abs=1e-8)


def test_two_levels_in_both_are_the_two_point_information() -> None:
    assert shared_amplitude_bits(2, 1.0, 3.0) == pytest.approx(two_point_information(0.5, 1.5, 1.0), abs=1e-8)


def test_capacity_is_0_without_spacing_and_the_entropy_with_much() -> None:
    assert amplitude_capacity(5, 0.0) == 0.0
    assert amplitude_capacity(5, 40.0) == pytest.approx(math.log2(5), abs=1e-9)
    assert shared_amplitude_bits(5, 3.0, 0.0) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("flip", [0.0, 0.2, 0.9, 1.0])
def test_the_symmetric_channel_has_the_information_of_its_joint_table(flip: float) -> None:
    k = 6
    table = np.full((k, k), flip / (k - 1) / k)
    np.fill_diagonal(table, (1 - flip) / k)
    seen = table[table > 0]
    expected = float((seen * np.log2(seen * k * k)).sum())
    assert symmetric_channel_bits(k, flip) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bits", [4.0, 2.5, 1.0])
def test_the_flip_rate_passes_what_was_asked_for(bits: float) -> None:
    flip = flip_for_bits(16, bits)
    assert 0 <= flip < 15 / 16
    assert symmetric_channel_bits(16, flip) == pytest.approx(bits, abs=1e-9)


SMALL_LATTICES = [name for name, lattice in LATTICES.items() if math.prod(lattice.levels) <= 512]


@pytest.mark.parametrize("name", SMALL_LATTICES)
def test_noise_finds_the_truth_of_a_constellation_from_its_points(name: str) -> None:
    (case,) = cases("constellation", name)
    assert case.finite and case.points is not None
    x, y = case.points()
    found = mutual_information(x, y, estimator="noise", sigma=case.sigma, draws=max(4, 1024 // len(x)))
    assert abs(found.bits - case.truth_bits) <= max(4 * found.stderr, 1e-3)


def test_a_lattice_draws_its_points_with_noise() -> None:
    lattice = Lattice((2, 3), (40.0, 40.0), (40.0, 40.0), 8)
    points, _ = lattice.points()
    rows, _ = lattice.draw(2000, 0)
    distance, nearest = torch.cdist(rows, points).min(dim=1)
    assert torch.bincount(nearest, minlength=6).min() > 250
    assert float(distance.square().mean()) / 8 == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize("case", SMALL_PROMPT_SETS, ids=named)
def test_exact_finds_the_entropy_of_an_enumerated_prompt_set(case: Case) -> None:
    assert case.points is not None
    found = mutual_information(*case.points(), estimator="exact")
    assert found.bits == pytest.approx(case.truth_bits, abs=1e-9)


def test_the_prompt_sets_have_the_published_entropies() -> None:
    whole = [case for case in cases("prompt_set") if case.name[-7:] in ("4 of 25", "5 of 16", "5 of 15")]
    assert [round(case.truth_bits, 4) for case in whole] == [18.2118, 18.9996, 18.4591]


@pytest.mark.parametrize("case", [c for c in cases("gaussian") if "640" not in c.name], ids=named)
def test_the_corrected_gaussian_value_agrees_in_few_dimensions(case: Case) -> None:
    found = mutual_information(*case.draw(4000, 0), estimator="gaussian")
    assert abs(found.bits - case.truth_bits) <= 4 * found.stderr


@pytest.mark.parametrize("spectrum", ["equal", "leading", "trailing"])
def test_a_wide_gaussian_pair_turned_back_has_its_information_in_the_shared_coordinates(
    spectrum: str,
) -> None:
    case = cases("gaussian", f"640 x 640, 8 shared, {spectrum}, 2.5 bits")[0]
    x, y = case.draw(4000, 1)
    x, y = (m.double() @ orthonormal(640, 640, side).t() for m, side in ((x, "x"), (y, "y")))
    found = mutual_information(x[:, :8], y[:, :8], estimator="gaussian")
    assert abs(found.bits - 2.5) <= 4 * found.stderr
    assert float(torch.corrcoef(torch.cat([x[:, 8:40], y[:, 8:40]], 1).t()).triu(1).abs().max()) < 0.09


# Negative controls


WITH_A_COPULA = [
    case
    for case in cases("negative_control")
    if not any(part in case.name for part in ("640", "each four times", "points"))
]


@pytest.mark.parametrize("case", WITH_A_COPULA, ids=named)
def test_ranks_keep_the_dependence_of_the_controls(case: Case) -> None:
    """Turn coordinates into normal scores: the Gaussian value is then the truth, whatever the marginals."""
    x, y = (normal_scores(m) for m in case.draw(4000, 2))
    found = mutual_information(x, y, estimator="gaussian")
    assert abs(found.bits - case.truth_bits) <= 4 * found.stderr + 0.01


def normal_scores(m: torch.Tensor) -> torch.Tensor:
    if bool((m == m[:1]).all()):
        return m
    ranks = m.argsort(dim=0).argsort(dim=0)
    return torch.special.ndtri((ranks.double() + 0.5) / len(m)).float()


def test_copied_rows_come_four_times_each() -> None:
    x, y = cases("negative_control", "independent rows, each four times")[0].draw(100, 0)
    _, counts = torch.cat([x, y], dim=1).unique(dim=0, return_counts=True)
    assert counts.tolist() == [4] * 25


def test_a_million_times_is_a_million_times() -> None:
    (case,) = cases("negative_control", "an empty dimension a million times the others, 2.5 bits")
    spread = case.draw(2000, 0)[0].std(dim=0)
    assert float(spread[-1]) == pytest.approx(1e6, rel=0.1)
    assert float(spread[:-1].max()) < 1.2


# Stored arrays


def test_benchmark_mi_reads_the_arrays_that_were_made(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    arrays = {"tasks": ["easy"], "easy.x": rows, "easy.y": rows[:, :1], "easy.nats": 0.5}
    np.savez(tmp_path / "seed-4.npz", **arrays)  # type: ignore[arg-type]
    (case,) = benchmark_mi(tmp_path)
    x, y = case.draw(3, 4)
    assert case.truth_bits == pytest.approx(0.5 / math.log(2))
    assert torch.equal(x, torch.from_numpy(rows[:3])) and y.shape == (3, 1)
    with pytest.raises(ValueError, match="easy has 6 rows, 7 were asked for"):
        case.draw(7, 4)
    with pytest.raises(FileNotFoundError, match="make build/benchmark_mi/seed-5.npz"):
        case.draw(3, 5)


def test_benchmark_mi_says_how_its_arrays_are_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make benchmark-mi"):
        list(benchmark_mi(tmp_path))


@pytest.mark.skipif(not list(BENCHMARK_MI.glob("seed-*.npz")), reason="no arrays: make benchmark-mi")
def test_the_forty_tasks_are_there() -> None:
    found = cases("benchmark_mi")
    assert len(found) == 40
    assert max(case.truth_bits for case in found) == pytest.approx(1.7094379663467407 / math.log(2))


# States of a real model


def test_model_states_pair_each_x_with_its_row_of_y(tmp_path: Path) -> None:
    case = next(iter(model_states(tmp_path)))
    design, pair = DESIGNS[0], DESIGNS[0].pairs[0]
    file = design.file(tmp_path, 7, pair, "read")
    with pytest.raises(FileNotFoundError, match=r"make build/model_states/seed-7/\.made"):
        case.draw(2, 7)
    file.parent.mkdir()
    x, y = torch.randn(3, 4), torch.randn(5, 4)
    save_file({"x": x, "y": y, rows_key(4.0): torch.tensor([4, 0, 2])}, file)
    drawn = case.draw(2, 7)
    assert case.truth_bits == 4.0 and "read" in case.name
    assert torch.equal(drawn[0], x[:2]) and torch.equal(drawn[1], y[[4, 0]])


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_labels_share_what_the_design_says(design: Design) -> None:
    of_x, of_y, rows = draw_labels(design, seed=0)
    for truth in design.truths:
        paired = rows[rows_key(truth)]
        assert len(paired.unique()) == len(paired)
        if design.items == 1:
            assert plug_in_bits(of_x[:, 0], of_y[paired, 0]) == pytest.approx(truth, abs=0.1)
        else:
            assert torch.equal(of_x, of_y[paired])
            assert truth == pytest.approx(math.log2(math.perm(len(design.x_words), design.items)))


def plug_in_bits(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the information of a table less its bias, (cells - rows - columns + 1) / 2N nats."""
    joint = a * 16 + b
    cells, rows, columns = (len(of.unique()) for of in (joint, a, b))
    bias = (cells - rows - columns + 1) / (2 * len(a) * math.log(2))
    return entropy_bits(a) + entropy_bits(b) - entropy_bits(joint) - bias


def test_a_channel_flips_as_often_as_it_says_and_to_every_other_label() -> None:
    labels = torch.zeros(20_000, dtype=torch.int64)
    passed = through_channel(labels, 5, 0.4, torch.Generator().manual_seed(0))
    shares = torch.bincount(passed, minlength=5) / len(passed)
    assert shares.tolist() == pytest.approx([0.6, 0.1, 0.1, 0.1, 0.1], abs=0.015)


def test_rows_with_a_label_are_used_once_or_refused() -> None:
    labels, pool = torch.tensor([1, 0, 1]), torch.tensor([0, 1, 0, 1])
    rows = rows_with(labels, pool)
    assert pool[rows].tolist() == [1, 0, 1] and len(rows.unique()) == 3
    with pytest.raises(ValueError, match="1 rows have label 0, 2 are needed"):
        rows_with(torch.tensor([0, 0]), torch.tensor([0, 1]))


def test_a_frame_is_filled_word_by_word(tokenizer: Any) -> None:
    frame = "red LABEL , LABEL ,"
    tokens = fill(frame, ("dog", "cat"), torch.tensor([[0, 1], [1, 0]]), tokenizer, torch.Generator())
    assert tokens.shape == (2, 5)
    assert tokens[0, [1, 3]].tolist() == tokens[1, [3, 1]].tolist()
    assert tokens[0, 2] == tokens[1, 4]
    assert [position_in(frame, place) for place in ("label", "after")] == [3, 4]
    with pytest.raises(ValueError, match="1 items of the label have no slot"):
        fill("red LABEL", ("dog", "cat"), torch.tensor([[0, 1]]), tokenizer, torch.Generator())


MADE = sorted(MODEL_STATES.glob("seed-*/label-16.*.safetensors"))


@pytest.mark.slow
@pytest.mark.skipif(not MADE, reason="no states: make model-states")
@pytest.mark.parametrize("file", MADE, ids=lambda file: f"{file.parent.name} {file.stem}")
def test_the_label_can_be_read_from_real_states_and_nuisance_is_plenty(file: Path) -> None:
    tensors = load_file(file)
    for side in ("x", "y"):
        states = tensors[side]
        assert min(decodable(states, tensors[f"labels_{side}"])) >= 0.99
        assert len(states.unique(dim=0)) > 0.98 * len(states)
        assert states.square().mean(dim=1).sqrt().tolist() == pytest.approx([1.0] * len(states), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_every_word_of_the_frames_is_one_token_of_the_packaged_model(design: Design) -> None:
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(str(models.packaged_checkpoint(models.PACKAGED["gemma-3-270m"])))
    labels = torch.arange(design.items)[None]
    for frame, words in ((design.x_frame, design.x_words), (design.y_frame, design.y_words)):
        tokens = fill(frame, words, labels, real, torch.Generator())
        text = real.decode(tokens[0])
        assert real(text, add_special_tokens=False)["input_ids"] == tokens[0].tolist(), text
