"""Two processes under accelerate's own launcher, on the CPU (gloo)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from hypir.train.checkpoints import Checkpoints
from tests.train.test_resume import assert_same, without_recipe

ROOT = Path(__file__).resolve().parents[2]
# The launcher's name for several processes on one machine; the script asks for the CPU.
LAUNCH = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCH += ["--num_cpu_threads_per_process", "1"]

SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from hypir.train.loop import run_stage
from hypir.train.recipes import Phase, tiny
from hypir.train.run import MAKERS, make_accelerator

folder = Path({folder!r})
# two pictures a step from one each, then four by accumulation
phases = (Phase(3, 2, 1e-3), Phase(3, 4, 1e-3))
recipe = tiny(
    stages=("adversarial",), adversarial=phases, precision="no", crop=32,
    batch=1, pool=2, workers=0, rank=4, depth=2, warmup=2, checkpoint_every=3,
    ema=0.9,
    out=str(folder / "whole"),
)
halves = replace(recipe, out=str(folder / "halves"))
accelerator = make_accelerator(recipe, cpu=True)
for r in (recipe, replace(halves, adversarial=phases[:1]), halves):
    stage = MAKERS["adversarial"](r, accelerator)
    run_stage(stage, r, accelerator)
    accelerator.free_memory()
state = {{k: p.detach() for k, p in stage.generator.named_parameters() if p.requires_grad}}
torch.save(state, folder / f"generator {{accelerator.process_index}}.pt")
accelerator.end_training()
"""


def test_three_steps_and_three_more_are_six_in_two_processes(tmp_path, free_port):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(root=str(ROOT), folder=str(tmp_path)))
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH]
    command += ["--main_process_port", str(free_port()), str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    states = [
        Checkpoints(tmp_path / name / "checkpoints" / "adversarial", 3).load()
        for name in ("whole", "halves")
    ]
    assert states[0][0] == states[1][0] == 6
    assert states[0][1]["processes"] == 2
    assert_same(*[without_recipe(state) for _, state in states])
    # both processes hold the same weights, and not those that one process alone would give
    weights = [torch.load(tmp_path / f"generator {rank}.pt") for rank in (0, 1)]
    assert_same(*weights)
    saved = states[0][1]["modules"]["generator"]
    assert all(torch.equal(saved[k], v) for k, v in weights[0].items())
