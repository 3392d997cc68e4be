"""`nox -s bench -- train`: both stages' steps in the loop of hypir.train and written plainly.

Three ways take turns: the loop as it is, the loop with batches that lie ready, and
plain_training.py. Parts of a step that come every so many steps are counted with their share.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from hypir.priors import PRIORS
from hypir.train import loop, update
from hypir.train.architectures import ARCHITECTURES, Condition
from hypir.train.engine import make_accelerator
from hypir.train.feed import Batch, Feed
from hypir.train.models import Base, Text, load_base
from hypir.train.plan.live_bytes import LiveBytes
from hypir.train.recipe import Recipe
from hypir.train.recipes import sd2
from hypir.train.run import MAKERS
from hypir.train.schedule import Phase
from hypir.train.small_recipe import once
from hypir.train.watch import Watch
from tools.pages.performance import models, report
from tools.pages.performance.clock import now
from tools.pages.performance.plain_training import KNOWN, PLAIN
from tools.pages.performance.step_budget import Run
from tools.pages.performance.train_page import page

log = logging.getLogger(__name__)

WARM = 3
STAGES = ("encoder", "adversarial")


class Ready:
    """A feed whose batches lie ready."""

    unreadable: dict[str, str] = {}

    def __init__(self, batches: list[Batch]):
        self._batches, self._count = batches, 0

    def next(self) -> Batch:
        self._count += 1
        return self._batches[self._count % len(self._batches)]


class Marks:
    """The loop's watcher: the run's own one, and the ends of the steps."""

    def __init__(self, watch: Watch, times: dict[str, float], run: Run):
        self._watch, self._times, self._run = watch, times, run
        self._then, self._cpu = now(), time.process_time()

    def step(self, step: int, values: dict[str, float]) -> None:
        start, cpu = now(), time.process_time()
        self._watch.step(step, values)
        end = now()
        self._times["log"] = end - start
        if step > WARM:
            self._run.parts.append({**self._times, "whole": end - self._then})
            self._run.cpu.append(cpu - self._cpu)
        elif "probe" in self._times:
            self._run.rare["probe"] = self._times["probe"]
        self._times.clear()
        self._then, self._cpu = now(), time.process_time()

    def validate(self, step: int, stage: loop.Stage) -> None:
        """Never asked for."""

    def close(self) -> None:
        self._watch.close()


def run_loop(name: str, recipe: Recipe, base: Base, cpu: bool, ready: list[Batch] | None) -> Run:
    """Steps of a stage in the loop, timed where the parts are called."""
    run, times = Run(), {}
    with tempfile.TemporaryDirectory() as out, ExitStack() as stack:
        recipe = replace(recipe, out=out)
        accelerator = make_accelerator(recipe.engine, cpu)
        stage = MAKERS[name](recipe, accelerator, base)
        owners = [(loop.Feed, "next", "data"), (stage.ema, "update", "ema"), (loop, "save", "save")]
        owners += [(update, "settle", "settle")]
        if ready is not None:
            stack.enter_context(patch.object(loop, "Feed", lambda *_, **__: Ready(ready)))
            owners = owners[1:]
        if name == "adversarial":
            owners.append((stage, "_probe", "probe"))
        stage.step = second_measured(stage.step, run, cpu)
        owners.append((stage, "step", "step"))
        for owner, attribute, part in owners:
            timed = add_time(getattr(owner, attribute), times, part)
            stack.enter_context(patch.object(owner, attribute, timed))
        watch = Watch(recipe, stage, accelerator)
        watch._bar.disable = True
        marks = Marks(watch, times, run)
        loop.run_stage(stage, recipe, accelerator, marks)
        marks.close()
        run.rare["save"] = times["save"]
        run.rare["log"] = statistics.median(p["log"] for p in run.parts)
        run.state = state_bytes(stage)
    return run


def run_plain(name: str, recipe: Recipe, base: Base, device: torch.device, batches: list) -> Run:
    """The same steps, written plainly."""
    run = Run()
    plain = PLAIN[name](recipe, base, device)
    step = second_measured(lambda batch: plain.step(copied(batch)), run, device.type == "cpu")
    for i in range(recipe.phases(name)[0].steps):
        start, cpu = now(), time.process_time()
        step(batches[i % len(batches)])
        if i >= WARM:
            run.parts.append({"whole": now() - start})
            run.cpu.append(time.process_time() - cpu)
    run.state = state_bytes(plain)
    return run


def add_time(call: Callable, times: dict[str, float], part: str) -> Callable:
    """The call, its seconds added to a part."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = now()
        try:
            return call(*args, **kwargs)
        finally:
            times[part] = times.get(part, 0.0) + now() - start

    return timed


def second_measured(step: Callable, run: Run, cpu: bool) -> Callable:
    """The call; its second time, when the optimizers have their state, gives run.peak."""
    calls = 0

    def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != 2:
            return step(*args)
        with peak_memory(run, cpu):
            return step(*args)

    return counted


