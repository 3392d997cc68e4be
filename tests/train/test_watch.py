"""What a run tells while it runs."""

from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hypir.train.engine import describe_device
from hypir.train.log import read_log
from hypir.train.run import train
from hypir.train.schedule import Phase
from hypir.train.trackers import check_trackers
from hypir.train.watch import Watch, describe, images_left


def test_a_run_says_where_it_runs_and_logs_images_per_second(
    make_recipe, accelerator, tmp_path, caplog
):
    caplog.set_level("INFO")
    phases = (Phase(2, 2, 1e-3), Phase(2, 4, 1e-3))
    recipe = make_recipe(stages=("encoder",), encoder=phases, log_every=2)
    train(recipe, accelerator, Watch)
    told = "encoder stage on cpu, float32, 1 process, 2 images at once, 1 then 2 batches per step"
    assert told in caplog.text
    values = read_log(tmp_path / "run" / "log.csv")
    speed, steps = (values["encoder", name] for name in ("images_per_second", "steps_per_second"))
    assert speed[2] == pytest.approx(2 * steps[2], rel=1e-4)
    assert speed[4] == pytest.approx(4 * steps[4], rel=1e-4)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [e.step for e in board.Scalars("encoder/images_per_second")] == [2, 4]


def test_the_time_left_counts_images():
    phases = (Phase(10, 2, 1.0), Phase(10, 8, 1.0))
    assert [images_left(phases, step) for step in (0, 5, 10, 19, 20)] == [100, 90, 80, 8, 0]


def test_half_precision_on_a_cpu_without_it_is_warned_of(make_recipe, accelerator, monkeypatch):
    monkeypatch.setattr("hypir.train.engine._has_bf16", lambda: False)
    recipe = make_recipe(precision="bf16")
    assert any("use --precision no" in line for line in describe(recipe, "encoder", accelerator))
    assert describe_device(accelerator.device, "no") == ("cpu", [])


def test_trackers_that_cannot_be_used_are_refused_before_a_run(make_recipe, accelerator):
    with pytest.raises(ValueError, match=r"trackers must be some of aim, .*wandb, got 'board'"):
        train(make_recipe(trackers=("board",)), accelerator)
    with pytest.raises(ValueError, match="'clearml' is not installed; pip install clearml"):
        check_trackers(("tensorboard", "clearml"))
