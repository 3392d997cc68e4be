"""The archive as a process that is killed, and what may be found afterwards."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from tools.host.server import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0
VICTIMS = {
    "driver": ("hypir archive",),
    "host": ("main.py", "--base-directory"),
    "actor": ("ray::", "Restore"),
    "reader": ("ray::", "Read"),
}


def write_photos(folder: Path, count: int) -> Path:
    """Small photos, all different, in two folders."""
    from skimage import data

    cat = data.chelsea()
    for number in range(count):
        file = folder / ("a" if number % 2 else "b") / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cat[number : number + 60 + number, :100]).save(file)
    return folder


@dataclass
class Run:
    """A started archive."""

    photos: Path
    target: Path
    process: subprocess.Popen[str]

    def family(self) -> list[psutil.Process]:
        """The processes that it has started, itself first."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def find(self, victim: str) -> list[psutil.Process]:
        """Its processes of a kind."""
        words, found = VICTIMS[victim], []
        for process in self.family():
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words) and "guard.py" not in line:
                found.append(process)
        return found

    def kill(self, victim: str, moment: float, dice: random.Random) -> str:
        """Kill one of its processes once this share of the photos is done, or the run has ended."""
        enough = moment * len(files(self.photos))

        def time_has_come() -> bool:
            if self.process.poll() is not None:
                return True
            return len(files(self.target)) >= enough and bool(self.find(victim))

        wait_until(time_has_come, PATIENCE, f"no {victim} was there to kill")
        if self.process.poll() is not None:
            return "the run had ended"
        process = dice.choice(self.find(victim))
        process.send_signal(signal.SIGKILL)
        return f"{victim} {process.pid}"


def start(photos: Path, target: Path, *words: str) -> Run:
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "hypir", "archive", str(photos), str(target)]
    command += words
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return Run(photos, target, process)


def files(folder: Path) -> set[str]:
    """Names of the files of a folder, without those of the archive itself."""
    return {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if ".hypir" not in file.parts and file.is_file()
    }


def check(photos: Path, target: Path) -> None:
    """No half file, no photo lost, and the manifest says what there is."""
    for name in files(target):
        with Image.open(target / name) as picture:
            picture.load()
    assert files(target) == files(photos)
    database = sqlite3.connect(target / ".hypir" / "manifest.sqlite")
    rows = database.execute("SELECT source, target, state, bytes FROM photos").fetchall()
    (whole,) = database.execute("PRAGMA integrity_check").fetchone()
    database.close()
    assert whole == "ok"
    assert {name for name, *_ in rows} == files(photos)
    for name, result, state, size in rows:
        assert (state, size) == ("done", (target / result).stat().st_size), name
    assert not (target / ".hypir" / "parts").exists()


def pictures(folder: Path) -> dict[str, np.ndarray]:
    """Every result by its name."""
    return {name: np.asarray(Image.open(folder / name)) for name in files(folder)}
