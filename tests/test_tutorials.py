"""Every tutorial runs from top to bottom, as a notebook, in a kernel of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "tutorials"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_tutorial_runs_and_its_claims_hold(path: Path, tmp_path: Path) -> None:
    import jupytext  # the version matrix collects this file without them
    from nbclient import NotebookClient

    notebook = jupytext.read(path)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and all(cell.execution_count for cell in cells)
    assert "all claims hold" in "".join(output.get("text", "") for output in cells[-1].outputs)
    kept = os.environ.get("TL_EMERGENCE_NOTEBOOKS")  # leaves the executed notebook there, to be looked at
    if kept:
        jupytext.write(notebook, Path(kept) / f"{path.stem}.ipynb")
