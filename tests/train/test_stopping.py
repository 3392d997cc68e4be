"""Signals, full disks and second runs: nothing is lost, and a sentence says what to do."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from hypir.train import stopping
from hypir.train.loop import run_stage
from hypir.train.run import MAKERS, train
from hypir.train.run_folder import RECIPE_FILE, locked
from hypir.train.schedule import Phase
from hypir.train.stopping import Stopped
from tests.train.test_resume import assert_same, last_state, without_recipe


class Asking:
    """Sends this process signals in the course of a step."""

    def __init__(self, step: int, *signals: int, error: OSError | None = None):
        self._step, self._signals, self._error = step, signals, error

    def __call__(self, recipe, stage, accelerator) -> Asking:
        return self

    def step(self, step: int, values: dict[str, float]) -> None:
        if step == self._step:
            for number in self._signals:
                os.kill(os.getpid(), number)
            if self._error is not None:
                raise self._error

    def validate(self, step: int, stage) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def encoder_run(make_recipe, tmp_path):
    """A run of the encoder stage in its own folder, whose checkpoints are far apart."""

    def make(name: str, **changes):
        settings = {"stages": ("encoder",), "checkpoint_every": 100, **changes}
        return make_recipe(out=str(tmp_path / name), **settings)

    return make


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint_from_which_it_goes_on_to_the_same_bits(
    encoder_run, accelerator, number
):
    whole, stopped = encoder_run("whole"), encoder_run("stopped")
    train(whole, accelerator)
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as caught:
        train(stopped, accelerator, Asking(2, number))
    assert signal.getsignal(number) == before
    name = signal.Signals(number).name
    # the request goes along with the losses of the step after
    assert str(caught.value) == (
        f"stopped by {name} in the encoder stage, step 3 of 6; its checkpoint is written: run the "
        f"same command again to go on"
    )
    assert caught.value.code == 128 + number
    assert last_state(stopped, "encoder")[0] == 3
    assert (Path(stopped.out) / "small_encoder.safetensors").is_file()
    train(stopped, accelerator)
    first, second = last_state(whole, "encoder"), last_state(stopped, "encoder")
    assert first[0] == second[0] == 6
    assert_same(without_recipe(first[1]), without_recipe(second[1]))


def test_the_last_step_is_kept_too_when_the_signal_comes_in_it(encoder_run, accelerator):
    recipe = encoder_run("run", steps=2)
    with pytest.raises(Stopped, match="step 2 of 2; its checkpoint is written"):
        train(recipe, accelerator, Asking(2, signal.SIGTERM))
    assert last_state(recipe, "encoder")[0] == 2


def test_a_second_signal_does_not_wait_but_one_that_is_passed_on_twice_does(
    encoder_run, accelerator, monkeypatch
):
    twice = Asking(2, signal.SIGINT, signal.SIGINT)
    recipe = encoder_run("patient")
    with pytest.raises(Stopped, match="its checkpoint is written"):
        train(recipe, accelerator, twice)
    assert last_state(recipe, "encoder")[0] == 3
    monkeypatch.setattr(stopping, "AGAIN", 0.0)
    recipe = encoder_run("hurried", checkpoint_every=1)
    with pytest.raises(Stopped, match="the same command goes on from the last checkpoint"):
        train(recipe, accelerator, twice)
    assert last_state(recipe, "encoder")[0] == 1


def test_before_the_first_step_a_signal_ends_the_run_at_once(encoder_run, accelerator):
    recipe = encoder_run("run")

    def preparing(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        train(recipe, accelerator, preparing)
    assert not (Path(recipe.out) / "checkpoints").exists()


def test_a_log_that_cannot_be_written_ends_the_run_with_a_checkpoint(encoder_run, accelerator):
    recipe = encoder_run("run")
    full = OSError(28, "No space left on device")
    with pytest.raises(Stopped, match=r"cannot be written .*No space left.* step 3 of 6") as caught:
        train(recipe, accelerator, Asking(2, error=full))
    assert caught.value.code == 1
    assert last_state(recipe, "encoder")[0] == 3


def test_checkpoints_are_written_by_time_as_well(encoder_run, accelerator):
    recipe = encoder_run("run", steps=3, keep=9, checkpoint_minutes=1e-9)
    run_stage(MAKERS["encoder"](recipe, accelerator), recipe, accelerator)
    names = sorted(p.name for p in (Path(recipe.out) / "checkpoints/encoder").glob("*.pt"))
    assert names == [f"step-0000000{i}.pt" for i in (1, 2, 3)]


def _hold(folder: Path, pipe, sleeping: bool = False) -> None:
    try:
        with locked(folder):
            child = os.fork() if sleeping else 1
            if child == 0:
                signal.pause()
            pipe.send(child)
            if sleeping:
                signal.pause()
    except ValueError as error:
        pipe.send(str(error))


def test_one_run_per_folder_by_a_lock_that_dies_with_its_process(tmp_path):
    fork = multiprocessing.get_context("fork")

    def start(*more) -> tuple:
        here, there = fork.Pipe()
        process = fork.Process(target=_hold, args=(tmp_path, there, *more))
        process.start()
        return process, here.recv()

    holder, child = start(True)
    other, message = start()
    other.join()
    assert f"another run (process {holder.pid} on " in message
    assert "wait for its end, or use another --out" in message
    holder.kill()
    holder.join()
    try:
        # a process that reads data may outlive it for a moment, and has no part in the lock
        other, message = start()
        other.join()
        assert message == 1
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_run_that_is_refused_leaves_the_recipe_that_lies_there(encoder_run, accelerator):
    recipe = encoder_run("run", steps=2)
    train(recipe, accelerator)
    file = Path(recipe.out) / RECIPE_FILE
    kept = file.read_text()
    assert json.loads(kept)["seed"] == 0
    with pytest.raises(ValueError, match="holds a run with seed=0, asked is 1"):
        train(recipe.changed(seed=1), accelerator)
    assert file.read_text() == kept
    missing = encoder_run("missing", encoder_file="/nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match="no encoder_file"):
        train(missing, accelerator)
    assert not (Path(missing.out) / RECIPE_FILE).exists()


def test_steps_that_were_made_keep_their_phases_unless_the_user_accepts(
    encoder_run, accelerator, caplog
):
    def with_phases(*phases: Phase, **changes):
        return encoder_run("run", encoder=phases, **changes)

    train(with_phases(Phase(3, 2, 1e-3)), accelerator)
    refused = {
        r"encoder='3x2@0.001' so far, asked is '3x2@0.0001'": (Phase(6, 2, 1e-4),),
        r"asked is '3x4@0.001'": (Phase(4, 4, 1e-3),),
        r"3 steps of encoder, asked are 2": (Phase(2, 2, 1e-3),),
    }
    for message, phases in refused.items():
        with pytest.raises(ValueError, match=message):
            train(with_phases(*phases), accelerator)
    with pytest.raises(ValueError, match=r"data=\['leaves:'\], asked is \['leaves:', 'leaves:'\]"):
        other = with_phases(Phase(4, 2, 1e-3)).changed(data=("leaves:", "leaves:"))
        train(other, accelerator)
    # the same steps, told otherwise, and more
    train(with_phases(Phase(1, 2, 1e-3), Phase(2, 2, 1e-3), Phase(1, 2, 1e-5)), accelerator)
    lower = with_phases(Phase(5, 2, 1e-4), accept_changes=True)
    train(lower, accelerator)
    assert "going on with a run that was made with encoder='3x2@0.001,1x2@1e-05'" in caplog.text
    assert last_state(lower, "encoder")[0] == 5
