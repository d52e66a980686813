"""A checkpoint cannot run its own code: harmless payloads that would write a marker, and a silent prompt."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import toys

PROGRAM = """
import os, select, sys, time
import torch
from tl_emergence import models
from tl_emergence.errors import ModelLoadError

for name in sys.argv[1:]:
    start = time.monotonic()
    try:
        models.load(name)
        outcome = "loaded"
    except ModelLoadError as error:
        outcome = error.what
    except BaseException as error:
        outcome = f"BARE {type(error).__name__}: {error}"
    print(f"RESULT\\t{name}\\t{time.monotonic() - start:.1f}\\t{outcome}")
# What was written to standard input must all be there still.
print("UNREAD", len(os.read(0, 1000)))
"""
ANSWERS = b"y\n" * 50
CODE = "the model needs code of its own, and code of a checkpoint is never run"
PICKLES = "pickled weights, which can run code when they are opened"
KERNEL = "an attention kernel from a repository, and code of a repository is never run"


class Payload:
    """Opened by pickle, it makes a folder; nothing else."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def change_json(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, **changes}))


def own_config(folder: Path, marker: Path) -> None:
    classes = {"AutoConfig": "evil.Thing", "AutoModelForCausalLM": "evil.Thing"}
    change_json(folder / "config.json", model_type="evil", auto_map=classes)


def own_model_of_a_known_configuration(folder: Path, marker: Path) -> None:
    # T5 is known, but not as a causal language model: here transformers asked on standard input.
    change_json(
        folder / "config.json",
        model_type="t5",
        architectures=["T5ForConditionalGeneration"],
        auto_map={"AutoModelForCausalLM": "evil.Thing", "AutoModelForSeq2SeqLM": "evil.Thing"},
    )


def own_tokenizer(folder: Path, marker: Path) -> None:
    change_json(
        folder / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["evil.Thing", "evil.Thing"]},
    )


def pickled_weights(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker)))


def pickled_shard(folder: Path, marker: Path) -> None:
    # A safetensors file beside it, so that the folder looks like a safe one.
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "shard.bin").write_bytes(pickle.dumps(Payload(marker)))
    shards = {"metadata": {"total_size": 1}, "weight_map": {"model.norm.weight": "shard.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))


def pickle_by_another_name(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(marker)))


def attention_kernel(folder: Path, marker: Path) -> None:
    change_json(folder / "config.json", attn_implementation="somebody/evil-kernel")


def attention_kernel_inside(folder: Path, marker: Path) -> None:
    kernel = {"": "eager", "text_config": "somebody/evil-kernel@v1:attend"}
    change_json(folder / "config.json", text_config={"_attn_implementation": kernel})


ATTACKS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "own_config": (own_config, CODE),
    "own_model": (own_model_of_a_known_configuration, CODE),
    "own_tokenizer": (own_tokenizer, CODE),
    "pickled_weights": (pickled_weights, PICKLES),
    "pickled_shard": (pickled_shard, PICKLES),
    "pickle_by_another_name": (pickle_by_another_name, "the checkpoint cannot be loaded"),
    "attention_kernel": (attention_kernel, KERNEL),
    "attention_kernel_inside": (attention_kernel_inside, KERNEL),
}

# HookedTransformer of 2.x looks at no name that is not on its list.
BY_NAME = ("own_config", "own_tokenizer") if toys.LENS_MAJOR >= 3 else ()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[float, str]], int]:
    """Load every attack, as a folder and (some) by hub name; return marker, outcomes, bytes not read."""
    base = tmp_path_factory.mktemp("attacks")
    clean, marker = toys.save_checkpoint(base / "clean"), base / "marker"
    hub = base / "home" / "hub"
    names = []
    for name, (attack, _) in ATTACKS.items():
        folder = base / name
        shutil.copytree(clean, folder)
        (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Thing: pass\n")
        attack(folder, marker)
        names.append(str(folder))
        if name in BY_NAME:  # the hub's cache, in its own format: what a name finds without a network
            repository = hub / f"models--evil--{name}"
            shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
            (repository / "refs").mkdir()
            (repository / "refs" / "main").write_text("0" * 40)
            names.append(f"evil/{name}")
    environment = {**os.environ, "HF_HOME": str(base / "home"), "HF_HUB_OFFLINE": "1"}
    reading, writing = os.pipe()
    os.write(writing, ANSWERS)  # "y" to every question; the pipe stays open, and silent behind them
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        stdin=reading,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    os.close(reading)
    os.close(writing)
    lines = [line.split("\t")[1:] for line in done.stdout.splitlines() if line.startswith("RESULT\t")]
    outcomes = {Path(name).name if "attacks" in name else name: (float(s), what) for name, s, what in lines}
    unread = [line for line in done.stdout.splitlines() if line.startswith("UNREAD")]
    assert unread, done.stderr
    return marker, outcomes, int(unread[0].split()[1])


def test_no_payload_of_a_checkpoint_has_run(attacked: tuple[Path, dict[str, Any], int]) -> None:
    assert not attacked[0].exists()


def test_nothing_was_asked_on_standard_input(attacked: tuple[Path, dict[str, Any], int]) -> None:
    assert attacked[2] == len(ANSWERS)


@pytest.mark.parametrize("name", [*ATTACKS, *(f"evil/{name}" for name in BY_NAME)])
def test_each_attack_is_one_load_error_at_once(
    name: str, attacked: tuple[Path, dict[str, tuple[float, str]], int]
) -> None:
    seconds, what = attacked[1][name]
    assert what == ATTACKS[name.removeprefix("evil/")][1]
    assert seconds < 15  # the first one imports transformers; a prompt alone waited for 15 or 31


def test_the_payloads_work_where_they_are_trusted(tmp_path: Path) -> None:
    # So that the markers above are absent because nothing ran, not because nothing can.
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").is_dir()
