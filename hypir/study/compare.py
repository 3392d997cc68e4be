"""Methods run on the same photos through one host, taking turns: the folder of a study, timed.

The methods take turns on each photo, and each photo begins with another method, so that a machine
that slows down slows all of them. The host keeps its loaded models between turns. The first run of
a method loads its weights and is reported by itself.
"""

import contextlib
import csv
import logging
import statistics
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image

from hypir.archive.comfyui import find_comfyui, running
from hypir.archive.server import HostError, Server
from hypir.archive.workflow import Prompt, for_photo
from hypir.degradation import degrade
from hypir.train.evaluate import evaluate
from hypir.train.pictures import in_bytes, list_pictures, read_levels

from .folder import INPUTS, RESULTS, TRUTH
from .methods import prompt_of, read_methods

log = logging.getLogger(__name__)

CACHE = ("--cache-lru", "200")
"""The host then keeps the models of all methods; otherwise each turn would load them again."""
PAUSE_SECONDS = 0.05
"""Between two looks at the memory."""


class Run(NamedTuple):
    """One method on one photo, once."""

    method: str
    photo: str
    turn: int
    """0 for the method's first run, which loads its weights."""
    seconds: float
    """By the host's own clock."""
    megapixels: float
    """Of the result."""
    peak_gib: float
    """Most memory of the host's process during the run (resident, of the machine, not of a GPU)."""


def compare(
    photos: Path,
    study: Path,
    methods: Sequence[str],
    preset: str = "",
    scale: int | None = None,
    repeats: int = 1,
    metrics: Sequence[str] = (),
    comfyui: str | None = None,
) -> tuple[list[Run], list[str]]:
    """Fill a study's folder, and measure time and memory.

    Args:
        photos: folder of photos; good ones if `preset` is given, else the inputs themselves.
        study: folder to fill; it must have no results yet.
        methods: as methods.read_methods takes them.
        preset: of HYPIR Degrade; empty if the photos are bad already.
        scale: sides of the results by those of the inputs; of the degradation too.
        repeats: runs of each method on each photo.
        metrics: names for `evaluate`; empty for the usual ones.
        comfyui: folder of the ComfyUI, see find_comfyui.

    Returns:
        The runs, and what was left out and why.

    Raises:
        ValueError: if there are no photos, if the folder has results, or if no method can run.
    """
    graphs = read_methods(methods)
    if (study / RESULTS).exists():
        raise ValueError(f"{study} must be a new folder, but has results; choose another --out")
    if preset and scale is None:
        scale = 4
    notes: list[str] = []
    files = _prepare(photos, study, preset, scale or 1, notes)
    runs: list[Run] = []
    with running(find_comfyui(comfyui), {}, CACHE) as server:
        known = server.object_info()
        prompts: dict[str, Prompt] = {}
        for name, graph in graphs.items():
            try:
                prompts[name] = prompt_of(graph, scale, known)
            except ValueError as error:
                notes.append(f"{name} is left out: {error}")
        if not prompts:
            raise ValueError("no method can run here; " + "; ".join(notes))
        names = list(prompts)
        for number, file in enumerate(file for file in files for _ in range(repeats)):
            first = number % len(names)
            for name in [*names[first:], *names[:first]]:
                target = study / RESULTS / name / file.name
                turn = sum(run.method == name for run in runs)
                try:
                    runs.append(_run(server, prompts[name], file, target, (name, turn)))
                except (HostError, ValueError) as error:
                    if not server.is_well():
                        raise
                    notes.append(f"{name} failed on {file.name}: {' '.join(str(error).split())}")
    _write_times(study, runs)
    notes += _measure(study, names, metrics)
    return runs, notes


