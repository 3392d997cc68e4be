"""The plain steps are the steps of the stages, and a step's budget adds up."""

import pytest
import torch
from accelerate.state import AcceleratorState

from hypir.train.engine import make_accelerator
from hypir.train.feed import Feed
from hypir.train.models import load_base
from hypir.train.run import MAKERS
from hypir.train.schedule import Phase
from hypir.train.small_recipe import once
from tools.pages.performance import train_page
from tools.pages.performance.plain_training import KNOWN, PLAIN
from tools.pages.performance.step_budget import Budget, make_budget
from tools.pages.performance.train import state_bytes

RATE = 1e-3


@pytest.fixture
def engine():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield make_accelerator(once(precision="no").engine, cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("name", ["encoder", "adversarial"])
def test_a_plain_step_is_the_step_of_the_stage(name, engine):
    phases = (Phase(1, 2, RATE),)
    sizes = {"crop": 32, "batch": 2, "pool": 0, "workers": 0, "rank": 4, "depth": 2}
    sizes |= {"degradations": ("training",), "scales": (4,)}  # losses well above the rounding
    off = {"noise": 0.0, "texture_drop": 0.0, "random_positions": False, "probe_every": 0}
    given = {"data": ("leaves:",), "encoder": phases, "adversarial": phases, **sizes, **off}
    recipe = once(precision="no", discriminator_rate=5.0, **given, **KNOWN)
    batch = Feed(recipe, engine.device).next()
    stage = MAKERS[name](recipe, engine, load_base(recipe))
    plain = PLAIN[name](recipe, load_base(recipe), engine.device)
    for optimizer in stage.optimizers.values():
        own = 1.0 if optimizer is not stage.optimizers.get("discriminator") else 5.0
        for group in optimizer.param_groups:
            group["lr"] = RATE * own
    found = plain.step(batch)
    expected = stage.step(iter([batch]), 1, 0)
    stage.ema.update()
    assert found == pytest.approx(expected["loss"], rel=1e-5)
    assert set(plain.shadow) == set(stage.ema.shadow)
    for key, value in stage.ema.shadow.items():
        torch.testing.assert_close(plain.shadow[key], value, rtol=1e-4, atol=1e-6)
    assert state_bytes(plain) > sum(v.nbytes for v in plain.shadow.values())


def test_a_budget_counts_rare_parts_with_their_share():
    step = {"step": 1.0, "data": 0.0, "settle": 0.1, "ema": 0.1, "log": 5.0, "whole": 6.3}
    waiting = {**step, "step": 1.6, "data": 0.6, "whole": 6.9}
    rare = {"log": 5.0, "probe": 2.0, "save": 10.0}
    budget = make_budget([step, waiting], rare, {"log": 10, "probe": 0, "save": 100})
    expected = {"work": 0.9, "data": 0.3, "settle": 0.1, "ema": 0.1, "rest": 0.2}
    expected |= {"log": 0.5, "save": 0.1}
    assert budget.seconds == pytest.approx(expected)
    assert budget.overhead == pytest.approx(1 - 0.9 / 2.2)
    assert budget.largest == "log"


def test_the_verdict_names_what_misses_the_target():
    good, bad = Budget({"work": 0.96, "data": 0.04}), Budget({"work": 0.9, "data": 0.1})
    first, second = ("tiny", "encoder", False), ("tiny", "adversarial", True)
    assert train_page.verdict({first: good}, {first: good}) == "The target is met."
    text = train_page.verdict({first: good, second: bad}, {first: good, second: good})
    assert "adversarial checkpointing on (10.0%" in text
    assert "waiting for data" in text and "encoder" not in text
