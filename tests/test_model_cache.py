"""The cache of converted models: one process at a time, whole or not at all, made again where damaged."""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_gguf import write_tiny_gguf
from tl_emergence import model_cache, models
from tl_emergence.errors import MissingPackageError, ModelLoadError

N_PROCESSES = 4

# Processes that have imported everything are forked from one that has no threads.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["tests.test_model_cache", "transformers.models.auto", "transformers.models.llama.modeling_llama"]
)


def package(source: Path, locate: Callable[..., Path], sha256: str = "") -> models.PackagedModel:
    """Return a package, installed, whose file is `source`."""
    checksum = sha256 or hashlib.sha256(source.read_bytes()).hexdigest()
    find = functools.partial(locate, source)
    return models.PackagedModel("fake", "fake", "a fake", "torch", "pip install fake", checksum, find)


def in_place(source: Path, scratch: Path) -> Path:
    return source


def assembled(source: Path, scratch: Path) -> Path:
    """Copy the file, as a package in several parts does, and leave a line beside it for each conversion."""
    with (source.parent / "conversions").open("a") as log:
        log.write("one\n")
    return Path(shutil.copy(source, scratch / source.name))


def assembled_and_killed(source: Path, scratch: Path) -> Path:
    shutil.copy(source, scratch / source.name)
    os.kill(os.getpid(), signal.SIGKILL)
    return source


def convert(packaged: models.PackagedModel, cache: Path, most_bytes: int | None = None) -> str:
    """Ask for a model in another process, whose files cannot grow beyond `most_bytes` as on a full disk."""
    os.environ["TL_EMERGENCE_CACHE"] = str(cache)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        return str(model_cache.packaged_checkpoint(packaged))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def elsewhere(packaged: models.PackagedModel, cache: Path, most_bytes: int | None = None) -> str:
    with ProcessPoolExecutor(1, mp_context=PROCESSES) as pool:
        return pool.submit(convert, packaged, cache, most_bytes).result()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    return write_tiny_gguf(tmp_path_factory.mktemp("package") / "tiny.gguf")


@pytest.fixture(scope="module")
def filled(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that processes which all started with nothing have filled at one moment."""
    cache = tmp_path_factory.mktemp("parent") / "cache"
    packaged = package(tiny, assembled)
    with ProcessPoolExecutor(N_PROCESSES, mp_context=PROCESSES) as pool:
        asked = [pool.submit(convert, packaged, cache) for _ in range(N_PROCESSES)]
        assert [one.result() for one in asked] == [str(cache / "fake")] * N_PROCESSES
    return cache


@pytest.fixture
def cache(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the filled cache, as the cache of this process."""
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(filled, tmp_path / "cache"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_processes_that_ask_at_one_moment_all_get_the_model_and_one_converts(
    filled: Path, tiny: Path
) -> None:
    assert (tiny.parent / "conversions").read_text().splitlines() == ["one"]
    assert names(filled) == {"fake", ".fake.lock"}
    assert model_cache.is_intact(filled / "fake", package(tiny, in_place))


def test_what_was_converted_is_a_checkpoint_that_loads(filled: Path) -> None:
    model = models.load(filled / "fake", device="cpu")
    assert model.cfg.n_layers == 2 and model.tokenizer.bos_token_id == 0


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b'{"files": ',
        b"\xff\xfe",
        b"[1]",
        b"null",
        b"[" * 200_000,
        b"{}",
        b'{"files": 3, "source_sha256": "x"}',
        b'{"files": ["config.json"], "source_sha256": "x"}',
        b'{"files": {"../config.json": "x"}, "source_sha256": "x"}',
    ],
)
def test_a_damaged_manifest_means_convert_again_and_is_no_error(
    manifest: bytes, cache: Path, tiny: Path
) -> None:
    packaged = package(tiny, in_place)
    assert model_cache.is_intact(cache / "fake", packaged)
    (cache / "fake" / "manifest.json").write_bytes(manifest)
    assert not model_cache.is_intact(cache / "fake", packaged)


def test_a_manifest_that_leaves_out_or_names_other_files_is_damaged(cache: Path, tiny: Path) -> None:
    packaged, path = package(tiny, in_place), cache / "fake" / "manifest.json"
    whole = json.loads(path.read_text())
    (cache / "fake" / ".DS_Store").write_text("a file browser was here")
    assert model_cache.is_intact(cache / "fake", packaged)
    for changed in ({"gone.txt": "0" * 64}, {"config.json": None}, {"config.json": "0" * 64}):
        path.write_text(json.dumps({**whole, "files": {**whole["files"], **changed}}))
        assert not model_cache.is_intact(cache / "fake", packaged)
    whole["files"].pop("model.safetensors")
    path.write_text(json.dumps(whole))
    assert not model_cache.is_intact(cache / "fake", packaged)


