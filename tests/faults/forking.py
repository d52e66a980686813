"""A warmed-up process with one thread that forks a child for each job; a fresh interpreter takes seconds.

`Forks` is the side of the test; run as a module, this is the other side.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.faults import jobs
from tests.faults.operations import Operations
from tl_emergence.errors import EmergenceError

_SECONDS = 120


class Forks:
    """Starts the process that forks; a context manager."""

    def __enter__(self) -> Forks:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        root = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, **threads, "PYTHONPATH": root},
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=_SECONDS)
        self._process.stdout.close()

    def do(self, job: str, kind: str, folder: Path, *, at: int = -1, fault: str = "none") -> dict[str, Any]:
        """Do a job in a child of its own.

        Returns:
            "outcome" ("killed", "done" or "error"); of what was done, the "digest" and the number of file
            "operations"; of an error, its type as "error", whether it is "typed", and its "trace".
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = {"job": job, "kind": kind, "folder": str(folder), "at": at, "fault": fault}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the process that forks has ended")
        return json.loads(answer)


def _do(job: str, kind: str, folder: Path, operations: Operations) -> dict[str, Any]:
    """Save a result ("old" or "new"), read one ("load"), or measure in a work folder ("run")."""
    try:
        operations.install()
        if job == "run":
            found = jobs.digest(jobs.RUNS[kind](folder))
        elif job == "load":
            found = jobs.digest(jobs.load(kind, folder))
        else:
            jobs.save(kind, job, folder)
            found = jobs.digest(jobs.MADE[kind](jobs.SEEDS[job]))
    except Exception as error:
        return {
            "outcome": "error",
            "error": type(error).__name__,
            "typed": isinstance(error, EmergenceError),
            "trace": traceback.format_exc(),
        }
    return {"outcome": "done", "digest": found, "operations": operations.seen}


def _forked(asked: dict[str, Any]) -> str:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(_SECONDS)
        folder = Path(asked["folder"])
        answer = _do(asked["job"], asked["kind"], folder, Operations(folder, asked["at"], asked["fault"]))
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return answer or json.dumps({"outcome": "killed" if os.WTERMSIG(status) == signal.SIGKILL else "crashed"})


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a job prints must not stand among the answers
    jobs.warm()
    for line in sys.stdin:
        answers.write(_forked(json.loads(line)) + "\n")
        answers.flush()
