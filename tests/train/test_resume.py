"""Three steps, and three more after a restart, are six steps, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hypir.train.checkpoints import Checkpoints
from hypir.train.engine import make_accelerator
from hypir.train.loop import run_stage
from hypir.train.order import Order
from hypir.train.recipe import OWNERS, STAGES
from hypir.train.run import MAKERS, train
from hypir.train.schedule import Phase
from hypir.weight_files import read_tensors

ROOT = Path(__file__).resolve().parents[2]


def last_state(recipe, stage: str) -> tuple[int, dict]:
    return Checkpoints(Path(recipe.out) / "checkpoints" / stage, recipe.saving.keep).load()


def assert_same(a, b, where: str = "state") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def without_recipe(state: dict) -> dict:
    return {k: v for k, v in state.items() if k != "recipe"}


RUNS = [("tiny", stage) for stage in STAGES] + [("z_image", stage) for stage in STAGES[1:]]


@pytest.mark.parametrize(("prior", "stage"), RUNS)
def test_three_steps_and_three_more_are_six(make_recipe, accelerator, tmp_path, prior, stage):
    whole = make_recipe(prior, out=str(tmp_path / "whole"), stages=(stage,))
    halves = make_recipe(prior, out=str(tmp_path / "halves"), stages=(stage,))
    train(whole, accelerator)
    train(halves.changed(**{stage: (Phase(3, 2, 1e-3),)}), accelerator)
    assert last_state(halves, stage)[0] == 3
    train(halves, accelerator)
    step, state = last_state(whole, stage)
    assert step == 6
    assert_same(without_recipe(state), without_recipe(last_state(halves, stage)[1]))
    for file in Path(whole.out).glob("*.safetensors"):
        assert_same(read_tensors(file)[0], read_tensors(Path(halves.out) / file.name)[0])


def test_a_run_resumes_in_the_middle_of_its_phases_and_of_accumulation(
    make_recipe, accelerator, tmp_path
):
    phases = (Phase(2, 2, 1e-3), Phase(2, 4, 1e-4))
    whole = make_recipe(out=str(tmp_path / "whole"), adversarial=phases)
    halves = make_recipe(out=str(tmp_path / "halves"), adversarial=phases)
    train(whole, accelerator)
    train(halves.changed(adversarial=(Phase(2, 2, 1e-3), Phase(1, 4, 1e-4))), accelerator)
    train(halves, accelerator)
    first, second = last_state(whole, "adversarial"), last_state(halves, "adversarial")
    assert_same(without_recipe(first[1]), without_recipe(second[1]))


def test_bfloat16_with_checkpointing_of_activations_resumes_as_well(make_recipe, tmp_path):
    settings = {"precision": "bf16", "gradient_checkpointing": True, "steps": 4}
    whole = make_recipe(out=str(tmp_path / "whole"), checkpoint_every=2, **settings)
    halves = make_recipe(out=str(tmp_path / "halves"), **settings)
    accelerator = make_accelerator(whole.engine, cpu=True)
    train(whole, accelerator)
    train(halves.changed(adversarial=(Phase(2, 2, 1e-3),)), accelerator)
    train(halves, accelerator)
    first, second = last_state(whole, "adversarial"), last_state(halves, "adversarial")
    assert_same(without_recipe(first[1]), without_recipe(second[1]))
    parameters = first[1]["modules"]["generator"].values()
    assert all(p.dtype == torch.float32 for p in parameters)


class Dies:
    """Ends a run in the middle of its third step's report, without a word to it."""

    def __init__(self, *_):
        pass

    def step(self, step, values):
        if step == 3:
            raise RuntimeError("the power is gone")

    def close(self):
        pass


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_resumes_to_the_same_bits_with_every_precision_of_its_exported_files(
    make_recipe, accelerator, tmp_path, stage
):
    settings = {"stages": (stage,), "steps": 4, "checkpoint_every": 2}
    whole = make_recipe(out=str(tmp_path / "whole"), **settings)
    train(whole, accelerator)
    expected = without_recipe(last_state(whole, stage)[1])
    for export in ("fp16", "bf16"):
        killed = make_recipe(out=str(tmp_path / export), export=export, **settings)
        with pytest.raises(RuntimeError, match="power is gone"):
            train(killed, accelerator, Dies)
        assert last_state(killed, stage)[0] == 2
        train(killed, accelerator)
        assert_same(expected, without_recipe(last_state(killed, stage)[1]))


