"""Two processes under accelerate's own launcher, on the CPU (gloo): DDP and FSDP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hypir.train.checkpoints import Checkpoints
from hypir.train.recipe import STAGES
from hypir.weight_files import read_tensors
from tests.train.test_resume import assert_same, without_recipe

ROOT = Path(__file__).resolve().parents[2]
# The launcher's name for several processes on one machine; the script asks for the CPU.
LAUNCH = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCH += ["--num_cpu_threads_per_process", "1"]
ENGINES = ("DDP", "FSDP")
Z_IMAGE = {"name": "z_image", "prior": "z_image", "base": "small", "random_positions": False}
CASES = {stage: (stage, {}) for stage in STAGES} | {"z_image": ("adversarial", Z_IMAGE)}
# the decoder's opponent sees pixels
CASES["autoencoder"][1].update(discriminator="patch", autoencoder_gan=0.1)
"""Stage and changes of the recipe, by name."""
every_case = pytest.mark.parametrize("case", CASES)

SCRIPT = """
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from accelerate import DistributedType
from accelerate.state import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor
from hypir.train.loop import run_stage
from hypir.train.recipe import STAGES
from hypir.train.schedule import Phase
from hypir.train.small_recipe import once
from hypir.train.engine import make_accelerator
from hypir.train.run import MAKERS
from hypir.train.sharding import adapt_plugin

sharded = {sharded}
# two pictures a step from one each, then four by accumulation
phases = (Phase(3, 2, 1e-3), Phase(3, 4, 1e-3))
start = once(
    autoencoder=phases, diffusion=phases, encoder=phases, adversarial=phases, precision="no",
    crop=32, batch=1, pool=2, workers=0, rank=4, depth=2, warmup=2, checkpoint_every=3, ema=0.9,
    probe_every=0, export="fp32", gradient_checkpointing=True,
)
accelerator = make_accelerator(start.engine, cpu=True)
if sharded:
    # accelerate itself turns to FSDP on GPUs only; torch's works with gloo as well.
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    adapt_plugin(accelerator)
class Recorder:
    def __init__(self):
        self.lines = []

    def step(self, step, values):
        self.lines.append(values)

    def validate(self, step, stage):
        pass


for case, (name, changes) in {cases!r}.items():
    folder = Path({folder!r}) / case
    recipe = start.changed(stages=(name,), out=str(folder / "whole"), **changes)
    halves = replace(recipe, out=str(folder / "halves"))
    first = halves.changed(**{{name: phases[:1]}})
    for r in (recipe, first, halves):
        stage = MAKERS[name](r, accelerator)
        own = [p for m in stage.modules.values() for p in m.parameters()]
        assert all(isinstance(p, DTensor) == sharded for p in own)
        recorder = Recorder()
        run_stage(stage, r, accelerator, recorder)
        accelerator.free_memory()
        if r is recipe:
            (folder / "log.json").write_text(json.dumps(recorder.lines))
    named = {{n: m.named_parameters() for n, m in stage.modules.items()}}
    state = {{f"{{n}}.{{k}}": p for n, parameters in named.items() for k, p in parameters}}
    state = {{k: p.detach() for k, p in state.items() if p.requires_grad and not sharded}}
    torch.save(state, folder / f"weights {{accelerator.process_index}}.pt")
accelerator.end_training()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, free_port) -> dict[str, Path]:
    """Folder of a run by its engine."""
    folders = {}
    for engine in ENGINES:
        folders[engine] = folder = tmp_path_factory.mktemp(engine)
        script = folder / "run.py"
        script.write_text(
            SCRIPT.format(root=str(ROOT), folder=str(folder), cases=CASES, sharded=engine == "FSDP")
        )
        command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH]
        command += ["--main_process_port", str(free_port()), str(script)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    return folders


def checkpoint(folder: Path, case: str) -> tuple[int, dict]:
    """The last one of a run of six steps."""
    return Checkpoints(folder / "checkpoints" / CASES[case][0], 3).load()


@every_case
@pytest.mark.parametrize("engine", ENGINES)
def test_three_steps_and_three_more_are_six_in_two_processes(runs, engine, case):
    folder = runs[engine] / case
    states = [checkpoint(folder / name, case) for name in ("whole", "halves")]
    assert states[0][0] == states[1][0] == 6
    assert states[0][1]["processes"] == 2
    assert_same(*[without_recipe(state) for _, state in states])


@every_case
def test_both_processes_hold_the_weights_that_were_saved(runs, case):
    folder = runs["DDP"] / case
    weights = [torch.load(folder / f"weights {rank}.pt") for rank in (0, 1)]
    assert weights[0]
    assert_same(*weights)
    modules = checkpoint(folder / "whole", case)[1]["modules"]
    saved = {f"{module}.{k}": v for module, values in modules.items() for k, v in values.items()}
    assert all(torch.equal(saved[name], value) for name, value in weights[0].items())


@every_case
def test_a_model_in_parts_learns_what_a_whole_one_does(runs, case):
    whole, parts = (json.loads((runs[e] / case / "log.json").read_text()) for e in ENGINES)
    assert len(whole) == len(parts) == 6
    # The first step differs by the order of sums only; Adam then moves every weight by the rate,
    # however small its gradient, so that the sign of a rounding error may show.
    for step, (one, other) in enumerate(zip(whole, parts, strict=True)):
        for name in ("loss", "gradient"):
            assert other[name] == pytest.approx(one[name], rel=1e-4 if step == 0 else 2e-2), step


@every_case
def test_a_model_in_parts_leaves_the_same_files(runs, case):
    whole, parts = (runs[engine] / case / "whole" for engine in ENGINES)
    files = sorted(p.name for p in whole.glob("*.safetensors"))
    assert len(files) == 1 and files == sorted(p.name for p in parts.glob("*.safetensors"))
    one, other = (read_tensors(folder / files[0])[0] for folder in (whole, parts))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}
