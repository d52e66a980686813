"""Verdicts follow fields and numbers, never words; where any network has a verdict, it is not given."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.reproduction import load_all
from tl_emergence.errors import SettingError
from tl_emergence.experiments import Conclusion, Finding, because, words
from tl_emergence.experiments.claims import LEAST_WRITER, settled
from tl_emergence.experiments.findings import QUANTITIES, from_plain, to_plain
from tl_emergence.experiments.judging import judged

ROOT = Path(__file__).parents[2]
SHOTS = 10
AT_THIS_N, HERE = "cannot be tested at this N", "cannot be tested here"


def verdicts(name: str, tables: dict[str, pd.DataFrame], settings: dict[str, Any]) -> dict[str, str]:
    return {one.claim: one.verdict for one in judged(name, tables, settings)["conclusions"]}


# Lists: curves made by hand ---------------------------------------------------------------------------


def exact_macro(n: int, shots: int = SHOTS) -> np.ndarray:
    """Return the entropy of lists of countries at entities and separators, capped by log2 N."""
    return np.array([min(math.log2(n), math.log2(math.perm(25, t // 2 + 1))) for t in range(2 * shots)])


def less_micro(macro: np.ndarray) -> np.ndarray:
    """Return exact emergence: an entity alone is told apart from 24 others, a separator from none."""
    micro = np.where(np.arange(len(macro)) % 2 == 0, math.log2(25), 0.0)
    return macro - np.cumsum(micro) / np.arange(1, len(macro) + 1)


def list_tables(
    n: int = 512,
    macro: np.ndarray | None = None,
    emergence: np.ndarray | None = None,
    control: np.ndarray | None = None,
    crossing: float = 2,
    above: int = 4,
    shots: int = SHOTS,
) -> dict[str, pd.DataFrame]:
    """Return the tables of `shots` for one model; what is not given is exact."""
    exact = {"macro": exact_macro(n, shots), "emergence": less_micro(exact_macro(n, shots))}
    given = {"macro": macro, "emergence": emergence}
    cell = {"model": "toy", "list": "country", "n": n, "space": "read"}
    rows = []
    for run in ("model", "shuffled_weights"):
        for quantity, of in exact.items():
            other = given[quantity] if run == "model" else control
            values = of if other is None else other
            for pos, value in enumerate(values):
                rows.append(
                    {
                        **cell, "run": run, "quantity": quantity, "pos": pos, "value": value, "stderr": 0.001,
                        "exact": of[pos],
                    }
                )  # fmt: skip
    knees = [{**cell, "run": run, "crossing": crossing, "bits_of_7": 31.2} for run in ("model", "control")]
    return {
        "curves": pd.DataFrame(rows),
        "knees": pd.DataFrame(knees),
        "blocks": pd.DataFrame([{**cell, "above": above, "blocks": 4}]),
    }


def list_settings(n: int = 512, shots: int = SHOTS) -> dict[str, Any]:
    return {"n": [n], "most": shots, "sigma": 0.5, "estimator": "noise"}


def saturating(shot: int, bits: float = 8.0) -> np.ndarray:
    """Return a curve that grows by the same amount with every shot up to one, and not after."""
    return np.array([bits * min(t // 2 + 1, shot) / shot for t in range(2 * SHOTS)])


def test_a_network_that_follows_the_exact_curves_has_no_verdict_of_its_own() -> None:
    found = verdicts("shots", list_tables(), list_settings())
    assert found == dict.fromkeys(("positive", "staircase", "seventh shot"), AT_THIS_N)


@pytest.mark.parametrize("n", [64, 512, 300_000])
def test_a_knee_that_the_number_of_prompts_makes_cannot_be_tested(n: int) -> None:
    assert verdicts("shots", list_tables(n), list_settings(n))["seventh shot"] == AT_THIS_N
    # Also where N is so large that every network has its knee at shot 7.
    (last,) = judged("shots", list_tables(2**30), list_settings(2**30))["conclusions"][2:]
    assert last.verdict == AT_THIS_N and set(last.by_rule.values()) == {"holds"}


def test_a_knee_that_differs_from_that_of_any_network_is_the_models() -> None:
    at_7 = list_tables(macro=saturating(7), emergence=saturating(7))
    assert verdicts("shots", at_7, list_settings())["seventh shot"] == "holds"
    one_of_two = list_tables(macro=saturating(7))
    assert verdicts("shots", one_of_two, list_settings())["seventh shot"] == "holds partly"
    at_10 = list_tables(macro=saturating(10), emergence=saturating(10), control=saturating(7))
    assert verdicts("shots", at_10, list_settings())["seventh shot"] == "does not hold"


def test_lists_that_end_before_the_seventh_shot_cannot_test_it() -> None:
    found = verdicts("shots", list_tables(shots=4), list_settings(shots=4))
    assert found["seventh shot"] == HERE


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        # Where the entropy of the list passes log2 N at no shot, the exact curves are positive and grow.
        ({"emergence": saturating(10), "crossing": math.nan}, AT_THIS_N),
        ({"emergence": saturating(10), "crossing": math.nan, "above": 3}, "holds partly"),
        ({"emergence": saturating(10)[::-1] + 1, "crossing": math.nan}, "holds partly"),
        ({"emergence": -saturating(10), "crossing": math.nan, "above": 0}, "does not hold"),
        # Past log2 N they are flat: only a model that goes on differs from them.
        ({"emergence": np.r_[saturating(10)[:14], [2.0] * 6]}, AT_THIS_N),
        ({"emergence": saturating(10)}, "holds"),
    ],
)
def test_emergence_of_lists_is_positive_and_grows_in_every_block_or_partly(
    changes: dict[str, Any], verdict: str
) -> None:
    assert verdicts("shots", list_tables(**changes), list_settings())["positive"] == verdict


def test_steps_at_entities_alone_hold_and_steps_everywhere_do_not() -> None:
    def said(emergence: np.ndarray) -> str:
        # The control rises at entities only, so that no verdict is every network's.
        tables = list_tables(emergence=emergence, control=saturating(10))
        return verdicts("shots", tables, list_settings())["staircase"]

    everywhere = np.linspace(0, 8, 2 * SHOTS)
    one_separator = saturating(10) + (np.arange(2 * SHOTS) >= 3)
    assert said(saturating(10)) == "holds" and said(everywhere) == "does not hold"
    assert said(one_separator) == "holds partly"
    assert said(saturating(10)[::-1]) == "does not hold"


# The crossing of log2 N ------------------------------------------------------------------------------


@pytest.mark.parametrize("crossing", [*range(1, SHOTS + 1), math.nan])
def test_the_entropy_passes_log2_n_nowhere_only_if_it_does_not(crossing: float) -> None:
    found = judged("shots", list_tables(crossing=crossing), list_settings())
    knees = [one for one in found["findings"] if one.quantity == "macro_knee"]
    said = [found["conclusions"][0].because, *(one.what for one in knees)]
    passed = None if math.isnan(crossing) else int(crossing)
    assert knees and all(one.beside["crossing"] == passed for one in knees)
    assert all(("at no shot" in text) == (passed is None) for text in said)


# Text, sizes, sources --------------------------------------------------------------------------------


def text_tables(values: Sequence[float], exact: Sequence[float]) -> dict[str, pd.DataFrame]:
    rows = [
        {
            "model": "toy", "kind": "start-8", "space": "read", "run": run, "quantity": "emergence", "pos": t,
            "value": (values if run == "model" else exact)[t], "stderr": 0.01, "exact": exact[t],
        }
        for run in ("model", "shuffled_weights")
        for t in range(len(values))
    ]  # fmt: skip
    return {"curves": pd.DataFrame(rows)}


def test_text_is_judged_where_it_differs_from_its_exact_curve() -> None:
    settings = {"n": 512, "sigma": 0.5, "estimator": "noise"}
    exact = [0.0, 1.0, 1.8, 2.0, 1.9, 1.8, 1.7, 1.6]
    rising, falling = list(np.linspace(0, 2, 8)), [2.0 - value for value in np.linspace(0, 3, 8)]
    found = verdicts("natural text", text_tables(exact, exact), settings)
    assert found == {"every token": AT_THIS_N, "positive": AT_THIS_N}
    found = verdicts("natural text", text_tables(rising, exact), settings)
    assert found == {"every token": "holds", "positive": "holds"}
    found = verdicts("natural text", text_tables(falling, exact), settings)
    assert found["positive"] == "does not hold"
    found = verdicts("natural text", text_tables(falling, rising), settings)  # where a network could rise
    assert found["every token"] == "does not hold"


@pytest.mark.parametrize(
    ("parameters", "shares", "verdict"),
    [
        ((4e3, 13e3, 42e3, 149e3), (1.3, 1.7, 2.2, 2.0), HERE),  # toys of any number
        ((4e3, 13e3, 42e3, 149e3), (0.2, 0.4, 0.6, 0.8), HERE),
        ((135e6, 268e6), (0.2, 0.8), HERE),
        ((135e6, 268e6, 42e3), (0.2, 0.8, 0.1), HERE),
        ((124e6, 355e6, 774e6), (0.2, 0.5, 0.8), "holds"),
        ((124e6, 355e6, 774e6), (0.2, 0.5, 0.4), "does not hold"),
        ((774e6, 124e6, 355e6), (0.8, 0.2, 0.5), "holds"),  # in any order
        ((124e6, 355e6, 774e6), (1.0, 0.999, 1.001), AT_THIS_N),  # nothing is left to add
    ],
)
def test_size_is_tested_by_three_models_of_the_claims_size(
    parameters: tuple[float, ...], shares: tuple[float, ...], verdict: str
) -> None:
    sizes = [
        {"model": f"m{i}", "parameters": of, "space": "read", "run": "model", "share": share, "stderr": 0.01}
        for i, (of, share) in enumerate(zip(parameters, shares, strict=True))
    ]
    settings = {"n": 512, "sigma": 0.5, "estimator": "noise"}
    assert verdicts("model size", {"sizes": pd.DataFrame(sizes)}, settings) == {"model size": verdict}


@pytest.mark.parametrize(
    ("parameters", "beyond", "verdict"),
    [
        (135e6, 0.5, HERE),  # such a writer says nothing about GPT-4, whatever comes out
        (135e6, -0.5, HERE),
        (LEAST_WRITER, 0.5, "holds"),
        (LEAST_WRITER, -0.5, "does not hold"),
        (math.nan, 0.5, "holds"),  # texts that were given
        (math.nan, 0.0, HERE),  # nothing resolved
    ],
)
def test_a_claim_about_large_writers_needs_one(parameters: float, beyond: float, verdict: str) -> None:
    rows = [
        {
            "source": source, "how": how, "space": "read", "run": "model", "value": value, "stderr": 0.01,
            "exact": 2.0, "sampling error": 0.01, "sampling error beyond exact": 0.01, "token entropy": 7.0,
            "parameters": size,
        }
        for source, value, size in (("human", 2.0, math.nan), ("writer", 2.0 + beyond, parameters))
        for how in ("unmatched", "matched")
    ]  # fmt: skip
    settings = {"n": 400, "n_tokens": 8, "sigma": 0.5, "estimator": "noise", "reader": "toy"}
    assert verdicts("text sources", {"sources": pd.DataFrame(rows)}, settings) == {"text sources": verdict}


def test_one_curve_that_differs_is_enough_for_a_verdict() -> None:
    same = dict.fromkeys(("model", "exact", "shuffled_weights"), "holds")
    assert settled(same) == AT_THIS_N  # type: ignore[arg-type]
    for name in same:
        other = {**same, name: "does not hold"}
        assert settled(other) == other["model"]  # type: ignore[arg-type]


# Words -----------------------------------------------------------------------------------------------


def public_functions(module: Any) -> list[str]:
    return [
        name
        for name, of in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and of.__module__ == module.__name__
    ]


def test_no_wording_changes_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sentence is replaced by another; findings and verdicts stay, of saved experiments and by hand."""
    kept = {key: (one.name, one.tables, one.settings) for key, one in load_all().items()}
    kept["by hand"] = ("shots", list_tables(macro=saturating(7), emergence=saturating(7)), list_settings())
    before = {key: judged(*of) for key, of in kept.items()}
    for module in (words, because):
        for name in public_functions(module):
            monkeypatch.setattr(module, name, lambda *_, **__: "emergence at the last separator holds")
    for key, of in kept.items():
        after = judged(*of)
        fields, fields_before = ([to_plain(f) for f in found["findings"]] for found in (after, before[key]))
        assert fields == fields_before, key
        assert [plain(one) for one in after["conclusions"]] == [plain(b) for b in before[key]["conclusions"]]
        changed = [one.because for one in after["conclusions"]]
        assert changed and all("holds" in text and len(text) < 60 for text in changed), key  # it was replaced
        assert {one.what for one in after["findings"]} == {"emergence at the last separator holds"}, key


