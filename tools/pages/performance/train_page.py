"""The section "Training" of docs/performance.md."""

from __future__ import annotations

import argparse
import os
import statistics

from hypir.train.recipe import Recipe
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
    gpu = any(recipe != "tiny" for recipe, *_ in results)
    speeds = [speed_row(key, runs) for key, (_, runs) in results.items()]
    shares = [share_row(key, budget, ready[key]) for key, budget in budgets.items()]
    memory = [memory_row(key, runs) for key, (_, runs) in results.items()]
    if not gpu:
        for rows, columns in ((speeds, 5), (shares, 2 + len(PARTS)), (memory, 3)):
            missing = [ABSENT, *["-"] * (columns - 1)]
            rows += [(f"sd2, {s}", c, *missing) for s in ("encoder", "adversarial") for c in ON_OFF]
    parts = [
        f"Steps in the loop of hypir.train compared with the same step in plain code "
        f"(plain_training.py: batches prepared in advance, no accelerate, averages updated "
        f"parameter by parameter, LoRA not merged). {report.machine()}. tiny: {asked.batch} images "
        f"of {asked.crop} px in float32 on the CPU, torch with {asked.threads} thread"
        f"{'s' * (asked.threads > 1)}, one data process; sd2: 8 images of 512 px in bf16 on a GPU, "
        f"random weights, `unet` discriminator, pyramid loss instead of LPIPS. Medians of "
        f"{asked.rounds} x {asked.steps} steps, the variants alternating, without log lines, "
        "gradient norms and checkpoints; the last table has those.",
        busy(load),
        "The ratios divide the time of the loop by the time of the plain step: for the loop as it "
        "is; with batches prepared in advance, as for the plain step; and the same in CPU seconds "
        "of the process, which other programs disturb least.",
        table(SPEED, speeds),
        "Peak of live tensors in one step (activations, gradients, the batch), without the state "
        "that is kept between steps, and that state: weights, optimizers, averages. On tiny the "
        "encoder stage has nothing to checkpoint.",
        table(MEMORY, memory),
        "The overhead of a step: everything except forward, backward, clipping and optimizer, as "
        "shares of the mean step. The log line, the gradient norms per loss and the checkpoint "
        f"come every 10, 100 and 500 steps and count in proportion. Target: at most {TARGET:.0%} "
        "in total.",
        table(("stage", "checkpointing", "total", "without data", *PARTS.values()), shares),
        verdict(budgets, ready),
    ]
    return "\n\n".join(part for part in parts if part)


ON_OFF = ("off", "on")
SPEED = ("stage", "checkpointing", "loop, steps/s", "plain, steps/s", "loop / plain")
SPEED += ("batches prepared / plain", "the same, CPU time")
MEMORY = ("stage", "checkpointing", "loop, MiB", "plain, MiB", "state, MiB")


def budget_of(recipe: Recipe, runs: dict[str, Run], way: str = "loop") -> Budget:
    """What a step of the loop is made of, with the recipe's own intervals."""
    every = {"log": recipe.log.log_every, "probe": recipe.log.probe_every}
    every |= {"save": recipe.saving.checkpoint_every}
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
        f"Measured on a busy machine (load {load:.1f} on {os.cpu_count()} cores before the start): "
        "the steps/s are too low, and the wall-clock ratios are rough."
    )


def verdict(budgets: dict, ready: dict) -> str:
    """Which stages miss the aim, and by what."""
    missed = [
        f"{' checkpointing '.join(labels(key))} ({budget.overhead:.1%}, most of it "
        f"{PARTS[budget.largest]}; {ready[key].overhead:.1%} with batches prepared in advance)"
        for key, budget in budgets.items()
        if budget.overhead > TARGET
    ]
    return f"The target is missed by {'; '.join(missed)}." if missed else "The target is met."
