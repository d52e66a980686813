"""The cache of converted models: one process at a time, whole or not at all, made again where damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tl_emergence import model_cache, models
from tl_emergence.errors import MissingPackageError, ModelLoadError


def fake_package(source: Path, sha256: str, module: str = "torch") -> models.PackagedModel:
    return models.PackagedModel(
        "fake", "fake", "a fake", module, "pip install fake", sha256, lambda f: source
    )


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path))
    with pytest.raises(
        MissingPackageError, match=r"fake is not installed: saw no module no_such_module.*pip"
    ):
        models.packaged_checkpoint(fake_package(tmp_path, "", "no_such_module"))


def test_a_packaged_file_with_another_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"something else")
    with pytest.raises(ModelLoadError, match="the file of fake is not the one that is known"):
        models.packaged_checkpoint(fake_package(tmp_path / "model.gguf", "0" * 64))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".fake.lock"]


def test_the_cache_follows_its_environment_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TL_EMERGENCE_CACHE", str(tmp_path / "mine"))
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
