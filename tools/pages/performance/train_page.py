"""The section "Training" of docs/performance.md."""

from __future__ import annotations

import argparse
import os
import statistics

from hypir.train.recipes import Recipe
from tools.pages.markdown import table
from tools.pages.performance import report
from tools.pages.performance.step_budget import PARTS, Budget, Run, make_budget

TARGET = 0.05
MIB = 2**20
ABSENT = "not run here: no GPU"
BUSY = 0.25
"""Load per core at the start from which a machine counts as busy."""


def page(results: dict, load: float, asked: argparse.Namespace) -> str:
    """Tables and what they say.

    Args:
        results: by (recipe, stage, checkpointing), the recipe as it is and the three ways.
        load: of the machine before the start.
        asked: the command's options.
    """
    budgets = {key: budget_of(*found) for key, found in results.items()}
    ready = {key: budget_of(found[0], found[1], "ready") for key, found in results.items()}
    gpu = any(key[0] == "sd2" for key in results)
    speeds = [speed_row(key, runs) for key, (_, runs) in results.items()]
    shares = [share_row(key, budget, ready[key]) for key, budget in budgets.items()]
    memory = [memory_row(key, runs) for key, (_, runs) in results.items()]
    if not gpu:
        for rows, columns in ((speeds, 5), (shares, 2 + len(PARTS)), (memory, 3)):
            missing = [ABSENT, *["-"] * (columns - 1)]
            rows += [(f"sd2, {s}", c, *missing) for s in ("encoder", "adversarial") for c in ON_OFF]
    parts = [
        f"Steps in the loop of hypir.train against the same step written plainly "
        f"(plain_training.py: batches lie ready, no accelerate, averages one parameter after the "
        f"other, LoRA unmerged). {report.machine()}. tiny: {asked.batch} pictures of "
        f"{asked.crop} px in float32 on the CPU, torch with {asked.threads} thread"
        f"{'s' * (asked.threads > 1)}, one process making data; sd2: 8 pictures of "
        f"512 px in bf16 on a GPU, random weights, `unet` discriminator, pyramid term for LPIPS. "
        f"Medians of {asked.rounds} x {asked.steps} steps, the ways taking turns; without log "
        "lines, gradient norms and checkpoints, which the last table has.",
        busy(load),
        "Ratios are times of the loop by times of the plain step: as it is, with batches that lie "
        "ready as the plain step has them, and the latter in CPU seconds of the process, which "
        "other programs disturb least.",
        table(SPEED, speeds),
        "Peak of live tensors in one step beyond what stays (activations, gradients, the batch), "
        "and what stays: weights, optimizers, averages. On tiny the encoder stage has nothing to "
        "checkpoint.",
        table(MEMORY, memory),
        f"Where a step's time goes beside forward, backward, clipping and optimizer: shares of the "
        f"mean step, the log line, gradient norms per loss and the checkpoint with their share "
        f"(every 10, 100 and 500 steps). Aim: at most {TARGET:.0%} in all.",
        table(("stage", "checkpointing", "all", "without data", *PARTS.values()), shares),
        verdict(budgets, ready),
    ]
    return "\n\n".join(part for part in parts if part)


ON_OFF = ("off", "on")
SPEED = ("stage", "checkpointing", "loop, steps/s", "plain, steps/s", "loop / plain")
SPEED += ("batches ready / plain", "the same, CPU time")
MEMORY = ("stage", "checkpointing", "loop, MiB", "plain, MiB", "stays, MiB")


def budget_of(recipe: Recipe, runs: dict[str, Run], way: str = "loop") -> Budget:
    """What a step of the loop is made of, with the recipe's own intervals."""
    every = {"log": recipe.log_every, "probe": recipe.probe_every, "save": recipe.checkpoint_every}
    return make_budget(runs[way].parts, runs[way].rare, every)


def speed_row(key: tuple[str, str, bool], runs: dict[str, Run]) -> tuple:
    loop, ready, plain = (runs[way].seconds for way in ("loop", "ready", "plain"))
    cpu = statistics.median(runs["ready"].cpu) / statistics.median(runs["plain"].cpu)
    ratios = (f"{x:.2f}" for x in (loop / plain, ready / plain, cpu))
    return (*labels(key), f"{1 / loop:.2f}", f"{1 / plain:.2f}", *ratios)


def memory_row(key: tuple[str, str, bool], runs: dict[str, Run]) -> tuple:
    sizes = runs["loop"].peak, runs["plain"].peak, runs["loop"].state
    return (*labels(key), *(f"{size / MIB:.0f}" for size in sizes))


def share_row(key: tuple[str, str, bool], budget: Budget, ready: Budget) -> tuple:
    every = (f"{budget.share(part):.1%}" for part in PARTS)
    return (*labels(key), f"{budget.overhead:.1%}", f"{ready.overhead:.1%}", *every)


def labels(key: tuple[str, str, bool]) -> tuple[str, str]:
    return f"{key[0]}, {key[1]}", ON_OFF[key[2]]


def busy(load: float) -> str:
    """A warning if other programs were at work."""
    if load < BUSY * (os.cpu_count() or 1):
        return ""
    return (
        f"Taken on a busy machine (load {load:.1f} on {os.cpu_count()} cores before the start): "
        "steps/s are too low, and ratios of wall clock are rough."
    )


def verdict(budgets: dict, ready: dict) -> str:
    """Which stages miss the aim, and by what."""
    missed = [
        f"{' checkpointing '.join(labels(key))} ({budget.overhead:.1%}, most of it "
        f"{PARTS[budget.largest]}; {ready[key].overhead:.1%} where batches lie ready)"
        for key, budget in budgets.items()
        if budget.overhead > TARGET
    ]
    return f"The aim is missed by {'; '.join(missed)}." if missed else "The aim is met."
