"""One server and what happens to it in a day: many prompts, cancels, two at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import pytest
from PIL import Image
from scipy import stats

from tools.host.server import Interrupted, Prompt, Server, wait_until
from tools.workflows.prompt import START, build_prompt, find, set_input

pytestmark = pytest.mark.http

SIZES = [(48, 64), (65, 33), (96, 96), (7, 120), (130, 80)]
"""Height and width of the results of the soak, in pixels."""
MOST_GROWTH = 0.1
"""MiB a prompt: the growth that the slope may not be above for certain."""
PATIENCE = 1.0
"""Seconds after the end of the running tile."""


@pytest.fixture
def variant(server: Server, cat, tmp_path) -> Callable[..., Prompt]:
    """A function that gives START_here for one size, strength and seed of noise."""
    start = build_prompt(server, START)
    compared = find(start, "ImageCompare")
    names: dict[tuple[int, int], str] = {}

    def make(size=(48, 64), strength: float = 1.0, seed: int = 0, prefix="campaign", **restore):
        prompt = {k: n | {"inputs": dict(n["inputs"])} for k, n in start.items() if k != compared}
        if size not in names:
            file = tmp_path / f"campaign {size[0]} {size[1]}.png"
            Image.fromarray(cat[: size[0], : size[1]]).save(file)
            names[size] = server.upload_image(file)
        set_input(prompt, "LoadImage", image=names[size])
        set_input(prompt, "ImageScaleBy", scale_by=1.0)
        set_input(prompt, "HYPIRLoadLora", strength=strength)
        set_input(prompt, "SaveImage", filename_prefix=prefix)
        inputs = prompt[find(prompt, "HYPIRRestore")]["inputs"]
        noisy = {"model": inputs["model"], "samples": inputs["samples"], "strength": 0.2}
        noisy |= {"seed": seed, "variants": 1}
        prompt["noise"] = {"class_type": "HYPIRInjectNoise", "inputs": noisy}
        inputs["samples"] = ["noise", 0]
        inputs |= restore
        return prompt

    return make


def pixels(files: list[Path]) -> np.ndarray:
    (file,) = files
    with Image.open(file) as picture:
        return np.asarray(picture)


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_soak(campaign, server: Server, variant):
    record = campaign("soak")
    random = record.random
    kinds = [(s, g, n) for s in SIZES for g in (1.0, 0.6, 0.25) for n in (0, 1)]
    random.shuffle(kinds)
    server.free()
    host = psutil.Process(server.process.pid)
    first: dict[tuple, np.ndarray] = {}
    memory, handles, threads, last = [], [], [], []
    before = None
    while record.done < record.asked:
        # after a cancel the host still holds the one before: it would give that without a run
        kind = random.choice([k for k in kinds[: 3 + record.done] if k not in last])
        cancelled = record.done % 10 == 9
        made = files_below(server.base)
        prompt = variant(*kind)
        if cancelled:
            outcome = "cancelled" if cancel_at_once(server, prompt) else "done before its cancel"
            saved = files_below(server.base / "output") - made
            for file in saved:  # of one that was done
                file.unlink()
        else:
            saved = server.run(prompt)
            got = pixels(saved)
            outcome = "equal to the bit to the first of its kind" if kind in first else "first"
            if not np.array_equal(first.setdefault(kind, got), got):
                record.find("another picture than the first of its kind", str(kind))
                outcome = "a finding"
            for file in saved:
                file.unlink()
        left = files_below(server.base) - made
        left -= files_below(server.base / "input")
        if left:
            record.find(f"files are left behind: {sorted(p.name for p in left)}", str(kind))
        last = [*last[-1:], kind]
        server.post("/history", clear=True)  # the host keeps every prompt that was done
        memory.append(host.memory_info().rss / 2**20)
        handles.append(host.num_fds())
        threads.append(host.num_threads())
        before = before or memory[-1]
        record.tried(outcome)
        record.facts |= flatness(memory, handles, threads)
    loads = server.log.read_text(errors="replace").count("Requested to load")
    record.facts["models that the host loaded, in all"] = f"{loads:,}"
    slope, low, _ = slope_of(memory)
    if len(memory) > 100 and low > MOST_GROWTH:
        record.find(f"the memory grows by {slope * 1024:.0f} KiB a prompt", "resident memory")
    if max(handles[-5:]) > max(handles[: len(handles) // 2 + 1]) + 5:
        record.find(f"open files grow from {handles[0]} to {handles[-1]}", "handles")
    record.end()


def slope_of(values: list[float]) -> tuple[float, float, float]:
    """MiB a prompt by least squares over the last four fifths, and its interval of 95 %."""
    kept = values[len(values) // 5 :]
    if len(kept) < 4:
        return 0.0, 0.0, 0.0
    fit = stats.linregress(range(len(kept)), kept)
    reach = stats.t.ppf(0.975, len(kept) - 2) * fit.stderr
    return fit.slope, fit.slope - reach, fit.slope + reach


def flatness(memory: list[float], handles: list[int], threads: list[int]) -> dict[str, str]:
    slope, low, high = (1024 * value for value in slope_of(memory))
    fifth = len(memory) // 5
    return {
        "memory of the process": f"{memory[fifth]:.0f} MiB after a fifth of the prompts, "
        f"{memory[-1]:.0f} MiB at the end, {max(memory):.0f} MiB at most",
        "slope of the memory over the last four fifths": f"{slope:+.1f} KiB a prompt, "
        f"with 95 % confidence {low:+.1f} to {high:+.1f} (neighbours taken as independent)",
        "open files": f"{handles[fifth]}, at the end {handles[-1]}",
        "threads": f"{threads[fifth]}, at the end {threads[-1]}",
    }


def cancel_at_once(server: Server, prompt: Prompt) -> bool:
    """Cancel a prompt at its first message; whether it was in time."""
    with server.watch() as watch:
        watch.queue(prompt)
        try:
            for kind, _ in watch.messages():
                if kind == "executing":
                    server.interrupt()
                if kind == "execution_interrupted":
                    return True
        except Interrupted:
            return True
    return False


def test_cancel(campaign, server: Server, variant):
    record = campaign("cancel")
    tiles = {"tile_size": 64, "overlap": 16, "tile_batch": 1}
    small = variant((48, 64), seed=5)
    expected = pixels(server.run(small))
    # loads the models, then measures a whole run and its longest silence
    server.run(variant((288, 384), seed=1, **tiles))
    seconds, silence = timed(server, variant((288, 384), seed=2, **tiles))
    record.facts["a whole run"] = f"{seconds:.1f} s, its longest part {silence:.2f} s"
    delays: list[float] = []
    while record.done < record.asked:
        prompt = variant((288, 384), seed=10 + record.done, **tiles)
        moment = record.random.uniform(0, seconds)
        delay, after = cancelled_after(server, prompt, moment)
        if delay is None:
            outcome = "done before its cancel"
        else:
            outcome = "cancelled"
            delays.append(delay)
            if delay > after + PATIENCE:
                record.find(f"ready {delay:.1f} s after Cancel", f"at {moment:.2f} s")
        again = variant((48, 64), seed=5, prefix=f"after {record.done}")
        busy = variant((65, 33), seed=record.done)  # so that nothing comes from the cache
        server.run(busy)
        if not np.array_equal(pixels(server.run(again)), expected):
            record.find("the next prompt gives another picture", f"after {moment:.2f} s")
        record.tried(outcome)
        if delays:
            record.facts["from Cancel to ready"] = (
                f"{median(delays):.2f} s in the middle, {max(delays):.2f} s at most"
            )
    record.end()


def timed(server: Server, prompt: Prompt) -> tuple[float, float]:
    """Seconds of a run, and of the longest time between two of its messages."""
    with server.watch() as watch:
        watch.queue(prompt)
        start = last = time.monotonic()
        longest = 0.0
        for _ in watch.messages():
            now = time.monotonic()
            longest, last = max(longest, now - last), now
    return last - start, longest


def cancelled_after(server: Server, prompt: Prompt, moment: float) -> tuple[float | None, float]:
    """Seconds from a Cancel at a moment to the end, None if it was too late; the longest part."""
    asked: list[float] = []

    def cancel() -> None:
        asked.append(time.monotonic())
        server.interrupt()

    timer = threading.Timer(moment, cancel)
    longest = 0.0
    with server.watch() as watch:
        watch.queue(prompt)
        timer.start()
        last, end = time.monotonic(), ""
        for kind, _ in watch.messages():
            now, end = time.monotonic(), kind
            # the part that Cancel met may be the longest
            longest, last = max(longest, now - last), now
    timer.cancel()
    timer.join()
    if end != "execution_interrupted":
        return None, longest
    return last - asked[0], longest


def finished(server: Server, *prompts: str) -> bool:
    return all(server.history(prompt) for prompt in prompts)


def test_queue(campaign, server: Server, variant, graph, cat):
    record = campaign("queue")
    kinds = [((48, 64), 1.0, 0), ((65, 33), 0.6, 1), ((96, 96), 0.25, 2)]
    expected = [pixels(server.run(variant(*kind))) for kind in kinds]
    other = graph(cat[:40, :56])
    other_expected = pixels(server.run(other))
    while record.done < record.asked:
        one, two = record.random.sample(range(len(kinds)), 2)
        if record.done % 5 == 1:
            server.free()
            place = find(other, "CheckpointLoaderSimple")
            with server.watch() as watch:
                first = watch.queue(graph(cat[:40, :56]))
                second = None
                for kind, data in watch.messages():
                    if kind == "executing" and data["node"] == place and second is None:
                        second = server.queue(variant(*kinds[two]))
            second = second or server.queue(variant(*kinds[two]))
            wanted, outcome = other_expected, "a prompt while another template loads"
        else:
            first = server.queue(variant(*kinds[one]))
            second = server.queue(variant(*kinds[two]))
            wanted, outcome = expected[one], "two at once"
        ids = (first, second)
        wait_until(lambda ids=ids: finished(server, *ids), 600, "two prompts are not done")
        for prompt, right in ((first, wanted), (second, expected[two])):
            if not np.array_equal(pixels(server.pictures(prompt)), right):
                record.find("another picture than alone", f"{outcome}, {kinds[one]}, {kinds[two]}")
        record.tried(outcome)
    record.end()
