"""Where natural text comes from: an iterable, a text file, a JSON-lines file, a Hugging Face dataset."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from tl_emergence.errors import SettingError, TokenError

DATASETS: dict[str, tuple[str, str]] = {
    "openorca": ("Open-Orca/OpenOrca", "response"),
    "openhermes": ("teknium/OpenHermes-2.5", "conversations"),
}
"""Names that stand for the paper's two sources: the hub repository, and the field that holds the text."""

TEXTS: dict[str, Path] = {"persuasion": Path(__file__).parent / "texts" / "persuasion.txt"}
"""Texts that come with the package, in the public domain; `texts/README.md` names their origin."""

_FIELDS = ("text", "response", "conversations")
"""Where the text of a row is looked for, unless a field is named: the paper's sources have the last two."""
_SUFFIXES = ("", ".txt", ".md", ".jsonl", ".ndjson")


def read_texts(
    texts: str | PathLike[str] | Iterable[str] | Iterable[dict[str, Any]], field: str | None
) -> Iterator[str]:
    """Yield texts one by one from any of the sources that `sentences` accepts; files are streamed."""
    if isinstance(texts, str) and texts.lower() in DATASETS:
        yield from _hub_texts(texts.lower(), field)
    elif isinstance(texts, str) and texts.lower() in TEXTS:
        yield from _file_texts(TEXTS[texts.lower()], None)
    elif isinstance(texts, str | PathLike):
        yield from _file_texts(Path(texts), field)
    elif isinstance(texts, Mapping) or hasattr(texts, "columns"):
        keys = [str(key) for key in (texts if isinstance(texts, Mapping) else getattr(texts, "columns", ()))]
        raise SettingError(
            "a table or mapping is no sequence of texts",
            seen=f"{type(texts).__name__} with {keys[:5]}",
            expected="strings, or rows one by one",
            fix="Of a table pass one column, texts['text'].tolist(); of a DatasetDict one split, "
            "texts['train']; of a dictionary list(texts.values()).",
        )
    elif isinstance(texts, set | frozenset):
        raise SettingError(
            "a set of texts has no order of its own",
            seen=type(texts).__name__,
            expected="a list, whose windows come in the same order in every run",
            fix="Pass sorted(texts).",
        )
    elif isinstance(texts, Iterable):
        for number, row in enumerate(texts):
            yield from _row_texts(row, field, f"row {number}")
    else:
        raise SettingError(
            "no text source",
            seen=f"{texts!r:.80} ({type(texts).__name__})",
            expected="strings, a .txt or .jsonl file, or a name",
            fix="Pass ['a text', 'another'].",
        )


def _hub_texts(name: str, field: str | None) -> Iterator[str]:
    import datasets  # a dependency of TransformerLens; slow to import
    from datasets.exceptions import DatasetsError

    repository, default_field = DATASETS[name]
    try:
        rows: Any = datasets.load_dataset(repository, split="train", streaming=True)
        for number, row in enumerate(rows):
            yield from _row_texts(row, field or default_field, f"row {number}")
    except (OSError, DatasetsError) as error:  # the hub's own errors are OSErrors
        raise SettingError(
            "a text source that cannot be reached",
            seen=f"{repository}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            expected="a connection to the hub",
            fix="Pass texts of your own: strings, a .txt or .jsonl file, or a dataset that you have loaded.",
        ) from error


def _file_texts(path: Path, field: str | None) -> Iterator[str]:
    try:
        try:
            named = "\0" not in str(path) and bool(os.fsencode(path))
        except UnicodeEncodeError:  # half of a surrogate pair
            named = False
        if not named:
            raise FileNotFoundError(errno.ENOENT, "a character in its name that no file's name has")
        if path.is_file() and path.suffix not in _SUFFIXES:
            raise SettingError(
                "a file of an unknown kind",
                seen=repr(path.name),
                expected=f"one of {', '.join(_SUFFIXES[1:])}, or no suffix",
                fix="Rename a plain text file to .txt; read other formats yourself and pass the strings.",
            )
        with path.open(encoding="utf-8-sig") as file:
            lines = _decoded(file, path)
            if path.suffix in (".jsonl", ".ndjson"):
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        row = _json_row(line, path, number)
                        yield from _row_texts(row, field, f"{path.name}, line {number}")
            else:
                yield from _paragraphs(lines)
    except OSError as error:  # a text passed as a path is one too: its name is too long
        name = repr(str(path)[:80]) + ("..." if len(str(path)) > 80 else "")
        raise SettingError(
            "no such text source",
            seen=f"{name}: {error.strerror}",
            expected="an iterable of strings, a .txt or .jsonl file, or one of "
            f"{sorted({**TEXTS, **DATASETS})}",
            fix="Check the path; to measure a single string, pass [string]. The lists (country, animal, "
            "color) go to prompts.demonstrations.",
        ) from error


def _decoded(lines: Iterable[str], path: Path) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise TokenError(
            "a file that is not UTF-8 text",
            seen=f"{path.name}: byte {error.object[error.start]:#04x}, {error.reason}",
            expected="text in UTF-8",
            fix="Convert it first: iconv -f LATIN1 -t UTF-8, or read it yourself and pass the strings.",
        ) from error


def _json_row(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:  # a JSONDecodeError, or a number of too many digits
        raise TokenError(
            "a line that is not JSON",
            seen=f"{path.name}, line {number}: {getattr(error, 'msg', error)}",
            expected="one JSON value a line",
            fix="Repair or remove the line; a plain text file should end in .txt.",
        ) from error


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Blank lines separate the texts of a plain text file."""
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
        elif block:
            yield "".join(block)
            block = []
    if block:
        yield "".join(block)


def _row_texts(row: Any, field: str | None, where: str) -> Iterator[str]:
    """Yield the text of a row; of a conversation, what the assistant said, turn by turn."""
    known = row if isinstance(row, dict) else {}
    name = field or next((name for name in _FIELDS if name in known), _FIELDS[0])
    turns = known.get(name)
    if not isinstance(turns, list):
        yield _field(row, name, where)
        return
    for turn in turns:
        if not isinstance(turn, dict) or "from" not in turn:
            expected = "turns with 'from' ('gpt' is read) and 'value'"
            raise _without_text(turn, f"{where}, a turn of {name!r}", expected)
        if turn["from"] == "gpt":
            yield _field(turn, "value", f"{where}, a turn of {name!r}")


def _field(row: Any, field: str | None, where: str) -> str:
    if isinstance(row, str):
        return row
    name = field or "text"
    if not isinstance(row, dict) or not isinstance(row.get(name), str):
        raise _without_text(row, where, f"a string, or an object with a string in {name!r}")
    return row[name]


def _without_text(row: Any, where: str, expected: str) -> TokenError:
    seen = f"fields {sorted(map(str, row))}" if isinstance(row, dict) else type(row).__name__
    return TokenError(
        "a row without text",
        seen=f"{where}: {seen}",
        expected=expected,
        fix="Pass the strings themselves, [row['...'] for row in rows]; prompts.sentences also takes the "
        "name of the field that holds the text: field='...'.",
    )
