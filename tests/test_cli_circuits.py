"""`tl-emergence ablate` and `correlate`: what they print, write, refuse, and how they go on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import tl_emergence as tle
from tests import toys
from tl_emergence.circuits import emergence_at
from tl_emergence.cli import app

pytestmark = pytest.mark.skipif(toys.LENS_MAJOR < 3, reason="a local checkpoint needs a TransformerBridge")
RUNNER = CliRunner()
FAST = ["--permutations", "99", "--resamples", "50"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def ablated(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of an ablation with three metrics."""
    out = tmp_path_factory.mktemp("ablated") / "out"
    metrics = ["--metric", "loss", "--metric", "kl", "--metric", "emergence"]
    done = ablate(checkpoint, out, *metrics, "--space", "unit", "--no-figures")
    assert done.exit_code == 0, done.output
    return out


def ablate(checkpoint: Path, out: Path, *options: str) -> Result:
    base = ["ablate", str(checkpoint), "--out", str(out), "--n", "24", "--shots", "2"]
    return RUNNER.invoke(app, [*base, *options])


def correlate(effects: Path, out: Path, *options: str) -> Result:
    return RUNNER.invoke(app, ["correlate", str(effects), "--out", str(out), *FAST, *options])


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_ablate_writes_effects_tables_and_figure(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = ablate(checkpoint, out)
    assert done.exit_code == 0, done.output
    assert "mean ablation of heads one at a time" in done.stdout and "emergence: clean" in done.stdout
    names = sorted(path.name for path in out.iterdir())
    assert names == ["effects", "effects.csv", "effects.png", "ranked.csv", "run.json"]
    assert (out / "effects.png").read_bytes()[:4] == b"\x89PNG"
    effects = tle.load_effects(out)
    assert (effects.metrics, effects.n_prompts, effects.kind) == (("loss", "emergence"), 24, "mean")
    assert [row["label"] for row in rows(out / "effects.csv")] == ["L0H0", "L0H1", "L1H0", "L1H1"] * 2
    ranked = rows(out / "ranked.csv")
    assert [(row["metric"], row["rank"]) for row in ranked[:5]] == [
        *(("loss", str(rank)) for rank in (1, 2, 3, 4)),
        ("emergence", "1"),
    ]


def test_ablate_is_the_library_function_on_the_first_prompts_with_the_next_as_reference(
    checkpoint: Path, tmp_path: Path
) -> None:
    options = ["--kind", "mean_pos", "--reference-n", "16", "--metric-layer", "-1", "--metric-position", "2"]
    done = ablate(checkpoint, tmp_path, *options, "--seed", "3", "--sigma", "0.8", "--no-figures")
    assert done.exit_code == 0, done.output
    model = tle.models.load(str(checkpoint))
    drawn = tle.prompts.demonstrations("country", model, shots=2, n=40, seed=3)
    expected = tle.ablate_heads(
        model,
        drawn.take(slice(24)),
        ["loss", emergence_at([-1], [2], sigma=0.8)],
        kind="mean_pos",
        reference=drawn.take(slice(24, 40)),
        seed=3,
    )
    found = tle.load_effects(tmp_path)
    assert found.settings == expected.settings
    for metric in expected.metrics:
        assert torch.equal(found.effects[metric], expected.effects[metric])


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        (["--component", "mlp", "--layer", "1", "--kind", "zero"], ["L1MLP"]),
        (["--component", "block", "--kind", "resample", "--draws", "2"], ["L0", "L1"]),
        (["--head", "L1H0", "--head", "L0H1", "--position", "1"], ["L0H1", "L1H0"]),
    ],
)
def test_ablate_takes_other_components_and_kinds(
    checkpoint: Path, tmp_path: Path, options: list[str], labels: list[str]
) -> None:
    done = ablate(checkpoint, tmp_path, *options, "--metric", "loss")
    assert done.exit_code == 0, done.output
    assert [row["label"] for row in rows(tmp_path / "effects.csv")] == labels


