"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tl_emergence

# Fewer examples than this means that they were not found, not that they pass.
LEAST_EXAMPLES = 30


def test_the_examples_in_docstrings_run() -> None:
    # In a process of its own: wrapped by the run-time shape checks, functions lose their examples.
    done = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) >= LEAST_EXAMPLES


def run_examples() -> int:
    """Run every example with the names that a reader has at hand; return how many there were."""
    from tests import toys

    folder = Path(tempfile.mkdtemp())
    names = {
        "tokenizer": toys.save_tokenizer(folder),
        "tokens": toys.TOKENS,
        "model": toys.make_model(toys.MODEL_KINDS[0]),
        "tmp_path": folder,
        "demonstrations": tl_emergence.prompts.demonstrations,
        "from_tokens": tl_emergence.prompts.from_tokens,
        "information_emergence": tl_emergence.information_emergence,
        "shuffled_weights": tl_emergence.shuffled_weights,
    }
    attempted = 0
    for info in pkgutil.walk_packages(tl_emergence.__path__, "tl_emergence."):
        module = importlib.import_module(info.name)
        found = doctest.testmod(
            module, extraglobs={**names, **vars(module)}, optionflags=doctest.NORMALIZE_WHITESPACE
        )
        if found.failed:
            sys.exit(f"{found.failed} examples failed in {info.name}")
        attempted += found.attempted
    return attempted


if __name__ == "__main__":
    print(run_examples())
