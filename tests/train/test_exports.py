"""What a stage writes at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hypir.train.loop import run_stage, trainable
from hypir.train.recipes import STAGES
from hypir.train.run import MAKERS
from hypir.weight_files import read_tensors


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_exports_its_averages_and_not_the_last_weights(
    make_recipe, accelerator, tmp_path, name
):
    recipe = make_recipe(stages=(name,), steps=3)
    stage = MAKERS[name](recipe, accelerator)
    run_stage(stage, recipe, accelerator)
    (path,) = stage.export(Path(tmp_path))
    written = list(read_tensors(path)[0].values())

    def holds(tensor: torch.Tensor) -> bool:
        return any(t.shape == tensor.shape and torch.equal(t, tensor) for t in written)

    last = trainable(next(iter(stage.modules.values())))
    moved = {k: a for k, a in stage.ema.shadow.items() if not torch.equal(a, last[k])}
    assert len(moved) > 10
    assert all(holds(average) for average in moved.values())
    assert not any(holds(last[k].detach()) for k in moved)
