"""Natural-text windows, cut at full stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tl_emergence.errors import SettingError, TokenError
from tl_emergence.prompts import sentences
from tl_emergence.prompts.sources import TEXTS, read_texts

TEXT = " France, Germany, Italy. Spain, China, Japan, India. Russia: Brazil, Canada, Mexico. Egypt"


def words(tokenizer: Any, prompts: Any) -> list[str]:
    return [tokenizer.decode(row) for row in prompts.tokens]


def test_a_start_window_begins_right_after_a_full_stop_and_holds_no_break(tokenizer: Any) -> None:
    prompts = sentences([TEXT, TEXT], tokenizer, n_tokens=5, min_tokens=5)
    assert words(tokenizer, prompts) == [" Spain, China, Japan"] * 2


def test_an_end_window_ends_right_before_a_full_stop(tokenizer: Any) -> None:
    prompts = sentences([TEXT], tokenizer, n_tokens=3, anchor="end", min_tokens=5)
    assert words(tokenizer, prompts) == [" Germany, Italy", " Japan, India", " Canada, Mexico"]
    # Six tokens back from the third stop stands the colon: that window does not count.
    prompts = sentences([TEXT, TEXT], tokenizer, n_tokens=6, anchor="end", min_tokens=5)
    assert words(tokenizer, prompts) == [", China, Japan, India"] * 2


def test_short_texts_and_texts_with_one_stop_do_not_count(tokenizer: Any) -> None:
    one_stop = " France, Germany, Italy, Spain. China, Japan, India, Russia"
    with pytest.raises(TokenError, match="saw 0 windows in 2 texts, 2 of which do not count"):
        sentences([one_stop, TEXT], tokenizer, n_tokens=3, min_tokens=40)


def test_reading_stops_at_n_so_that_endless_sources_work(tokenizer: Any) -> None:
    def endless() -> Any:
        while True:
            yield TEXT

    prompts = sentences(endless(), tokenizer, n_tokens=4, n=7, min_tokens=5)
    assert len(prompts) == 7


def test_text_files_json_lines_and_rows_give_the_same(tokenizer: Any, tmp_path: Path) -> None:
    plain, lines = tmp_path / "texts.txt", tmp_path / "texts.jsonl"
    plain.write_text(f"{TEXT}\n\n{TEXT}\n")
    lines.write_text("".join(json.dumps({"body": TEXT}) + "\n" for _ in range(2)))
    options: dict[str, Any] = {"n_tokens": 3, "min_tokens": 5}
    expected = sentences([TEXT, TEXT], tokenizer, **options).tokens.tolist()
    assert sentences(plain, tokenizer, **options).tokens.tolist() == expected
    assert sentences(str(lines), tokenizer, field="body", **options).tokens.tolist() == expected
    rows = [{"body": TEXT}] * 2
    assert sentences(rows, tokenizer, field="body", **options).tokens.tolist() == expected


def test_a_streamed_hugging_face_dataset_is_read(tokenizer: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(json.dumps({"text": TEXT}) + "\n" for _ in range(3)))
    streamed = datasets.load_dataset(
        "json", data_files=str(lines), split="train", streaming=True, cache_dir=str(tmp_path)
    )
    assert len(sentences(streamed, tokenizer, n_tokens=3, min_tokens=5)) == 3


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ("no such file", {}, SettingError, "no such text source: saw 'no such file'"),
        ([TEXT], {"anchor": "middle"}, SettingError, "unknown anchor: saw 'middle'"),
        ([TEXT], {"n_tokens": 0}, SettingError, "n_tokens out of range: saw 0; expected 1 or more"),
        ([TEXT], {"n": 1}, SettingError, "n out of range: saw 1; expected 2 or more"),
        ([TEXT], {"n": 2.5}, SettingError, "n is not a whole number: saw 2.5"),
        ("a text that is no path " * 40, {}, SettingError, r"no such text source: saw .*pass \[string\]"),
        ([], {}, TokenError, "too few windows: saw 0 windows in 0 texts"),
        ([{"body": TEXT}], {}, TokenError, r"a row without text: saw row 0: fields \['body'\]"),
        ([3], {}, TokenError, "a row without text: saw row 0: int"),
        ([TEXT], {"n": 50, "min_tokens": 5}, TokenError, "too few windows: saw"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_bad_sources_get_a_typed_error(
    texts: Any, options: dict[str, Any], error: type[Exception], message: str, tokenizer: Any
) -> None:
    with pytest.raises(error, match=message):
        sentences(texts, tokenizer, **options)


def test_files_that_are_empty_or_not_text_are_named(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(TokenError, match="too few windows: saw 0 windows in 0 texts"):
        sentences(tmp_path / "empty.txt", tokenizer)
    for name in ("latin.txt", "latin.jsonl"):
        (tmp_path / name).write_bytes("Är det här text. Nej.".encode("latin-1"))
        with pytest.raises(TokenError, match=rf"not UTF-8 text: saw {name}: byte 0xc4"):
            sentences(tmp_path / name, tokenizer)
    with pytest.raises(SettingError, match="no such text source: saw .*: Is a directory"):
        sentences(tmp_path, tokenizer)


HUB_ROWS = {
    "openorca": ("Open-Orca/OpenOrca", [{"question": "?", "response": TEXT}] * 2),
    "openhermes": (
        "teknium/OpenHermes-2.5",
        [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": TEXT}]}] * 2,
    ),
}


@pytest.mark.parametrize("name", list(HUB_ROWS))
def test_the_sources_of_the_paper_are_streamed_by_name(
    name: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hub is out of reach in tests: the same rows come from a local file, by the same library.
    datasets = pytest.importorskip("datasets")
    repository, rows = HUB_ROWS[name]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    load, asked = datasets.load_dataset, []

    def from_file(path: str, **options: Any) -> Any:
        asked.append(path)
        return load("json", data_files=str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path), **options)

    monkeypatch.setattr(datasets, "load_dataset", from_file)
    found = sentences(name, tokenizer, n_tokens=3, min_tokens=5)
    assert asked == [repository]
    assert (
        found.tokens.tolist() == sentences([TEXT, TEXT], tokenizer, n_tokens=3, min_tokens=5).tokens.tolist()
    )


def test_a_novel_comes_with_the_package(tokenizer: Any) -> None:
    text = TEXTS["persuasion"].read_text(encoding="utf-8")
    assert len(text.encode()) < 500_000 and "Kellynch Hall" in text
    found = sentences("persuasion", tokenizer, n_tokens=3, n=50)
    assert found.details["source"] == "persuasion" and len(found) == 50
    assert "1817" in (TEXTS["persuasion"].parent / "README.md").read_text(encoding="utf-8")


def test_a_hub_source_out_of_reach_says_what_to_do(tokenizer: Any) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(SettingError, match=r"cannot be reached: saw Open-Orca/OpenOrca: .* Pass texts of"):
        sentences("openorca", tokenizer)


def test_a_file_that_is_no_text_file_by_its_name_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TEXT)
    with pytest.raises(SettingError, match=r"a file of an unknown kind: saw 'table.csv'"):
        sentences(tmp_path / "table.csv", tokenizer)


def test_a_broken_json_line_is_named(tokenizer: Any, tmp_path: Path) -> None:
    lines = tmp_path / "texts.jsonl"
    lines.write_text(json.dumps({"text": TEXT}) + '\n{"text": "cut o')
    with pytest.raises(TokenError, match=r"a line that is not JSON: saw texts.jsonl, line 2"):
        sentences(lines, tokenizer)


def test_files_in_the_formats_of_the_paper_need_no_field(tmp_path: Path) -> None:
    for name, (_, rows) in HUB_ROWS.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        assert list(read_texts(path, None)) == [TEXT] * 2


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (3, "no text source"),
        (None, "no text source"),
        ("bad\0name", "no such text source"),
        ("bad\ud800name", "no such text source"),
        (pd.DataFrame({"text": [TEXT] * 3}), r"table or mapping.*saw DataFrame with \['text'\].*tolist"),
        ({"train": [TEXT], "test": [TEXT]}, "table or mapping.*saw dict with"),
        ({TEXT, TEXT + " More."}, "a set of texts has no order of its own"),
        ([{"conversations": ["x"]}], "a row without text"),
        ([{"conversations": [{"role": "assistant", "content": TEXT}]}], "a row without text: .*'content'"),
        ([{1: TEXT, "body": TEXT}], "a row without text: .*Pass the strings themselves"),
        ([{"conversations": [{"from": "gpt"}]}], "a row without text"),
        ([{"conversations": [{"from": "gpt", "value": None}]}], "a row without text"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_what_is_no_text_source_gets_a_typed_error(texts: Any, message: str) -> None:
    with pytest.raises((SettingError, TokenError), match=message):
        list(read_texts(texts, None))


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_text(TEXT, encoding="utf-8-sig")
    assert list(read_texts(tmp_path / "marked.txt", None)) == [TEXT]


def test_a_column_of_a_table_is_a_sequence_of_texts() -> None:
    assert list(read_texts(pd.DataFrame({"text": [TEXT] * 3})["text"], None)) == [TEXT] * 3


def test_windows_of_unknown_tokens_only_are_refused(tokenizer: Any) -> None:
    # All of them would be the same prompt, measured without a word.
    foreign = " ".join(["Uno dos tres cuatro cinco."] * 6)
    with pytest.raises(TokenError, match="windows of unknown tokens only: saw"):
        sentences([foreign] * 3, tokenizer, n_tokens=3, min_tokens=3)