def plain(one: Conclusion) -> tuple[Any, ...]:
    return one.claim, one.verdict, one.estimator, one.sigma, dict(one.by_rule)


def test_saved_findings_and_verdicts_are_what_the_rules_say_of_the_saved_tables() -> None:
    results = load_all()
    assert len(results) == 10
    for key, result in results.items():
        again = judged(result.name, result.tables, result.settings)
        assert [to_plain(one) for one in again["findings"]] == [to_plain(one) for one in result.findings], key
        assert again["conclusions"] == result.conclusions, key


def reads_words(source: str) -> list[str]:
    """Return the expressions of a program that search or compare the words of findings and verdicts."""
    found = []
    for node in ast.walk(ast.parse(source)):
        searched = (
            [node.func.value, *node.args]
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("startswith", "endswith", "contains", "match", "search", "split", "find")
            else [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        )  # fmt: skip
        for part in (inner for one in searched for inner in ast.walk(one)):
            name = getattr(part, "attr", None) or getattr(getattr(part, "slice", None), "value", None)
            if name in ("what", "where", "because"):
                found.append(ast.unparse(node))
    return found


PROGRAMS = [
    *(ROOT / "tl_emergence" / "experiments").glob("*.py"),
    *(ROOT / "tl_emergence" / "plots").glob("*.py"),
    *(ROOT / "tutorials").glob("0*.py"),
    ROOT / "benchmarks" / "reproduction.py",
]


def test_no_program_reads_findings_or_verdicts_by_their_words() -> None:
    assert len(PROGRAMS) > 20
    assert {path.name: reads_words(path.read_text(encoding="utf-8")) for path in PROGRAMS} == {
        path.name: [] for path in PROGRAMS
    }


@pytest.mark.parametrize(
    "line",
    [
        "[one for one in found if one.what.startswith('emergence')]",
        "'new entity' in one.what",
        "table[table['what'].str.contains('difference')]",
        "one.where.split(',')[0]",
        "said in levels[sigma].conclusions[1].because",
    ],
)
def test_programs_that_read_words_are_noticed(line: str) -> None:
    assert reads_words(line)


# Findings --------------------------------------------------------------------------------------------


def finding(**changes: Any) -> Finding:
    given = {"claim": "positive", "quantity": "emergence", "value": 1.0, "model": "toy", "space": "read"}
    return Finding(**{**given, "sigma": 0.5, "n": 64, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"low": 0.5, "high": 1.5, "exact": 2.0, "place": "separator", "first": 1, "last": 10},
        {"value": math.nan, "beside": {"crossing": None, "blocks": 4}},
        {"source": "gemma", "against": "human", "matched": False},
    ],
)
def test_a_finding_is_read_again_as_it_was(changes: dict[str, Any]) -> None:
    one = finding(**changes)
    assert repr(from_plain(to_plain(one))) == repr(one)


def test_a_finding_says_what_it_is_of_by_known_names(as_shipped: None) -> None:
    for name, message in (("quantity", "emergnce"), ("claim", "positve"), ("place", "separater")):
        with pytest.raises(SettingError, match=f"unknown {name}.*Did you mean"):
            finding(**{name: message})


def test_every_quantity_has_words() -> None:
    beside: dict[str, float | None] = dict.fromkeys(
        (
            "crossing", "separators", "tokens", "falls", "lowest", "highest", "seeds", "seeds with one",
            "lowest seed", "highest seed", "noise sd", "sd over prompts", "shot",
        ),
        3.0,
    )  # fmt: skip
    said = {
        name: finding(quantity=name, first=1, last=2, exact=1.0, beside=beside).what for name in QUANTITIES
    }
    assert len(set(said.values())) == len(QUANTITIES) and all(said.values())


def test_the_verdict_names_its_estimator() -> None:
    results = load_all()
    assert all(
        f"estimator {one.estimator}, sigma {one.sigma:g}" in one.text() and one.text() in result.summary()
        for result in results.values()
        for one in result.conclusions
    )
