"""REPRODUCTION.md from saved experiments: claim by claim, what was run, what came out, and a verdict.

    python -m benchmarks.reproduction                    # from tutorials/reproduction, writes figures too
    python -m benchmarks.reproduction --take FOLDER      # first copy the results in FOLDER

No number in REPRODUCTION.md is typed by hand: all come from the findings of the experiments.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tl_emergence.experiments import CLAIMS, Conclusion, ExperimentResult, Finding, load_experiment
from tl_emergence.selection import singles

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "tutorials" / "reproduction"
FIGURES = ROOT / "tutorials" / "figures"
PAGE = ROOT / "REPRODUCTION.md"
EXPERIMENTS = (
    "shots", "shots-sigma-0.25", "shots-sigma-1", "natural-text", "natural-text-sigma-1", "model-size",
    "small-models", "variance", "text-sources", "text-sources-sigma-1",
)  # fmt: skip
"""Folders of the experiments that bear on claims, in the order of the page."""
_COMMANDS = {"small-models": "python -m tutorials.induction.sizes"}
"""What made a result, where it was not `tl-emergence experiment` with the models it names."""
_OPTIONS = {
    "shots-sigma-0.25": ("shots", "--sigma 0.25 --n 512"),
    "shots-sigma-1": ("shots", "--sigma 1 --n 512"),
    "natural-text-sigma-1": ("natural-text", "--sigma 1"),
    "text-sources": ("text-sources", "--n 400 --n-texts 1024"),
    "text-sources-sigma-1": ("text-sources", "--n 400 --n-texts 1024 --sigma 1"),
}
"""What was asked for, where it was not the default. Of those with other noise only the tables are kept."""
_SHOWN = 4
_HEADLINES = {
    "positive": ("emergence",),
    "staircase": ("rising_separators", "emergence_rise"),
    "seventh shot": ("macro_knee",),
    "every token": ("rising_tokens",),
    "model size": ("emergence_share",),
    "variance": ("spread_error_correlation",),
    "text sources": ("emergence_difference_beyond_exact",),
}
"""The quantities of each claim that stand in the first table; the others are below."""

_HEAD = """# The paper's claims, run again

Chen, Yang, Zhu, Wang: *Quantifying Semantic Emergence in Language Models* (ACL 2025; arXiv 2405.12617, whose
first version, of which these are the claims, had *Emergence in Large Language Models* in its title). Each row
is one claim, by one experiment. All of this page was written by `python -m benchmarks.reproduction` from the
saved results in `tutorials/reproduction`; the command that made each stands above its numbers.

* *Numbers.* Information is that of the estimator `noise`, not of the paper's (`mine_paper`, the largest of
  10,000 in-sample values, which has no known error), at sigma 0.5; again at 1, and of lists at 0.25, since
  how much of what is there is read depends on it. Emergence, macro and their rises are means over blocks 1
  and up, which hides that blocks differ; a cell is a model and a space (and a text).
* *Intervals* are of 95 %: of the estimate on the prompts at hand; in `variance` over prompts; in
  `text-sources` of the estimate and of the draw of windows.