def test_ablate_measures_emergence_in_each_space_under_its_name(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--metric", "emergence", "--metric", "information", "--space", "unit", "--space", "resid"]
    done = ablate(checkpoint, tmp_path, *options, "--kind", "zero", "--no-figures")
    assert done.exit_code == 0, done.output
    kinds = ("emergence", "information")
    expected = tuple(f"{name} ({space})" for name in kinds for space in ("unit", "resid"))
    assert tle.load_effects(tmp_path).metrics == expected


def test_the_same_ablation_again_shows_the_finished_result(checkpoint: Path, tmp_path: Path) -> None:
    first = ablate(checkpoint, tmp_path, "--no-figures")
    again = ablate(checkpoint, tmp_path, "--no-figures")
    assert again.exit_code == 0 and "holds the finished result of this very command" in again.output
    assert first.stdout == again.stdout


def test_a_folder_of_another_command_is_refused_by_each(checkpoint: Path, ablated: Path) -> None:
    other = ablate(checkpoint, ablated, "--seed", "1")
    assert other.exit_code == 2 and "the output folder belongs to another run: saw" in other.output
    run = RUNNER.invoke(app, ["run", str(checkpoint), "--out", str(ablated)])
    assert run.exit_code == 2 and "saw tl-emergence ablate; expected tl-emergence run" in run.output


def test_an_ablation_that_was_stopped_goes_on_to_the_same_effects(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_emergence.circuits import experiment

    replaced, seen = experiment.replaced, []

    def stopping(component: object, *args: object) -> object:
        seen.append(component)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return replaced(component, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(experiment, "replaced", stopping)
    stopped = ablate(checkpoint, tmp_path / "out", "--no-figures")
    assert stopped.exit_code == 130 and "the same command goes on from here" in stopped.output
    assert len(list((tmp_path / "out").glob(".work/parts/parts/*.safetensors"))) == 3  # clean and two heads
    again = ablate(checkpoint, tmp_path / "out", "--no-figures")
    assert again.exit_code == 0 and "going on from an earlier run: 3 finished parts found" in again.output
    assert len(seen) == 3 + 2 and not (tmp_path / "out" / ".work").exists()
    monkeypatch.undo()
    ablate(checkpoint, tmp_path / "whole", "--no-figures")
    resumed, whole = (tle.load_effects(tmp_path / name) for name in ("out", "whole"))
    for metric in whole.metrics:
        assert torch.equal(resumed.effects[metric], whole.effects[metric])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompts", "countries"], "unknown prompts (and no such file): saw 'countries'"),
        (["--metric", "losss"], "unknown metric: saw 'losss'"),
        (["--metric", "loss", "--metric", "loss"], "two metrics of one name"),
        (["--kind", "corrupt"], "corrupt ablation is not for the command line: saw --kind corrupt"),
        (["--kind", "average"], "unknown kind of ablation: saw 'average'"),
        (["--component", "neuron"], "unknown component: saw 'neuron'"),
        (["--head", "L9H3"], "no such head: saw 'L9H3'; expected L0H0 to L1H1"),
        (["--head", "9.3"], "not the name of a head: saw '9.3'"),
        (["--head", "L0H0", "--component", "mlp"], "option without effect: saw --head"),
        (["--layer", "0"], "option without effect: saw --layer"),
        (["--layer", "7", "--component", "block"], "layer out of range: saw [7]"),
        (["--position", "9"], "position out of range: saw [9]"),
        (["--draws", "2"], "option without effect: saw --draws"),
        (["--reference-n", "9", "--kind", "zero"], "option without effect: saw --reference-n"),
        (["--metric", "loss", "--sigma", "1", "--metric-layer", "0"], "saw --metric-layer, --sigma"),
        (["--space", "raw"], "unknown space: saw 'raw'"),
        (["--sigma", "0"], "sigma out of range"),
        (["--n", "590"], "too few prompts for a reference that is held out: saw no 1,180 of them"),
        (["--n", "601"], "n out of range: saw 601"),
        (["--n", "1"], "--n out of range: saw 1"),
        (["--threads", "0"], "threads out of range: saw 0"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_bad_options_of_ablate_get_one_line_status_two_and_leave_nothing(
    checkpoint: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    done = ablate(checkpoint, tmp_path / "out", *options)
    assert done.exit_code == 2 and message in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_corrupt_ablation_names_the_library_function(checkpoint: Path, tmp_path: Path) -> None:
    done = ablate(checkpoint, tmp_path / "out", "--kind", "corrupt")
    assert "tl_emergence.ablate_heads(model, prompts, metrics, kind='corrupt'" in done.output


def test_correlate_writes_report_table_and_figure(ablated: Path, tmp_path: Path) -> None:
    done = correlate(ablated, tmp_path / "out", "--over-all")
    assert done.exit_code == 0, done.output
    assert "change of emergence against change of loss, over 4 heads: Spearman" in done.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "report.csv",
        "report.json",
        "scatter.png",
    ]
    assert (tmp_path / "out" / "scatter.png").read_bytes()[:4] == b"\x89PNG"
    report = tle.load_report(tmp_path / "out" / "report.json")
    assert [(pair.score, pair.effect) for pair in report.pairs] == [
        ("emergence", "loss"),
        ("emergence", "kl"),
    ]
    assert {pair.disjoint for pair in report.pairs} == {"halves of one prompt set"}
    assert report.settings["within_layers"] is False and report.settings["permutations"] == 99
    assert [row["effect"] for row in rows(tmp_path / "out" / "report.csv")] == ["loss", "kl"]
    effects = tle.load_effects(ablated)
    expected = tle.correlate(
        effects.values("emergence"),
        effects.values("loss"),
        within_layers=False,
        permutations=99,
        resamples=50,
    )
    assert report.pairs[0].spearman == expected.pairs[0].spearman


def test_correlate_takes_the_metrics_that_it_is_told(ablated: Path, tmp_path: Path) -> None:
    for options, pairs in (
        (["--score", "loss"], [("loss", "kl"), ("loss", "emergence")]),
        (
            ["--score", "kl", "--score", "emergence", "--effect", "loss"],
            [("kl", "loss"), ("emergence", "loss")],
        ),
        (["--effect", "kl"], [("emergence", "kl")]),
    ):
        done = correlate(ablated / "effects", tmp_path, *options, "--no-figures")
        assert done.exit_code == 0, done.output
        report = tle.load_report(tmp_path / "report.json")
        assert [(pair.score, pair.effect) for pair in report.pairs] == pairs


def test_correlate_takes_scores_from_other_effects(checkpoint: Path, ablated: Path, tmp_path: Path) -> None:
    other = ablate(checkpoint, tmp_path / "other", "--seed", "1", "--metric", "information", "--no-figures")
    assert other.exit_code == 0, other.output
    done = correlate(ablated, tmp_path / "out", "--scores-from", str(tmp_path / "other"), "--no-figures")
    assert done.exit_code == 0, done.output
    report = tle.load_report(tmp_path / "out" / "report.json")
    pairs = [(pair.score, pair.effect) for pair in report.pairs]
    assert pairs == [("information", "loss"), ("information", "kl")]
    assert {pair.disjoint for pair in report.pairs} == {"two prompt sets"}


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run and an ablation of a model of four blocks: fewer cannot be correlated."""
    folder = tmp_path_factory.mktemp("deep")
    checkpoint = str(toys.save_checkpoint(folder / "checkpoint", n_layers=4))
    same = ["--n", "24", "--shots", "2", "--no-figures"]
    for name, command in (
        ("run", ["run", checkpoint, "--space", "unit", "--space", "resid"]),
        ("larger", ["run", checkpoint, "--n", "48"]),
        ("exact", ["run", checkpoint, "--estimator", "exact"]),
        ("ablated", ["ablate", checkpoint, "--metric", "loss"]),
    ):
        done = RUNNER.invoke(app, [command[0], "--out", str(folder / name), *same, *command[1:]])
        assert done.exit_code == 0, done.output
    return folder


def test_correlate_sets_blocks_of_a_run_beside_the_means_of_their_heads(deep: Path, tmp_path: Path) -> None:
    done = correlate(deep / "ablated", tmp_path, "--scores-from", str(deep / "run"))
    assert done.exit_code == 0, done.output
    assert "emergence (unit) against change of loss, over 4 blocks" in done.stdout
    report = tle.load_report(tmp_path / "report.json")
    assert [pair.score for pair in report.pairs] == ["emergence (unit)", "emergence (resid)"]
    assert {pair.disjoint for pair in report.pairs} == {"halves of one prompt set"}
    by_head = tle.load_effects(deep / "ablated").mean("loss")
    assert report.effects[0].means == pytest.approx(by_head.mean(dim=1).tolist())
    one = correlate(
        deep / "ablated",
        tmp_path,
        "--scores-from",
        str(deep / "run" / "result"),
        "--score",
        "emergence (unit)",
    )
    assert one.exit_code == 0 and "emergence (resid)" not in one.output


def test_two_beginnings_of_one_draw_are_refused_as_they_share_prompts(deep: Path, tmp_path: Path) -> None:
    done = correlate(deep / "ablated", tmp_path / "out", "--scores-from", str(deep / "larger"))
    assert done.exit_code == 2 and "error: scores and effects share some of their prompts" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--score", "bits"], "unknown metric: saw 'bits'"),
        (["--effect", "bits"], "unknown metric: saw 'bits'; expected one of ['loss']"),
        ([], "no score to correlate: saw only ['loss']"),
        (["--scores-from", "nowhere"], "no scores there: saw nowhere"),
        (["--scores-from", "{deep}/run", "--score", "bits"], "unknown score: saw 'bits'"),
        (["--scores-from", "{deep}/run", "--within-layers"], "nothing to compare within layers"),
        (["--scores-from", "{deep}/exact"], "no value for each prompt"),
        (["--scores-from", "{deep}/run", "--permutations", "1"], "permutations out of range: saw 1"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_correlate_refuses_what_it_cannot_compare(
    deep: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    told = [option.format(deep=deep) for option in options]
    done = correlate(deep / "ablated", tmp_path / "out", *told)
    assert done.exit_code == 2 and f"error: {message}" in done.output
    assert "Traceback" not in done.output and not (tmp_path / "out").exists()


def test_correlate_refuses_a_folder_without_effects(deep: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", deep / "run"):
        done = correlate(folder, tmp_path / "out")
        assert done.exit_code == 2 and "error: cannot read: saw" in done.output