def _prepare(photos: Path, study: Path, preset: str, scale: int, notes: list[str]) -> list[Path]:
    """Writes inputs, and truth if they are degraded; returns the inputs."""
    found = list_pictures(photos)
    if not found:
        raise ValueError(f"there is no picture in {str(photos)!r}")
    inputs = []
    for number, file in enumerate(found):
        try:
            levels = read_levels(file)
        except ValueError as error:
            notes.append(str(error))
            continue
        name = f"{file.stem}.png"
        if (study / INPUTS / name).exists():
            raise ValueError(
                f"photos must have names of their own, but {file.stem!r} is twice there"
            )
        if preset:
            height, width = (side // scale * scale for side in levels.shape[:2])
            if not height or not width:
                notes.append(f"{file.name} is smaller than {scale} px and is left out")
                continue
            levels = np.ascontiguousarray(levels[:height, :width])
            _save(levels, study / TRUTH / name)
            levels = degrade(torch.from_numpy(levels)[None], preset, scale, [number])[0].numpy()
        _save(levels, study / INPUTS / name)
        inputs.append(study / INPUTS / name)
    if not inputs:
        raise ValueError(f"no photo can be used; {notes[0]}")
    return inputs


def _save(levels: np.ndarray, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(in_bytes(levels)).save(target)


def _run(server: Server, prompt: Prompt, file: Path, target: Path, method: tuple[str, int]) -> Run:
    """One run; the host gets the photo under a new name, because it keeps results by name."""
    name = f"{uuid.uuid4().hex}.png"
    source = server.base / "input" / name
    source.write_bytes(file.read_bytes())
    saved: list[Path] = []
    try:
        with _peak(server.process.pid) as peak:
            prompt_id, saved = server.run_named(for_photo(prompt, name, name[:8], deep=False))
        if len(saved) != 1:
            raise ValueError(f"a method must save one picture of a photo, but saved {len(saved)}")
        levels = read_levels(saved[0])
        _save(levels, target)  # without the graph that the host writes into its PNGs
        megapixels = levels.shape[0] * levels.shape[1] / 1e6
        seconds = server.seconds(prompt_id)
        return Run(method[0], file.stem, method[1], seconds, megapixels, peak() / 2**30)
    finally:
        for left in (source, *saved):
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def _peak(process: int) -> Iterator[Callable[[], int]]:
    """The most resident memory of a process and its children during the block, in bytes."""
    highest, ended = 0, threading.Event()

    def look() -> None:
        nonlocal highest
        while True:
            with contextlib.suppress(psutil.Error):
                owner = psutil.Process(process)
                family = [owner, *owner.children(recursive=True)]
                highest = max(highest, sum(member.memory_info().rss for member in family))
            if ended.wait(PAUSE_SECONDS):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: highest
    finally:
        ended.set()
        thread.join()


def _write_times(study: Path, runs: Sequence[Run]) -> None:
    with open(study / "times.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Run._fields)
        writer.writerows(runs)


def _measure(study: Path, methods: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Writes metrics/METHOD.csv; returns what could not be measured."""
    truth = study / TRUTH if (study / TRUTH).is_dir() else None
    (study / "metrics").mkdir(exist_ok=True)
    notes: list[str] = []
    for method in methods:
        folder = study / RESULTS / method
        if not folder.is_dir():
            continue
        try:
            _, missing = evaluate(folder, truth, study / "metrics" / f"{method}.csv", names=metrics)
        except ValueError as error:
            missing = [str(error)]
        notes += [f"{method}: {line}" for line in missing]
    return notes


class Timing(NamedTuple):
    """What a method's runs took."""

    first: float
    """Seconds of the first run, weights loaded."""
    median: float
    """Seconds per megapixel of the result of the others."""
    low: float
    """Their shortest."""
    high: float
    """Their longest."""
    peak_gib: float
    """The most of all runs."""


def timing(runs: Sequence[Run], method: str) -> Timing:
    """First and later runs of a method; of one run alone median and spread are its own."""
    own = [run for run in runs if run.method == method]
    later = [run.seconds / run.megapixels for run in own if run.turn] or [
        own[0].seconds / own[0].megapixels
    ]
    peak = max(run.peak_gib for run in own)
    return Timing(own[0].seconds, statistics.median(later), min(later), max(later), peak)


def describe(runs: Sequence[Run], notes: Sequence[str]) -> str:
    """The table of times, and what was left out, as Markdown."""
    lines = ["| method | first run, s | later, s per megapixel: median [least, most] | peak, GiB |"]
    lines += ["|---|---|---|---|"]
    for method in dict.fromkeys(run.method for run in runs):
        took = timing(runs, method)
        spread = f"{took.median:.2f} [{took.low:.2f}, {took.high:.2f}]"
        lines.append(f"| {method} | {took.first:.2f} | {spread} | {took.peak_gib:.2f} |")
    return "\n".join([*lines, "", *(f"- not done: {note}" for note in notes)]).rstrip() + "\n"