@contextmanager
def peak_memory(run: Run, cpu: bool) -> Iterator[None]:
    """Highest sum of tensors made inside: activations, gradients, the batch."""
    if not cpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield
        run.peak = torch.cuda.max_memory_allocated() - before
    else:
        with LiveBytes() as tracked:
            yield
        run.peak = tracked.peak


def state_bytes(owner: Any) -> int:
    """Weights, optimizers and averages that a stage holds."""
    found: dict[int, int] = {}

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, nn.Module):
            add([*value.parameters(), *value.buffers()])
        elif isinstance(value, Mapping):
            add(list(value.values()))
        elif isinstance(value, list | tuple):
            for entry in value:
                add(entry)
        elif hasattr(value, "param_groups"):
            add(value.state)
        elif hasattr(value, "shadow"):
            add(value.shadow)
        elif hasattr(value, "optimizer"):
            add(value.optimizer)

    add(list(vars(owner).values()))
    return sum(found.values())


def copied(batch: Batch) -> Batch:
    """The batch anew, so that its bytes count as those of the loop do."""
    return replace(batch, target=batch.target.clone(), degraded=batch.degraded.clone())


class RandomText(Text):
    """77 tokens of unit variance for every caption, as many as SD2's text encoder gives."""

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        tokens = models.context().to(device)
        return Condition(tokens.expand(len(captions), -1, -1), None)


def full_sd2() -> Base:
    """SD2.1 in full size with random weights in bf16."""
    unet, vae = (make(dtype=torch.bfloat16) for make in (models.make_unet, models.make_vae))
    text = RandomText(ARCHITECTURES["sd2"], ARCHITECTURES["sd2"].text_widths(unet))
    return Base(PRIORS["sd2"], unet, vae, text)


def compare(
    name: str, recipe: Recipe, make_base: Callable[[Recipe], Base], cpu: bool, rounds: int
) -> dict[str, Run]:
    """The three ways in turn; the steps of all rounds together."""
    AcceleratorState._reset_state(reset_partial_state=True)
    device = make_accelerator(recipe.engine, cpu).device
    feed = Feed(recipe.changed(pool=0, workers=0), device)
    batches = [feed.next() for _ in range(2)]
    ways = {
        "loop": lambda: run_loop(name, recipe, make_base(recipe), cpu, None),
        "ready": lambda: run_loop(name, recipe, make_base(recipe), cpu, batches),
        "plain": lambda: run_plain(name, recipe, make_base(recipe), device, batches),
    }
    runs: dict[str, Run] = {}
    for _ in range(rounds):
        for way, measure in ways.items():
            found = measure()
            gc.collect()
            if way in runs:
                runs[way].parts += found.parts
                runs[way].cpu += found.cpu
            runs.setdefault(way, found)
    return runs


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser("nox -s bench -- train", description=__doc__)
    parser.add_argument("--crop", type=int, default=64, help="px, of tiny")
    parser.add_argument("--batch", type=int, default=4, help="of tiny")
    parser.add_argument("--steps", type=int, default=6, help="that count, per round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of tiny; data have their own")
    asked = parser.parse_args(options)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    steps = WARM + asked.steps
    sizes = {"crop": asked.crop, "batch": asked.batch, "pool": 2 * asked.batch}
    recipe = once(precision="no", **sizes, **KNOWN)
    threads = torch.get_num_threads()
    torch.set_num_threads(asked.threads)
    results = measured("tiny", recipe, load_base, steps, asked.rounds, cpu=True)
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        recipe = sd2(crop=512, batch=8, pool=32, workers=8, lpips=0.0, pyramid=2.0)
        recipe = recipe.changed(discriminator="unet")
        results |= measured("sd2", recipe, lambda _: full_sd2(), steps, asked.rounds, cpu=False)
    text = page(results, load, asked)
    log.info("%s", text)
    report.write("train", text)


def measured(
    title: str, recipe: Recipe, make_base: Callable, steps: int, rounds: int, cpu: bool
) -> dict[tuple[str, str, bool], tuple[Recipe, dict[str, Run]]]:
    """Every stage with and without gradient checkpointing, where it has any."""
    results = {}
    for name in STAGES:
        for checkpointing in (False, True):
            if checkpointing and name == "encoder" and recipe.model.base == "tiny":
                continue  # its autoencoder has nothing to checkpoint
            rate = recipe.phases(name)[0].lr
            changes = {name: (Phase(steps, recipe.data.batch, rate),), "data": ("leaves:",)}
            changes |= {"warmup": 0, "log_every": 1, "gradient_checkpointing": checkpointing}
            changes |= {"vae_checkpointing": checkpointing}
            log.info("%s, %s stage, checkpointing %s", title, name, checkpointing)
            given = recipe.changed(**changes)
            results[title, name, checkpointing] = (
                recipe,
                compare(name, given, make_base, cpu, rounds),
            )
    return results
