"""The files of the small model, and putting them into models/."""

from __future__ import annotations

import pytest

from tools.models import small_model


def test_the_small_model_is_whole_and_small():
    files = [small_model.MODELS / m.directory / m.name for m in small_model.FILES.values()]
    assert sum(file.stat().st_size for file in files) <= small_model.MOST_BYTES
    shipped = {f for f in small_model.MODELS.rglob("*") if f.is_file()}
    assert shipped == {*files, small_model.MODELS / "README.md"}


def test_a_run_without_all_four_files_is_not_shipped(tmp_path):
    (tmp_path / "prior.safetensors").touch()
    with pytest.raises(ValueError, match=r"it lacks autoencoder.safetensors, small_encoder"):
        small_model.install(tmp_path, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_model_that_is_too_large_is_not_shipped(tmp_path):
    for name in small_model.FILES:
        with open(tmp_path / name, "wb") as file:
            file.truncate(small_model.MOST_BYTES // 3)
    with pytest.raises(ValueError, match="must not exceed 20000000 bytes"):
        small_model.install(tmp_path, tmp_path / "models")
