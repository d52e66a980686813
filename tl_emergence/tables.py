"""Results as data frames, text and HTML; values are shown to the precision of their error."""

from __future__ import annotations

import html as html_escape
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import pandas as pd

    from tl_emergence.half_blocks import HalfBlocks
    from tl_emergence.results import EmergenceResult, EstimatorComparison

_CONTROL_NAMES = {
    "shuffled_weights": "weight-shuffled",
    "shuffled_tokens": "token-shuffled",
    "deranged": "deranged",
}
_GAUSSIAN = ("gaussian", "vinfo")

THE_MODEL = "model"
"""What the column `control` says of the rows of the model itself: a word, since CSV loses empty strings."""
NONE = "none"
"""What a column of words says where there is nothing to say, for the same reason."""


def result_rows(result: EmergenceResult) -> pd.DataFrame:
    """Return one row for each run, layer, position and metric."""
    frames = [_rows(result, THE_MODEL)]
    frames += [_rows(control, name) for name, control in result.controls.items()]
    return joined_rows(frames)


def joined_rows(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of several data frames together."""
    import pandas as pd

    return pd.concat(frames, ignore_index=True)


def described_run(settings: Mapping[str, Any], n_prompts: int) -> dict[str, Any]:
    """Return the columns that tell the tables of different calls apart, the same in every row.

    `model` and `model_note`, the name and content hash of the prompts, their number, their shots (0 where
    the prompts are no demonstrations), whether BOS stood in front, and the seed.

    Example:
        >>> described_run({"model": "gpt2", "prompts": "country", "bos_token_id": 50256, "seed": 3}, 8)["bos"]
        True
    """
    details = settings.get("prompts_details", {})
    return {
        "model": str(settings.get("model", "states")),
        "model_note": str(settings.get("model_note") or NONE),
        "prompts": str(settings.get("prompts", "tokens")),
        "prompts_hash": str(settings.get("prompts_hash") or NONE),
        "n_prompts": n_prompts,
        "shots": int(details.get("shots", 0)),
        "bos": settings.get("bos_token_id") is not None or settings.get("n_prefix", 0) > 0,
        "seed": int(settings.get("seed", 0)),
    }


def _options_of(result: EmergenceResult) -> str:
    """Return the estimator's other settings as text; `none` where it has none."""
    from tl_emergence.estimators import ESTIMATORS

    names = ESTIMATORS[result.estimator].options if result.estimator in ESTIMATORS else ()
    options = [f"{name}={result.settings[name]}" for name in names if name in result.settings]
    return ", ".join(options) or NONE


def _rows(result: EmergenceResult, control: str) -> pd.DataFrame:
    import pandas as pd

    either = result.macro_saturated | result.micro_saturated
    metrics = {
        "macro": (result.macro, result.macro_stderr, result.exact.macro, result.macro_saturated),
        "micro": (result.micro, result.micro_stderr, result.exact.micro, result.micro_saturated),
        "emergence": (result.emergence, result.stderr, result.exact.emergence, either),
    }
    described = {} if result.geometry is None else result.geometry.tensors()
    geometry = {name: tensor.flatten().numpy() for name, tensor in described.items()}
    run = {**described_run(result.settings, result.n_prompts), "micro": result.settings.get("micro", "alone")}
    numbers = (torch.tensor(values, device="cpu") for values in (result.layers, result.positions))
    layer, pos = torch.meshgrid(*numbers, indexing="ij")
    frames = []
    for metric, (value, stderr, exact, saturated) in metrics.items():
        frames.append(
            pd.DataFrame(
                {
                    **run,
                    "estimator": result.estimator,
                    "options": _options_of(result),
                    "space": result.space,
                    "sigma": result.sigma,
                    "control": control,
                    "layer": layer.flatten().numpy(),
                    "pos": pos.flatten().numpy(),
                    "label": list(result.labels) * len(result.layers),
                    "metric": metric,
                    "value": value.flatten().numpy(),
                    "stderr": stderr.flatten().numpy(),
                    "exact": exact.flatten().numpy(),
                    "cap_bits": math.nan if result.cap_bits is None else result.cap_bits,
                    "saturated": saturated.flatten().numpy(),
                    **geometry,
                }
            )
        )
    return joined_rows(frames)


def with_error(value: float, stderr: float) -> str:
    """Return a value rounded to the second digit of its error, and to 3 decimals at most.

    Example:
        >>> with_error(5.31234, 0.0213), with_error(5.31234, 0.3), with_error(2.0, 0.0)
        ('5.312 ± 0.021', '5.31 ± 0.30', '2.000')
    """
    if stderr == 0:
        return f"{value:.3f}"
    decimals = min(3, max(0, 1 - math.floor(math.log10(stderr))))
    return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"


def model_name(result: EmergenceResult) -> str:
    """Return the model's name for titles: its note (what it was made from) where it has one."""
    return str(result.settings.get("model_note") or result.settings.get("model", "states"))


def bos_words(settings: Mapping[str, Any]) -> str:
    """Return whether BOS was used, in words: results with and without it are not to be compared.

    Example:
        >>> bos_words({"bos_token_id": 2}), bos_words({"bos_token_id": None}), bos_words({"n_prefix": 1})
        ('BOS (token 2) before each', 'no BOS', '1 leading cache position left out')
    """
    if "bos_token_id" in settings:
        bos = settings["bos_token_id"]
        return "no BOS" if bos is None else f"BOS (token {bos}) before each"
    if "n_prefix" in settings:
        n = settings["n_prefix"]
        return f"{n} leading cache position{'' if n == 1 else 's'} left out"
    return "BOS not recorded"


def header(result: EmergenceResult) -> list[str]:
    """Return what was measured, on what and how, in a few lines."""
    s = result.settings
    cap = "none" if result.cap_bits is None else f"{result.cap_bits:.2f} bits"
    details = s.get("prompts_details", {})
    shots = f", {details['shots']} shots" if "shots" in details else ""
    length = s.get("n_positions", max(result.positions) + 1)
    return [
        f"{model_name(result)} on {s.get('prompts', 'tokens')}{shots}: {result.n_prompts:,} prompts x "
        f"{length} tokens, {bos_words(s)}",
        f"{result.estimator} information at sigma {result.sigma:g} in space {result.space!r}, seed "
        f"{s.get('seed', 0)}; cap {cap}",
    ]


def last_position_rows(result: EmergenceResult) -> tuple[list[str], list[list[str]]]:
    """Return titles and cells of the table at the last scored position: one row a block."""
    titles = ["block", "macro", "micro (mean)", "emergence", "exact"]
    titles += [_CONTROL_NAMES.get(name, name) for name in result.controls]
    titles += [f"at N = {part.n_prompts:,}" for part in result.subsamples]
    rows = []
    for i, layer in enumerate(result.layers):
        macro, emergence = float(result.macro[i, -1]), float(result.emergence[i, -1])
        flag = " (sat.)" if bool(result.macro_saturated[i, -1]) else ""
        row = [
            str(layer),
            with_error(macro, float(result.macro_stderr[i, -1])) + flag,
            f"{macro - emergence:.3f}",
            with_error(emergence, float(result.stderr[i, -1])),
            f"{float(result.exact.emergence[i, -1]):.3f}",
        ]
        row += [
            with_error(float(c.emergence[i, -1]), float(c.stderr[i, -1])) for c in result.controls.values()
        ]
        row += [f"{float(part.emergence[i, -1]):.3f}" for part in result.subsamples]
        rows.append(row)
    return titles, rows


def caveats(result: EmergenceResult) -> list[str]:
    """Return what limits the numbers: saturation, collisions, controls, direction."""
    lines = []
    saturated = int(result.macro_saturated.sum())
    if saturated:
        lines.append(
            f"{saturated} of {result.macro.numel()} macro values are above 0.9 of the cap: there the number "
            "of prompts is measured, not the model."
        )
    full = int(result.at_ceiling.sum())
    above = int((result.macro > result.exact.macro + 0.01).sum())
    if result.estimator in _GAUSSIAN:
        if above:
            lines.append(
                f"{above} of {result.macro.numel()} macro values exceed their exact value, as they may: a "
                "Gaussian model counts what separates states, however few there are to be told apart."
            )
    elif full > saturated:
        lines.append(
            f"{full} of {result.macro.numel()} macro values are above 0.9 of their exact value: there the "
            "prompt set is measured, not the model."
        )
    if result.collisions:
        lines.append(
            f"{result.collisions} cells hold two distinct prefixes with the same state: there the ceiling "
            "is too high."
        )
    if not result.controls:
        lines.append("No control was run: a number without its control is not a result.")
    for name, control in result.controls.items():
        if name == "deranged":
            lines.append(
                "The deranged control pairs each state with the next one of another prompt. Expected of its "
                f"macro and micro: {control.settings.get('null_means', 'see the estimator')}."
            )
            continue
        lines.append(
            f"The {_CONTROL_NAMES.get(name, name)} control is not expected to be 0: its own exact value at "
            f"the last position is {float(control.exact.emergence[-1, -1]):.3f} bits."
        )
    if result.estimator == "noise":
        lines.append("These numbers describe this prompt set at this resolution: compare at equal N only.")
    dropped = result.settings.get("coordinates_dropped")
    if dropped:
        lines.append(
            f"{dropped} coordinates of every state are left out: the published procedure cuts states into "
            f"segments of {result.settings['segment']} and says nothing of the rest."
        )
    if result.settings.get("direction") == "none":
        lines.append(
            "Emergence is a difference of two estimates and bounds nothing: where micro falls short by more "
            "than macro, it exceeds the exact value."
        )
    return lines


def _where(result: EmergenceResult) -> str:
    parts = "; 'at N': emergence on a random part of the prompts" if result.subsamples else ""
    return f"At the last scored position ({result.positions[-1]}, {result.labels[-1]!r}), in bits{parts}:"


def summary(result: EmergenceResult) -> str:
    """Return the result in words and one table."""
    titles, rows = last_position_rows(result)
    table = aligned([titles, *rows])
    return "\n".join([*header(result), "", _where(result), *table, "", *caveats(result)])


def beside_each_other(comparison: EstimatorComparison) -> str:
    """Return emergence at the last scored position, a column an estimator (and space), as text."""
    from tl_emergence.selection import worth_a_table

    shown = [(_column_title(title), found) for title, found in worth_a_table(comparison)]
    first = shown[0][1]
    rows = [["block", *(title for title, _ in shown)]]
    for i, layer in enumerate(first.layers):
        rows.append([str(layer), *(_last_emergence(found, i) for _, found in shown)])
    if all(found.estimator != "exact" for _, found in shown):
        exact = [f"{float(value):.3f}" for value in first.exact.emergence[:, -1]]
        rows = [[row[0], cell, *row[1:]] for row, cell in zip(rows, ["exact", *exact], strict=True)]
    where = f"({first.positions[-1]}, {first.labels[-1]!r})"
    questions = [f"{name}: {question_of(name)}" for name in comparison if question_of(name)]
    return "\n".join(
        [
            f"Emergence at the last scored position {where}, in bits; each estimator answers a question of",
            "its own, so that no column is an estimate of another:",
            *aligned(rows),
            "",
            *questions,
        ]
    )


def halves_summary(halves: HalfBlocks) -> str:
    """Return emergence at the last scored position, a column a part of the block, with what limits them."""
    rows = [["block", *(title for name, _ in halves.parts() for title in (name, "exact"))]]
    for i, layer in enumerate(halves.layers):
        cells = [
            (_last_emergence(found, i), f"{float(found.exact.emergence[i, -1]):.3f}")
            for _, found in halves.parts()
        ]
        rows.append([str(layer), *(cell for pair in cells for cell in pair)])
    lines = {name: caveats(found) for name, found in halves.parts()}
    common = [line for line in lines["whole"] if all(line in other for other in lines.values())]
    own = [f"{name}: {line}" for name, found in lines.items() for line in found if line not in common]
    where = f"({halves.positions[-1]}, {halves.labels[-1]!r})"
    return "\n".join(
        [
            *header(halves.whole),
            "",
            f"Emergence at the last scored position {where}, in bits, of each half and of the whole block:",
            *aligned(rows),
            "",
            *own,
            *common,
        ]
    )


def _column_title(title: str) -> str:
    return title.replace("estimator ", "").replace("space ", "").replace("'", "")


def _last_emergence(result: EmergenceResult, i: int) -> str:
    flag = " (sat.)" if bool(result.macro_saturated[i, -1]) else ""
    return with_error(float(result.emergence[i, -1]), float(result.stderr[i, -1])) + flag


def question_of(estimator: str) -> str:
    """Return the question that an estimator answers; nothing for one that is not known here."""
    from tl_emergence.estimators import ESTIMATORS

    return ESTIMATORS[estimator].measures if estimator in ESTIMATORS else ""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, columns aligned to the right.

    Example:
        >>> aligned([["block", "bits"], ["10", "2.5"]])
        ['block  bits', '   10   2.5']
    """
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def joined_summary(parts: Mapping[str, str]) -> str:
    """Return several summaries, each under its title."""
    return "\n\n".join(f"== {title} ==\n{text}" for title, text in parts.items())


def joined_html(parts: Mapping[str, str]) -> str:
    """Return several notebook tables, each under its title."""
    return "".join(f"<h4>{html_escape.escape(title)}</h4>{page}" for title, page in parts.items())


def html(result: EmergenceResult) -> str:
    """Return a small table for notebooks."""
    titles, rows = last_position_rows(result)
    escape = html_escape.escape
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    lines = "<br>".join(escape(line) for line in header(result))
    where = escape(_where(result))
    return (
        f"<p>{lines}<br>{where}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<p>{'<br>'.join(escape(line) for line in caveats(result))}</p>"
    )
