"""Importing the package stays light, and a test proves that this test can fail."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("matplotlib", "transformers", "transformer_lens", "pandas", "scipy", "datasets")


def loaded_after(statement: str) -> list[str]:
    code = f"import json, sys; {statement}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(out.stdout.splitlines()[-1])


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import tl_emergence, tl_emergence.models, tl_emergence.cli") == []


def test_the_test_above_can_fail() -> None:
    assert "matplotlib" in loaded_after("import tl_emergence.plots")
