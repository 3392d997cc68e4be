"""What a stage writes at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hypir.encoder import check_encoder_fits, read_encoder
from hypir.train.autoencoder_stage import AutoencoderStage
from hypir.train.encoder_stage import EncoderStage
from hypir.train.loop import run_stage, trainable
from hypir.train.recipe import STAGES
from hypir.train.run import MAKERS, train
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


def test_an_encoder_is_written_for_another_decoder_without_a_step(
    make_recipe, accelerator, tmp_path
):
    first = make_recipe(stages=("encoder",), steps=2, out=str(tmp_path / "first"))
    run_stage(EncoderStage(first, accelerator), first, accelerator)
    file = str(tmp_path / "first" / "small_encoder.safetensors")
    decoder = make_recipe(stages=("autoencoder",), steps=2, out=str(tmp_path / "decoder"))
    run_stage(AutoencoderStage(decoder, accelerator), decoder, accelerator)
    other = str(tmp_path / "decoder" / "autoencoder.safetensors")
    again = make_recipe(
        stages=("encoder",),
        steps=0,
        out=str(tmp_path / "again"),
        encoder_file=file,
        autoencoder_file=other,
    )
    train(again, accelerator)
    one, two = (read_encoder(Path(f)) for f in (file, tmp_path / "again/small_encoder.safetensors"))
    assert all(torch.equal(two.tensors[k], v) for k, v in one.tensors.items())
    assert one.decoder_fingerprint != two.decoder_fingerprint
    check_encoder_fits("it", two, read_tensors(Path(other))[0])
