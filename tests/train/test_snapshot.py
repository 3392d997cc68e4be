"""Losses of a seeded run, recorded: a change of the loop that is no change of numbers keeps them.

The file is a snapshot of what this code did (CPU, one thread, float32), not an independent truth.
Other machines round otherwise, and twenty steps of an adversarial game let that grow: the first ten
steps must agree to 1e-3, all to 2e-2. `pytest --update` rewrites it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hypir.train.loop import run_stage
from hypir.train.run import MAKERS

SNAPSHOT = Path(__file__).resolve().parents[1] / "data" / "losses_cpu.txt"
NAMES = ("loss", "mse", "pyramid", "gan", "d_loss")


def test_twenty_steps_have_the_recorded_losses(make_recipe, accelerator, update):
    recipe = make_recipe(steps=20, checkpoint_every=20)
    stage = MAKERS["adversarial"](recipe, accelerator)
    lines = [f"step {' '.join(NAMES)}"]

    class Recorder:
        def step(self, step, values):
            lines.append(f"{step} " + " ".join(f"{values[n]:.6g}" for n in NAMES))

    run_stage(stage, recipe, accelerator, Recorder())
    if update:
        SNAPSHOT.write_text("\n".join(lines) + "\n")
    recorded = SNAPSHOT.read_text().splitlines()
    assert len(recorded) == len(lines) == 21 and recorded[0] == lines[0]
    for i, (old, new) in enumerate(zip(recorded[1:], lines[1:], strict=True)):
        expected, got = ([float(x) for x in line.split()] for line in (old, new))
        assert got == pytest.approx(expected, rel=1e-3 if i < 10 else 2e-2)
