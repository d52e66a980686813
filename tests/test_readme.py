"""The README tells the truth: its code runs, and prints what stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[1] / "README.md"
NUMBER = re.compile(r"-?\d+\.\d+")

# Other processors round otherwise, and a rounding decides which way a draw falls: no more than this.
TOLERANCE = 0.03


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def assert_same_but_for_rounding(printed: str, shown: str) -> None:
    assert [NUMBER.sub("#", line).split() for line in printed.splitlines()] == [
        NUMBER.sub("#", line).split() for line in shown.splitlines()
    ]
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    assert [float(a) for a, _ in pairs] == pytest.approx(
        [float(b) for b in NUMBER.findall(shown)], abs=TOLERANCE
    )


def test_numbers_that_differ_are_noticed() -> None:
    assert_same_but_for_rounding("macro  1.001", "macro 1.002")
    for wrong in ("macro 1.1", "micro 1.0", "macro 1.0 2.0", "macro 1.0\nmacro 1.0"):
        with pytest.raises(AssertionError):
            assert_same_but_for_rounding(wrong, "macro 1.0")


def test_every_file_that_the_readme_names_is_there() -> None:
    named = re.findall(r"\]\(((?!http)[^)#]+)\)", README.read_text(encoding="utf-8"))
    assert len(named) >= 5
    assert [name for name in named if not (README.parent / name).exists()] == []


@pytest.mark.slow
def test_the_ten_lines_print_what_the_readme_shows(tmp_path: Path) -> None:
    code, shown = blocks("python")[0], blocks("text")[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=True
    )
    assert_same_but_for_rounding(done.stdout, shown)
    assert (tmp_path / "country-run" / "result.json").exists()


def test_the_demo_of_the_readme_is_of_both_spaces_with_the_control() -> None:
    shown = blocks("text")[0]
    assert all(part in shown for part in ("== space 'read' ==", "== space 'unit' ==", "weight-shuffled"))


def shown_by_the_demo(space: str) -> str:
    """Return the README's summary of one space; tests on the real model compare it with their own."""
    found: Any = re.search(rf"== space '{space}' ==\n(.*?)\n\n(==|saved)", blocks("text")[0], flags=re.DOTALL)
    return found[1]
