"""Every tutorial runs from top to bottom, as a notebook, in a kernel of its own."""

from __future__ import annotations

import os
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "tutorials"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_tutorial_runs_and_its_claims_hold(path: Path, tmp_path: Path) -> None:
    notebook = jupytext.read(path)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and all(cell.execution_count for cell in cells)
    assert "all claims hold" in "".join(output.get("text", "") for output in cells[-1].outputs)
    _keep(notebook, path)


def _keep(notebook: object, path: Path) -> None:
    """Leave the executed notebook where TL_EMERGENCE_NOTEBOOKS says, to be looked at."""
    folder = os.environ.get("TL_EMERGENCE_NOTEBOOKS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        jupytext.write(notebook, Path(folder) / f"{path.stem}.ipynb")
