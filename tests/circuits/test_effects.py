"""HeadEffects by themselves: from numbers that are known, without a model."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import tl_emergence as tle
from tests import toys
from tl_emergence import circuits
from tl_emergence.circuits import HeadEffects
from tl_emergence.errors import ResultFileError, SettingError
from tl_emergence.prompts import from_tokens

N = 64
MEANS = {
    "loss": [[0.5, -2.0], [1.5, float("nan")]],
    "information": [[0.5, -3.0], [-1.5, float("nan")]],
    "own": [[0.5, -2.0], [1.5, float("nan")]],
}


def made(seed: int = 0, saturated: float = 0.25) -> HeadEffects:
    """Return effects of three heads of two blocks (L3H1 was not asked for), spread 1 over prompts."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 2, N, generator=generator, dtype=torch.float64)
    about: dict[str, Any] = {
        "layers": [4, 5], "positions": [2], "space": "read", "sigma": 0.5, "saturated": saturated
    }  # fmt: skip
    return HeadEffects(
        component="head",
        layers=(1, 3),
        heads=(0, 1),
        effects={name: torch.tensor(means)[..., None] + noise for name, means in MEANS.items()},
        baseline={name: torch.full((N,), 4.0, dtype=torch.float64) for name in MEANS},
        units={"loss": "bits", "information": "bits", "own": ""},
        worse={"loss": 1, "information": -1, "own": 0},
        settings={
            "model": "m",
            "prompts": "p",
            "kind": "zero",
            "metrics": {"loss": {}, "information": about, "own": {}},
        },
    )


@pytest.mark.parametrize(
    ("metric", "order"),
    [
        ("loss", ["L3H0", "L1H0", "L1H1"]),  # a rise is worse
        ("information", ["L1H1", "L3H0", "L1H0"]),  # a fall is worse
        ("own", ["L1H1", "L3H0", "L1H0"]),  # nothing is known: the largest first
    ],
)
def test_heads_are_ranked_by_how_much_worse_the_model_does(metric: str, order: list[str]) -> None:
    ranked = made().ranked(metric)
    assert ranked["head"].tolist() == order and ranked["rank"].tolist() == [1, 2, 3]
    assert made().ranked(metric, 1)["head"].tolist() == order[:1]


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(200):
        row = made(seed).ranked("loss").set_index("head").loc["L3H0"]
        assert row["stderr"] == pytest.approx(1 / N**0.5, rel=0.35)
        inside += row["low"] < 1.5 < row["high"]
    assert 180 <= inside <= 198


def test_the_data_frame_has_a_row_for_each_head_that_was_ablated() -> None:
    table = made().to_dataframe()
    assert len(table) == 9 and set(table["label"]) == {"L1H0", "L1H1", "L3H0"}
    row = table.query("label == 'L1H1' and metric == 'information'").iloc[0]
    assert (row["layer"], row["head"], row["baseline"], row["unit"]) == (1, 1, 4.0, "bits")
    assert row["value"] == pytest.approx(float(made().mean("information")[0, 1]))
    assert row["saturated"] == 0.25 and set(table.query("metric == 'loss'")["saturated"]) == {0.0}


def test_a_csv_file_of_effects_keeps_every_word_and_tells_runs_apart() -> None:
    def with_settings(**changes: Any) -> pd.DataFrame:
        effects = made()
        return replace(effects, settings={**effects.settings, **changes}).to_dataframe()

    same_heads = [
        with_settings(),
        with_settings(seed=1),
        with_settings(prompts_hash="a1"),
        with_settings(bos_token_id=2),
        with_settings(model_note="step 100"),
        with_settings(kind="mean", reference_hash="b2"),
        with_settings(kind="resample", draws=4),
        with_settings(positions=[0, 1]),
        with_settings(metrics={**made().settings["metrics"], "information": {"sigma": 1.0}}),
    ]
    table = pd.concat(same_heads, ignore_index=True)
    back = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    keys = [name for name in back.columns if name not in ("value", "stderr", "baseline", "saturated")]
    assert not back[keys].isna().to_numpy().any()
    alike = back[back["metric"] == "information"]
    assert len(alike.groupby(keys)) == len(alike) == 9 * 3
    assert set(table["n_prompts"]) == {N}


def test_effects_that_were_saved_without_their_saturation_say_that_it_is_not_known() -> None:
    effects = made()
    about = {k: v for k, v in effects.settings["metrics"]["information"].items() if k != "saturated"}
    settings = {**effects.settings, "metrics": {**effects.settings["metrics"], "information": about}}
    text = replace(effects, settings=settings).summary()
    assert "nan" not in text and "SATURATED" not in text
    assert "which cells are saturated was not kept" in text


def test_saturation_is_told_in_words_and_refused_of_metrics_that_are_none() -> None:
    assert "SATURATED in 25% of its cells" in made().summary()
    assert "SATURATED" not in made(saturated=0.0).summary()
    with pytest.raises(SettingError, match="los"):
        made().saturated("los")


def test_saturation_is_that_of_the_clean_macro_against_its_cap(tmp_path: Path) -> None:
    model = toys.make_model(toys.MODEL_KINDS[0])
    prompts = from_tokens(toys.TOKENS)
    metrics = {
        "full": circuits.emergence_at([1], [2], sigma=0.01),
        "half": circuits.information_at([1], [0, 2], sigma=0.01),
        "empty": circuits.information_at([1], [2], sigma=100.0),
    }
    for _ in range(2):  # measured, and from the finished work folder
        found = tle.ablate_heads(model, prompts, metrics, kind="zero", workdir=tmp_path)
        # Position 0 has four distinct tokens: two bits of the three that the cap allows.
        assert [found.saturated(name) for name in metrics] == [1.0, 0.5, 0.0]
        clean = [found.settings["metrics"][name]["clean_macro"] for name in metrics]
        assert clean == pytest.approx([3.0, 2.5, 0.0], abs=0.01)


def test_save_and_load_keep_everything_and_others_are_refused(tmp_path: Path) -> None:
    made().save(tmp_path / "e")
    again = circuits.load_effects(tmp_path / "e")
    for name in MEANS:
        assert torch.equal(again.effects[name].nan_to_num(9.0), made().effects[name].nan_to_num(9.0))
    assert again.summary() == made().summary() and again.settings == made().settings
    with pytest.raises(ResultFileError, match="effects of ablations, not a result"):
        tle.load_result(tmp_path / "e")
    with pytest.raises(ResultFileError):
        circuits.load_effects(tmp_path)


def test_the_heatmap_is_centred_at_0_and_names_the_leading_head() -> None:
    figure = made().plot("information")
    axes = figure.axes[0]
    low, high = axes.images[0].get_clim() if axes.images else axes.collections[0].get_clim()
    assert low == -high and high == pytest.approx(float(made().mean("information").abs().nan_to_num().max()))
    assert any("L1H1" in text.get_text() for text in [*axes.texts, *figure.texts])