def test_a_damaged_conversion_is_made_again(cache: Path, tiny: Path) -> None:
    packaged, weights = package(tiny, in_place), cache / "fake" / "model.safetensors"
    expected = weights.read_bytes()
    weights.write_bytes(expected[:-1] + bytes([expected[-1] ^ 1]))
    (cache / "fake" / "manifest.json").write_text("[]")
    assert model_cache.packaged_checkpoint(packaged) == cache / "fake"
    assert weights.read_bytes() == expected and model_cache.is_intact(cache / "fake", packaged)
    assert names(cache) == {"fake", ".fake.lock"}


def test_a_file_in_place_of_the_conversion_is_replaced(cache: Path, tiny: Path) -> None:
    shutil.rmtree(cache / "fake")
    (cache / "fake").write_text("not a folder")
    packaged = package(tiny, in_place)
    assert model_cache.is_intact(model_cache.packaged_checkpoint(packaged), packaged)


def test_what_a_killed_conversion_leaves_is_removed_at_the_next_start(
    cache: Path, tiny: Path, tmp_path: Path
) -> None:
    shutil.rmtree(cache / "fake")
    process = PROCESSES.Process(target=convert, args=(package(tiny, assembled_and_killed), cache))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (scratch,) = names(cache) - {".fake.lock"}
    assert scratch.startswith(".fake-") and (cache / scratch / tiny.name).is_file()
    packaged = package(tiny, in_place)
    assert model_cache.is_intact(model_cache.packaged_checkpoint(packaged), packaged)
    assert names(cache) == {"fake", ".fake.lock"}


def test_leftovers_of_every_model_go_and_those_of_a_running_conversion_stay(cache: Path) -> None:
    for name in ("fake", "other"):
        (cache / f".{name}-abcdefgh").mkdir()
    with model_cache._locked(cache, "fake"):
        model_cache.remove_leftovers_of_all(["fake", "other"])
    assert names(cache) == {"fake", ".fake.lock", ".fake-abcdefgh", ".other.lock"}


@pytest.mark.parametrize("locate", [in_place, assembled])
def test_a_full_disk_is_a_load_error_and_leaves_nothing(
    locate: Callable[..., Path], tiny: Path, tmp_path: Path
) -> None:
    found = elsewhere(package(tiny, locate), tmp_path / "cache", most_bytes=20_000)
    assert found.startswith("ModelLoadError: fake cannot be converted: saw")
    assert "Free some disk space or set TL_EMERGENCE_CACHE" in found
    assert names(tmp_path / "cache") == {".fake.lock"}


def test_a_cache_that_cannot_be_written_is_a_load_error(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelLoadError, match="the model cache cannot be written: saw .*TL_EMERGENCE_CACHE"):
        model_cache.packaged_checkpoint(package(tiny, in_place))


def test_a_cache_that_can_be_read_only_serves_what_it_holds(cache: Path, tiny: Path) -> None:
    (cache / ".fake.lock").unlink()
    (cache / ".fake.lock").mkdir()  # whoever runs this, a folder cannot be opened for writing
    assert model_cache.packaged_checkpoint(package(tiny, in_place)) == cache / "fake"
    (cache / "fake" / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="the model cache cannot be written"):
        model_cache.packaged_checkpoint(package(tiny, in_place))


def test_a_file_that_is_cut_short_is_a_load_error(tiny: Path, cache: Path, tmp_path: Path) -> None:
    shutil.rmtree(cache / "fake")
    content = tiny.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(content[:length])
        with pytest.raises(ModelLoadError, match="fake cannot be converted") as raised:
            model_cache.packaged_checkpoint(package(cut, in_place))
        assert raised.value.__cause__ is not None
    assert names(cache) == {".fake.lock"}


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(b"something")
    fake: Any = package(tmp_path / "model.gguf", in_place)
    missing = models.PackagedModel(**{**vars(fake), "module": "no_such_module"})
    with pytest.raises(
        MissingPackageError, match=r"fake is not installed: saw no module no_such_module.*pip"
    ):
        models.packaged_checkpoint(missing)


def test_a_packaged_file_with_another_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"something else")
    with pytest.raises(ModelLoadError, match="the file of fake is not the one that is known"):
        models.packaged_checkpoint(package(tmp_path / "model.gguf", in_place, "0" * 64))
    assert names(tmp_path / "cache") == {".fake.lock"}


def test_the_cache_follows_its_environment_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path / "mine"))
    assert models.cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TL_EMERGENCE_CACHE", "~/mine")
    assert models.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("TL_EMERGENCE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_folder() == tmp_path / "tl_emergence"


@pytest.mark.slow
def test_a_damaged_conversion_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = models.PACKAGED["gemma-3-270m"]
    source = models.packaged_checkpoint(packaged)  # the user's cache: converted once for all tests
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path))
    folder = tmp_path / packaged.name
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    assert model_cache.is_intact(folder, packaged)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source_sha256"] == packaged.sha256
    (folder / "config.json").unlink()
    assert not model_cache.is_intact(folder, packaged)
    (folder / "config.json").write_text("{}")
    assert not model_cache.is_intact(folder, packaged)
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text('{"files": ')
    assert not model_cache.is_intact(folder, packaged)
