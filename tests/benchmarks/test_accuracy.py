"""The accuracy benchmark: rows that can be gone on with, gates that can fail, refusals that are rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.gates import Gate, gates
from benchmarks.accuracy.measure import Question, answer, questions
from benchmarks.accuracy.report import insert_in_readme, page
from benchmarks.accuracy.rows import Row, append_row, read_rows
from benchmarks.known_answers import Case, cases

NEAR = Row("gaussian", "1 x 1, 2 bits", "gaussian", 1, 0, 10_000, "draws", 10_000, 2.0, 2.01, 0.01)
LABEL = Row(
    "model_states", "label-16", "nce", 1, 0, 10_000, "draws", 6_000, 4.0, 3.98, 0.02, 3.0, 10.2, seconds=20.0
)


def gate(rows: list[Row], start: str, needed_gaussian: int = 1, needed_noise: int = 1) -> Gate:
    (found,) = [gate for gate in gates(rows, needed_gaussian, needed_noise) if gate.claim.startswith(start)]
    return found


def labels(*different: Row) -> list[Row]:
    rows = [replace(LABEL, case=f"label-16 {i}") for i in range(24)]
    return [*[replace(row, case=f"label-16 {i}") for i, row in enumerate(different)], *rows[len(different) :]]


def tasks(good: int, bad: int) -> list[Row]:
    row = Row("benchmark_mi", "", "nce", 1, 0, 10_000, "draws", 10_000, 0.6, 0.54, 0.01)
    near = [replace(row, case=f"task {i}") for i in range(good)]
    return [*near, *(replace(row, case=f"far {i}", bits=0.5) for i in range(bad))]


# rows


def test_rows_come_back_as_they_were_written_and_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    refused = replace(NEAR, repeat=1, bits=None, stderr=None, message='refused: a "quoted", long\nmessage')
    append_row(file, NEAR)
    append_row(file, refused)
    with file.open("a") as torn:
        torn.write("gaussian,1 x")
    kept = replace(refused, message='refused: a "quoted", long message')
    assert read_rows(file) == [NEAR, kept]
    append_row(file, LABEL)
    assert read_rows(file) == [NEAR, kept, LABEL]
    assert file.read_text().count("family,case") == 1


def test_a_second_run_measures_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Question] = []

    def counted(question: Question) -> Row:
        asked.append(question)
        return answer(question)

    monkeypatch.setattr("benchmarks.accuracy.__main__.answer", counted)
    run = ["--family", "gaussian", "--estimator", "gaussian", "--case", "1 x 1", "--n", "200"]
    main([*run, "--out", str(tmp_path)])
    assert len(asked) == 3 and (tmp_path / "accuracy.png").stat().st_size < 200_000
    main([*run, "--repeats", "2", "--out", str(tmp_path)])
    assert [question.repeat for question in asked[3:]] == [1, 1, 1]
    rows = read_rows(tmp_path / "accuracy.csv")
    assert len(rows) == 6 and len({row.bits for row in rows}) == 6
    assert "| gaussian: 1 x 1, 2 bits | gaussian, draws | 200 |" in (tmp_path / "accuracy.md").read_text()
    assert "INCOMPLETE gaussian" in capsys.readouterr().out  # 200 rows are not 10,000
    main([*run, "--fresh", "--out", str(tmp_path)])
    assert len(read_rows(tmp_path / "accuracy.csv")) == 3


def test_refusals_are_rows_with_their_message() -> None:
    (case,) = cases("prompt_set", "animal, 1 of 16")
    (question,) = questions([case], ["gaussian"], seed=1, n=200, repeats=1)
    row = answer(question)
    assert row.bits is None and row.message.startswith(
        "refused (StateError): states that determine each other"
    )
    assert row.n == 200 and row.covers is None and row.error_bits is None


def test_arrays_that_are_not_made_are_left_out_not_refused(tmp_path: Path) -> None:
    def missing(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise FileNotFoundError("run make")

    (question,) = questions([Case("model_states", "a", 1.0, missing)], ["nce"], seed=9, n=99, repeats=7)
    with pytest.raises(FileNotFoundError):
        answer(question)


# what is asked


def test_every_estimator_is_asked_what_it_answers() -> None:
    some = [*cases("constellation", "two points, near"), *cases("prompt_set", "animal, 1 of 16")]
    some += cases("gaussian", "1 x 1, 2 bits")
    every = ["exact", "noise", "gaussian", "nce", "vinfo"]
    asked = {
        (question.case.name, question.estimator): question
        for question in questions(some, every, seed=1, n=100, repeats=1)
    }
    given = {key: question.given for key, question in asked.items() if key[1] in ("exact", "noise")}
    assert given == {
        ("two points, near", "noise"): "points, sigma 0.5",
        ("animal, 1 of 16", "exact"): "points",
        ("animal, 1 of 16", "noise"): "points, sigma 0.05",
        ("1 x 1, 2 bits", "noise"): "draws, sigma 0.5: another question",
    }
    assert len(asked) == 4 + 9
    assert answer(asked["animal, 1 of 16", "exact"]).bits == pytest.approx(4.0, abs=1e-9)
    assert answer(asked["two points, near", "noise"]).covers


def test_mine_paper_is_asked_only_by_name_and_labelled() -> None:
    (question,) = questions(cases("gaussian", "1 x 1, 2 bits"), ["mine_paper"], seed=1, n=100, repeats=1)
    assert question.given == "draws, scaled down: 300 steps, 2,000 rows"
    assert question.options == {"steps": 300, "rows": 2_000}


# gates


@pytest.mark.parametrize(
    ("bits", "status"), [(2.029, "PASS"), (2.032, "FAIL"), (1.9, "FAIL"), (None, "FAIL")]
)
def test_gaussian_gate_takes_three_standard_errors_and_no_refusal(bits: float | None, status: str) -> None:
    assert gate([replace(NEAR, bits=bits)], "gaussian: mean").status == status


def test_gaussian_gate_takes_the_mean_of_draws_by_their_spread() -> None:
    near = [replace(NEAR, repeat=i, bits=bits) for i, bits in enumerate((1.98, 2.01, 2.02))]
    assert gate(near, "gaussian: mean").status == "PASS"
    far = [replace(row, bits=row.bits and row.bits + 0.06) for row in near]
    assert gate(far, "gaussian: mean").status == "FAIL"
    assert gate(near, "gaussian: mean", needed_gaussian=2).status == "INCOMPLETE"
    assert gate([replace(row, asked=500) for row in far], "gaussian: mean").status == "INCOMPLETE"


def test_noise_gate_looks_at_points_only() -> None:
    points = replace(NEAR, family="constellation", estimator="noise", given="points, sigma 0.5")
    shown = replace(points, given="draws, sigma 0.5: another question", bits=9.0)
    assert gate([points, shown], "noise: within").status == "PASS"
    assert gate([replace(points, bits=2.1), shown], "noise: within").status == "FAIL"


@pytest.mark.parametrize(
    ("good", "bad", "status"), [(28, 12, "PASS"), (27, 13, "FAIL"), (27, 12, "INCOMPLETE"), (28, 0, "PASS")]
)
def test_benchmark_mi_gate_wants_28_of_40(good: int, bad: int, status: str) -> None:
    assert gate(tasks(good, bad), "nce: within max").status == status


@pytest.mark.parametrize(
    ("claim", "worse"),
    [
        ("nce: within 10", replace(LABEL, bits=3.59)),
        ("nce: within 10", replace(LABEL, bits=None, message="refused")),
        ("nce: above", replace(LABEL, bits=4.05)),
        ("nce: under 30", replace(LABEL, seconds=31.0)),
        ("nce: certified at", replace(LABEL, certified_bits=1.9)),
    ],
)
def test_label_gates_fail_for_a_single_case(claim: str, worse: Row) -> None:
    good, bad = (replace(row, truth_bits=4.0) for row in (LABEL, worse))
    eight_of_one_bit = [replace(good, truth_bits=1.0, bits=1.0, certified_bits=0.5)] * 7
    assert gate(labels(good, *eight_of_one_bit, replace(eight_of_one_bit[0])), claim).status == "PASS"
    failed = gate(labels(bad, *eight_of_one_bit, replace(eight_of_one_bit[0])), claim)
    assert failed.status == "FAIL" and failed.failed[0].startswith("label-16 0: ")


@pytest.mark.parametrize("claim", ["nce: the certified"])
def test_the_gate_of_the_certified_limit_forgives_a_tenth(claim: str) -> None:
    missed = replace(LABEL, bits=3.9, certified_bits=4.1)
    assert gate(labels(missed, missed), claim).status == "PASS"
    assert gate(labels(missed, missed, missed), claim).status == "FAIL"


@pytest.mark.parametrize(
    ("measured", "missed", "status"),
    [(50, 5, "PASS"), (50, 6, "FAIL"), (49, 0, "PASS"), (44, 0, "INCOMPLETE"), (100, 10, "PASS")],
)
def test_interval_gates_count_fifty_draws_or_more(measured: int, missed: int, status: str) -> None:
    rows = [replace(NEAR, repeat=i, bits=2.5 if i < missed else 2.01) for i in range(measured)]
    assert gate(rows, "gaussian: the 95 % interval").status == status


# report


def test_tables_go_between_the_marks_of_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- accuracy: begin -->\nstale\n<!-- accuracy: end -->\nafter\n")
    insert_in_readme([replace(NEAR, seconds=0.5, cpu_seconds=0.4)], readme)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "stale" not in text
    assert (
        "| gaussian | gaussian, draws | 1 |  | 0.010 | +0.010 (1 x 1, 2 bits) | 1/1 |  | 0.5 | 0.4 |" in text
    )


def test_page_shows_refusals() -> None:
    refused = replace(NEAR, bits=None, stderr=None, message="refused (StateError): singular")
    assert "| 2.000 | refused (StateError): singular |" in page([refused], gates([refused], 1, 1))
