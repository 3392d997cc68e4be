"""Memory runs out at one operation after the other; what the log then says is what comes out."""

from __future__ import annotations

import logging
import re

import torch
from torch.utils._python_dispatch import TorchDispatchMode

LOGGED = re.compile(r"HYPIR (encode|step|decode): out of memory with \d+ tiles per call; starting")
SLICES = "switched to slice attention"
SENTENCE = "ran out of memory with the smallest tiles"
ROUNDING = 2e-3
"""One tile a call rounds otherwise than two, and random weights enlarge it."""


class OutAt(TorchDispatchMode):
    """Counts the operations that make tensors, and at one of them has no memory."""

    def __init__(self, at: int | None = None):
        super().__init__()
        self.at, self.count, self.failed = at, 0, ""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if not function.is_view:
            self.count += 1
            if self.count == self.at:
                self.failed = str(function)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return function(*arguments, **(keywords or {}))


def test_memory(campaign, run, sd2, vae, prompt, photo, caplog):
    record = campaign("memory")

    def whole_way(image, **tiles):
        latent = run("HYPIREncode", image, vae, **tiles)
        latent = run("HYPIRRestore", sd2, prompt, latent, **tiles)
        return run("HYPIRDecode", latent, vae, image, "wavelet", **tiles)

    graphs = {
        "two tiles a call": lambda: whole_way(photo[:, :96, :160], tile_size=128, overlap=32),
        "one small tile": lambda: whole_way(photo[:, 100:164, 200:264]),
    }
    expected, points = {}, []
    for name, graph in graphs.items():
        graph()  # loads the models
        with OutAt() as counted:
            expected[name] = graph()
        assert torch.equal(graph(), expected[name])
        points += [(name, at) for at in range(1, counted.count + 1)]
        record.facts[f"operations with {name}"] = f"{counted.count:,}"
    record.random.shuffle(points)
    record.asked = min(record.asked, len(points))
    for name, at in points[: record.asked]:
        caplog.clear()
        failing = OutAt(at)
        where = f"{name}, operation {at}"
        with caplog.at_level(logging.WARNING):
            try:
                with failing:
                    got = graphs[name]()
                outcome = judged(got, expected[name], caplog.text, failing.failed)
            except torch.OutOfMemoryError:
                outcome = "outside the tiles: the host's own message about memory"
            except Exception as error:
                said = SENTENCE in str(error) and "\n" not in str(error)
                outcome = f"{type(error).__name__}: {error}"
                outcome = "a sentence: the smallest tiles do not fit" if said else outcome
        where += f", {failing.failed}"
        if outcome not in RIGHT:
            record.find(outcome, where)
        if not outcome.startswith("the picture") or record.done % 10 == 0:
            if not torch.equal(graphs[name](), expected[name]):
                record.find("the next run gives another picture", where)
        record.tried(outcome if outcome in RIGHT else "a finding")
    record.end()


RIGHT = (
    "the picture, with one tile a call as the log says",
    "a sentence: the smallest tiles do not fit",
    "outside the tiles: the host's own message about memory",
    "the picture, with attention in slices as the host's log says",
)


def judged(got: torch.Tensor, expected: torch.Tensor, log: str, failed: str) -> str:
    if not failed:
        return "the operation never came"
    off = float((got - expected).abs().max())
    if LOGGED.search(log):
        return RIGHT[0] if off < ROUNDING else f"another picture than the log says, by {off:.3g}"
    if SLICES in log and off < ROUNDING:  # the host's autoencoder tries again by itself
        return RIGHT[3]
    return "no word about it" if off == 0 else f"another picture without a word, by {off:.3g}"