* *Verdicts* are by the estimator and at the noise level that stand beside them. `holds`: in every cell.
  `holds partly`: in some, or one part of the claim of two. `does not hold`: in none (of tokens: in half or
  less; of sizes: not at each step). `cannot be tested at this N`: the rule gives the same verdict to the
  model, to shuffled weights (where they are measured) and to the exact curve, which is the same for any
  network, so the run could not have told. `cannot be tested here`: models, writers or shots that the claim is
  not about, or no difference resolved. A claim about model size needs three models of 100 million parameters
  or more (the paper's smallest has 124), one about text by large models writers of 7 billion or more. The
  models are small: what does not hold here may hold elsewhere.

"""


def page(results: dict[str, ExperimentResult]) -> str:
    """Return REPRODUCTION.md."""
    lines = ["| claim | verdict | what came out | what was run | figure |", "|---|---|---|---|---|"]
    for claim, said in CLAIMS.items():
        rows = [
            _row(said, key, result, one)
            for key, result in results.items()
            for one in result.conclusions
            if one.claim == claim
        ]
        lines += rows or [f"| {said} | nothing yet | | not run yet | |"]
    parts = [_HEAD + _models(results) + _noise_levels(results) + "\n".join(lines) + "\n", "## Every number\n"]
    for key, result in results.items():
        rows = [f"| {one.claim} | {one.where} | {one.what} | {one.text()} |" for one in result.findings]
        name, options = _OPTIONS.get(key, (key, ""))
        asked = [name, *result.settings["models"], *options.split(), "--out", key]
        by_name = f"tl-emergence experiment {' '.join(asked)}"
        head = f"### {key}\n\n{result.question}\n\n`{_COMMANDS.get(key, by_name)}`\n"
        head += f"\n![{key}](tutorials/figures/{key}.png)\n"
        parts.append("\n".join([head, "| claim | where | what | value |", "|---|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _models(results: dict[str, ExperimentResult]) -> str:
    """Return a sentence that says which models ran, quantised or not, from what the parts recorded."""
    notes = {
        one.settings["model_note"]
        for result in results.values()
        for part in result.parts.values()
        for one in singles(part)
        if one.settings.get("model_note")
    }
    return f"Packaged models: {'; '.join(sorted(notes))}.\n\n"


def _noise_levels(results: dict[str, ExperimentResult]) -> str:
    """Return a small table: emergence of the lists at each noise level, beside what is there."""
    runs = {result.settings["sigma"]: result for result in results.values() if result.name == "shots"}
    cells: dict[str, dict[float, str]] = {}
    for sigma, result in runs.items():
        for one in result.findings:
            if one.quantity == "emergence":
                cells.setdefault(one.where, {})[sigma] = one.text()
        rows = result.tables["curves"].query("run != 'model' and quantity == 'macro'")
        apart = f"{(rows['exact'] - rows['value']).abs().max():.2f} bits"
        cells.setdefault("macro of shuffled weights, from exact at most", {})[sigma] = apart
    exact = results["shots"].tables["curves"].query("quantity == 'emergence' and n == n.max()")
    last = exact.loc[exact["pos"] == exact["pos"].max(), "exact"].max()
    head = ["", *(f"sigma {sigma:g}" for sigma in sorted(runs))]
    table = [head, ["---"] * len(head)]
    table += [[where, *(of.get(sigma, "") for sigma in sorted(runs))] for where, of in cells.items()]
    said = f"Emergence at the last separator of the lists, the mean over blocks; exact: {last:.2f} bits"
    return f"{said}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n\n"


def _row(said: str, key: str, result: ExperimentResult, one: Conclusion) -> str:
    of = [finding for finding in result.findings if finding.claim == one.claim]
    shown = _headlines(one.claim, of)
    numbers = "<br>".join(f"{f.where}: {f.what}: **{f.text()}**" for f in shown)
    if len(of) > len(shown):
        numbers += f"<br>and {len(of) - len(shown)} more below"
    cells = [said, one.text(), f"{one.because}<br>{numbers}", _run(key, result)]
    return "| " + " | ".join([*cells, f"[{key}](tutorials/figures/{key}.png)"]) + " |"


def _headlines(claim: str, findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings of a claim that stand in the first table: of the models, not of controls."""
    chosen = [
        one
        for one in findings
        if one.quantity in _HEADLINES[claim] and one.run == "model" and one.matched is not False
    ]
    by_model: dict[tuple[str, str | None], list[Finding]] = {}
    for one in chosen:  # a model (or a writer) each in turn, so that none stands for the others
        by_model.setdefault((one.model, one.source if one.against else None), []).append(one)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_model.values()))
    return [one for one in in_turn if one is not None][:_SHOWN]


def _run(key: str, result: ExperimentResult) -> str:
    s = result.settings
    sizes = s.get("n")
    n = " and ".join(f"{size:,}" for size in sizes) if isinstance(sizes, list) else f"{sizes:,}"
    seeds = s.get("seeds", [s.get("seed")])
    seeds = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    what = s.get("lists", s.get("prompts", s.get("texts", "")))
    what = ", ".join(map(str, what)) if isinstance(what, list) else what
    prompts = s.get("texts", what)
    reader = f", read by {s['reader']}" if "reader" in s else ""
    return (
        f"{key}: {', '.join(s['models'])}{reader}; {prompts}; N = {n}; {s['estimator']}, sigma "
        f"{s['sigma']:g}, {' and '.join(s['spaces'])}; {seeds}"
    )


def load_all(folder: Path = KEPT) -> dict[str, ExperimentResult]:
    """Return the saved experiments: those that are there."""
    return {name: load_experiment(folder / name) for name in EXPERIMENTS if (folder / name).exists()}


def write_figure(result: ExperimentResult, path: Path) -> None:
    """Write the figure of an experiment as a small PNG."""
    content = io.BytesIO()
    result.plot().savefig(content, format="png", dpi=90)
    path.write_bytes(content.getvalue())


def main() -> None:
    """Copy results where asked, then write figures and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--take", type=Path, help="folder with the --out folders of the experiments")
    asked = parser.parse_args()
    for name in EXPERIMENTS if asked.take else ():
        if (asked.take / name / "result").exists():
            taken = load_experiment(asked.take / name / "result")
            (replace(taken, parts={}) if "-sigma-" in name else taken).save(KEPT / name)
    results = load_all()
    for name, result in results.items():
        write_figure(result, FIGURES / f"{name}.png")
    PAGE.write_text(page(results), encoding="utf-8")
    print(f"{PAGE.name}: {sum(len(one.conclusions) for one in results.values())} rows")


if __name__ == "__main__":
    main()