def test_a_later_stage_reads_what_an_earlier_one_made_before_it_was_rounded(
    make_recipe, accelerator, tmp_path
):
    states = []
    for export in ("fp32", "fp16"):
        recipe = make_recipe(out=str(tmp_path / export), export=export, stages=STAGES, steps=1)
        train(recipe, accelerator)
        states.append(without_recipe(last_state(recipe, "adversarial")[1]))
    assert_same(*states)
    exact = tmp_path / "fp16" / "checkpoints" / "autoencoder.safetensors"
    assert exact.is_file()
    train(recipe.changed(export="fp32"), accelerator)
    assert not exact.exists()  # it would be as the exported one
    one, other = (
        read_tensors(tmp_path / f / "autoencoder.safetensors")[0] for f in ("fp32", "fp16")
    )
    assert_same(one, other)


def test_another_number_of_processes_goes_on_and_says_what_differs(
    make_recipe, accelerator, caplog
):
    recipe = make_recipe(stages=("encoder",), steps=2)
    train(recipe, accelerator)
    checkpoints = Checkpoints(Path(recipe.out) / "checkpoints" / "encoder", 3)
    step, state = checkpoints.load()
    two = Order(2)  # as if two processes had made it, of one picture each
    checkpoints.save(step, {**state, "processes": 2, "order": two.state()})
    more = recipe.changed(encoder=(Phase(4, 2, 1e-3),), batch=1)
    more = more.changed(accept_changes=True)
    train(more, accelerator)
    assert "made by 2 processes, now there are 1" in caplog.text
    assert "every picture comes, but in another order" in caplog.text
    step, state = last_state(more, "encoder")
    order = state["order"]
    assert step == 4 and order["processes"] == 1 and order["since"] == 2
    # two pools of four pictures, and the rest of two blocks of twelve after two pictures of each
    assert len(order["waiting"]) == 24 - 2 * 2 and order["first_block"] == 2


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from hypir.train.loop import run_stage
from hypir.train.schedule import Phase
from hypir.train.small_recipe import once
from hypir.train.engine import make_accelerator
from hypir.train.run import MAKERS
class Watch:
    def step(self, step, values):
        if step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
    def validate(self, step, stage):
        pass
