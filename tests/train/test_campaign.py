"""Training that is killed anywhere, and goes on to the bits of a run that was not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from hypir.train.engine import make_accelerator
from hypir.train.recipe import STAGES, Recipe
from hypir.train.run import train
from hypir.weight_files import read_tensors

from .test_resume import assert_same, last_state, without_recipe

EXPORTS = ("fp32", "fp16", "bf16")
MOST_KILLS = 3
"""Of one run, before it may go to its end."""
WRITES = {"os.rename", "os.remove", "os.chmod", "os.mkdir"}
PATIENCE = 900


class KilledAt:
    """Ends the process at its n-th change of a file in a folder, before it happens."""

    def __init__(self, folder: str, count, at: int):
        self._folder, self._count, self._at = folder, count, at

    def __call__(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        else:
            path = arguments[0] if event in WRITES else None
            changes = True
        if changes and isinstance(path, str | Path) and str(path).startswith(self._folder):
            self._count.value += 1
            if self._count.value == self._at:
                os.kill(os.getpid(), signal.SIGKILL)


def run_of(recipe: Recipe, count, at: int) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    sys.addaudithook(KilledAt(recipe.out, count, at))
    train(recipe, make_accelerator(recipe.engine, cpu=True))


@dataclass
class Attempt:
    code: int | None
    seconds: float
    changes: int


def attempt(recipe: Recipe, at: int = 0, after: float | None = None) -> Attempt:
    """Run a recipe; kill it at its n-th change of a file, or after some seconds."""
    fork = multiprocessing.get_context("fork")  # otherwise every start imports the libraries
    count = fork.Value("i", 0)
    process = fork.Process(target=run_of, args=(recipe, count, at))
    start = time.monotonic()
    process.start()
    process.join(PATIENCE if after is None else after)
    if process.is_alive():
        process.kill()
        process.join()
    return Attempt(process.exitcode, time.monotonic() - start, count.value)


def differences(whole: Recipe, killed: Recipe) -> list[str]:
    """What of a run that was killed is not as that of an unbroken one."""
    found = []
    for stage in whole.stages:
        one, other = last_state(whole, stage), last_state(killed, stage)
        try:
            assert one[0] == other[0], f"step {other[0]}, not {one[0]}"
            assert_same(without_recipe(one[1]), without_recipe(other[1]))
        except AssertionError as error:
            found.append(f"another checkpoint of {stage}: {str(error).splitlines()[0]}")
    ends = {}
    for recipe in (whole, killed):
        out = Path(recipe.out)
        files = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
        left = [name for name in files if name.endswith(".partial")]
        found += [f"a file is left behind: {name}" for name in left]
        ends[recipe.out] = {n: p for n, p in files.items() if n.endswith(".safetensors")}
    mine, theirs = ends[whole.out], ends[killed.out]
    if mine.keys() != theirs.keys():
        return [*found, f"other files: {sorted(mine.keys() ^ theirs.keys())}"]
    for name, file in mine.items():
        one, other = read_tensors(file), read_tensors(theirs[name])
        try:
            assert_same(one[0], other[0])
            assert one[1] == other[1], "its metadata"
        except AssertionError as error:
            found.append(f"{name} is another: {str(error).splitlines()[0]}")
    return found


@pytest.fixture
def kinds(make_recipe, tmp_path):
    """Recipes by stage and precision of the exported files: every stage, and all in one run."""

    def make(stages: tuple[str, ...], export: str, name: str) -> Recipe:
        steps = 6 if len(stages) == 1 else 2
        every = 3 if len(stages) == 1 else 1
        return make_recipe(
            out=str(tmp_path / name),
            stages=stages,
            export=export,
            steps=steps,
            checkpoint_every=every,
            keep=2,
        )

    groups = [(stage,) for stage in STAGES] + [STAGES]
    return make, [(group, export) for group in groups for export in EXPORTS]


def test_kills(campaign, kinds):
    record = campaign("kills")
    make, choices = kinds
    record.random.shuffle(choices)
    wholes: dict[tuple, tuple[Recipe, Attempt]] = {}
    runs = 0
    while record.done < record.asked:
        stages, export = kind = choices[runs % len(choices)]
        stage = stages[0] if len(stages) == 1 else "all stages"
        where = f"{stage}, {export}"
        if kind not in wholes:
            whole = make(stages, export, f"whole {where}")
            wholes[kind] = whole, attempt(whole)
            assert wholes[kind][1].code == 0, where
        whole, unbroken = wholes[kind]
        killed = make(stages, export, f"killed {runs}")
        runs += 1
        moments = []
        for _ in range(record.random.randint(1, MOST_KILLS)):
            if record.random.random() < 0.5:
                after = record.random.uniform(0, unbroken.seconds)
                how, tried = "at a moment", attempt(killed, after=after)
                moments.append(f"after {after:.2f} s")
            else:
                at = record.random.randint(1, unbroken.changes)
                how, tried = "at a change of a file", attempt(killed, at)
                moments.append(f"at change {at}")
            if tried.code == -signal.SIGKILL:
                record.tried(f"{stage}, {how}")
            elif tried.code != 0:
                record.find("it does not go on", f"{where}, {moments}")
        if attempt(killed).code != 0:
            record.find("it does not go on", f"{where}, {moments}")
            continue
        for problem in differences(whole, killed):
            record.find(problem, f"{where}, {moments}")
        record.facts["runs that were killed and went to their end"] = f"{runs:,}"
    record.end()
