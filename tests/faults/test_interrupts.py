"""Ctrl-C or an alarm at any moment leaves the model, and the caller's signal handlers, bit for bit alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_interrupts_leave_the_model_and_the_handlers_as_they_were() -> None:
    """At lines of calls, at random moments, ten in a row, and in a long capture, which they end at once."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults.interrupts"], cwd=ROOT, capture_output=True, text=True
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("interrupts by") == 10
    assert "Ctrl-C in a long capture" in ran.stdout