recipe = once(**eval({fields!r}, {{"Phase": Phase}}))
accelerator = make_accelerator(recipe.engine, cpu=True)
run_stage(MAKERS["encoder"](recipe, accelerator), recipe, accelerator, Watch())
"""


def test_a_killed_run_goes_on_from_its_last_checkpoint(make_recipe, accelerator, tmp_path):
    whole = make_recipe(out=str(tmp_path / "whole"), stages=("encoder",))
    killed = make_recipe(out=str(tmp_path / "killed"), stages=("encoder",))
    fields = repr({n: getattr(getattr(killed, g) if g else killed, n) for n, g in OWNERS.items()})
    script = KILLED.format(root=str(ROOT), fields=fields)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert last_state(killed, "encoder")[0] == 3
    train(whole, accelerator)
    train(killed, accelerator)
    first, second = last_state(whole, "encoder"), last_state(killed, "encoder")
    assert first[0] == second[0] == 6
    assert_same(without_recipe(first[1]), without_recipe(second[1]))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    make_recipe, accelerator, tmp_path, caplog
):
    whole = make_recipe(out=str(tmp_path / "whole"), stages=("encoder",))
    hurt = make_recipe(out=str(tmp_path / "hurt"), stages=("encoder",))
    train(whole, accelerator)
    train(hurt, accelerator)
    newest = Path(hurt.out) / "checkpoints" / "encoder" / "step-00000006.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    stage = MAKERS["encoder"](hurt, accelerator)
    assert run_stage(stage, hurt, accelerator) == 3
    assert "step-00000006.pt is damaged; using the previous" in caplog.text
    first, second = last_state(whole, "encoder"), last_state(hurt, "encoder")
    assert_same(without_recipe(first[1]), without_recipe(second[1]))


def test_when_all_checkpoints_are_damaged_it_says_so_and_does_not_begin_anew(
    make_recipe, accelerator
):
    recipe = make_recipe(stages=("encoder",), steps=1)
    train(recipe, accelerator)
    file = Path(recipe.out) / "checkpoints" / "encoder" / "step-00000001.pt"
    file.write_bytes(file.read_bytes()[: os.path.getsize(file) // 2])
    with pytest.raises(ValueError, match=r"all 1 checkpoints in .* are damaged"):
        train(recipe, accelerator)


def test_only_the_last_checkpoints_are_kept(make_recipe, accelerator):
    recipe = make_recipe(stages=("encoder",), steps=5, checkpoint_every=1, keep=2)
    train(recipe, accelerator)
    files = sorted(p.name for p in (Path(recipe.out) / "checkpoints" / "encoder").iterdir())
    kept = ["step-00000004", "step-00000005"]
    assert files == sorted(f"{name}.{end}" for name in kept for end in ("pt", "sha256"))


def test_a_run_of_a_version_with_fewer_fields_goes_on(make_recipe, accelerator):
    recipe = make_recipe(stages=("encoder",), steps=3)
    train(recipe, accelerator)
    checkpoints = Checkpoints(Path(recipe.out) / "checkpoints" / "encoder", recipe.saving.keep)
    step, state = checkpoints.load()
    del state["recipe"]["bands"], state["recipe"]["ema"]  # at its default, and not
    checkpoints.save(step, state)
    with pytest.raises(ValueError, match=r"holds a run with ema=0.999, asked is 0.9"):
        train(recipe, accelerator)
    state["recipe"]["ema"] = recipe.schedule.ema
    checkpoints.save(step, state)
    train(recipe.changed(encoder=(Phase(4, 2, 1e-3),)), accelerator)
    assert last_state(recipe, "encoder")[0] == 4


def test_a_checkpoint_of_an_earlier_version_is_refused(make_recipe, accelerator):
    recipe = make_recipe(stages=("encoder",), steps=3)
    train(recipe, accelerator)
    checkpoints = Checkpoints(Path(recipe.out) / "checkpoints" / "encoder", 3)
    step, state = checkpoints.load()
    kept = (ROOT / "tests" / "data" / "recipe_format_1.json").read_text()
    checkpoints.save(step, {**state, "recipe": json.loads(kept)})
    with pytest.raises(ValueError, match=r"a run of an earlier version \(format 1"):
        train(recipe, accelerator)


def test_another_recipe_does_not_go_on_with_the_run_of_this_one(make_recipe, accelerator):
    train(make_recipe(stages=("encoder",), steps=1), accelerator)
    with pytest.raises(ValueError, match="holds a run with seed=0, asked is 1"):
        train(make_recipe(stages=("encoder",), steps=2, seed=1), accelerator)


FULL_DISK = """
import resource, sys, torch
sys.path.insert(0, {root!r})
from pathlib import Path
from hypir.train.checkpoints import Checkpoints
checkpoints = Checkpoints(Path({folder!r}), 3)
checkpoints.save(1, {{"x": torch.zeros(10)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    checkpoints.save(2, {{"x": torch.zeros(1_000_000)}})
except OSError as error:
    print(error)
print(checkpoints.load()[0])
"""


def test_a_full_disk_keeps_the_last_checkpoint_and_says_what_to_do(tmp_path):
    # a limit on the size of files fails as a full disk does: in the middle of a write
    script = FULL_DISK.format(root=str(ROOT), folder=str(tmp_path))
    output = subprocess.check_output([sys.executable, "-c", script], text=True)
    message, step = output.strip().splitlines()
    assert step == "1"
    assert "the checkpoint of step 2 cannot be written" in message
    assert "the last one is of step 1" in message and "free some disk space" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000001.pt",
        "step-00000001.sha256",
    ]
