"""Getting the pinned ComfyUI."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tools.host import get_host


def archive(folder: Path, names: list[str]) -> Path:
    file = folder / "archive.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(f"project-1.0/{name}")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return file


HOST_FILES = ["vendor/ComfyUI/main.py", "vendor/ComfyUI/comfyui_version.py", "other/main.py"]


def test_a_download_with_another_digest_is_refused(tmp_path):
    file = tmp_path / "release.tar.gz"
    file.write_bytes(b"abc")
    # sha256 of b"abc": FIPS 180-2, appendix B.1
    right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    get_host.check_sha256(file, right)
    with pytest.raises(ValueError, match=f"must have the sha256 {'0' * 64}, got {right}"):
        get_host.check_sha256(file, "0" * 64)


def test_only_the_host_is_taken_from_the_archive(tmp_path):
    target = tmp_path / "host" / "ComfyUI"
    get_host.unpack_host(archive(tmp_path, HOST_FILES), target)
    assert sorted(file.name for file in target.iterdir()) == ["comfyui_version.py", "main.py"]
    assert [file.name for file in target.parent.iterdir()] == ["ComfyUI"]


@pytest.mark.parametrize(
    "names", [["vendor/ComfyUI/main.py"], [*HOST_FILES, "vendor/ComfyUI/../../../escaped.py"]]
)
def test_an_archive_that_is_not_a_host_leaves_nothing_behind(tmp_path, names):
    target = tmp_path / "host" / "ComfyUI"
    with pytest.raises(ValueError, match="must"):
        get_host.unpack_host(archive(tmp_path, names), target)
    assert list(target.parent.iterdir()) == []
    assert not list(tmp_path.rglob("escaped.py"))


def test_a_host_that_is_already_there_is_used(tmp_path, monkeypatch):
    get_host.unpack_host(archive(tmp_path, HOST_FILES), tmp_path / "own")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "own"))
    assert get_host.get_host() == (tmp_path / "own").resolve()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"has no main\.py; correct COMFYUI_PATH"):
        get_host.get_host()


def test_a_version_that_is_not_pinned_is_refused():
    with pytest.raises(ValueError, match=r"must be one of .*, got 0\.1\.0"):
        get_host.get_host("0.1.0")
