"""What an update costs: memory and reads of the device, whatever the number of its batches."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hypir.train import update
from hypir.train.feed import Batch, Feed
from hypir.train.plan.engine import MetaEngine, MetaKernels
from hypir.train.plan.live_bytes import LiveBytes
from hypir.train.run import MAKERS
from hypir.train.weightless import without_weights

OPPOSED = {
    "autoencoder": {"discriminator": "patch", "autoencoder_gan": 0.1},
    "adversarial": {"discriminator": "patch"},
}


@pytest.mark.parametrize("name", OPPOSED)
def test_memory_is_flat_in_the_pictures_of_a_step(make_recipe, accelerator, name):
    recipe = make_recipe(stages=(name,), crop=64, pool=0, **OPPOSED[name])
    stage = MAKERS[name](recipe, accelerator)
    batch = Feed(recipe, accelerator.device).next()
    stage.step(iter([batch]), 1, 0)
    peaks = []
    for count in (2, 8):
        with LiveBytes() as tracked:
            stage.step(iter([batch] * count), count, 1)
        peaks.append(tracked.peak)
    kept_pair = batch.target.nbytes + batch.degraded.nbytes
    assert peaks[1] - peaks[0] < kept_pair / 2


def test_every_batch_is_priced_by_the_discriminator_before_the_step(make_recipe, accelerator):
    recipe = make_recipe(pool=0, discriminator="patch")
    stage = MAKERS["adversarial"](recipe, accelerator)
    batch = Feed(recipe, accelerator.device).next()
    once = stage.step(iter([batch]), 1, 0)
    stage = MAKERS["adversarial"](recipe, accelerator)
    thrice = stage.step(iter([batch] * 3), 3, 0)
    # the network draws by number, so three times the same batch is that batch
    assert thrice["gan"] == pytest.approx(once["gan"], rel=1e-6)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for the device: reads of it, and copies that block.

    On the meta device nothing can be read at all, which torch refuses.
    """

    def __init__(self):
        super().__init__()
        self.blocking: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func)
        if name.startswith("aten._to_copy") and not kwargs.get("non_blocking"):
            if kwargs.get("device", args[0].device) != args[0].device:
                self.blocking.append(name)
        if name.startswith("aten.copy_") and args[0].device != args[1].device:
            if len(args) < 3 or not args[2]:
                self.blocking.append(name)
        return func(*args, **kwargs)


WAITS = [("autoencoder", "tiny"), ("diffusion", "tiny"), ("adversarial", "tiny")]
WAITS += [("encoder", "sd2"), ("adversarial", "flux")]


@pytest.mark.parametrize(("name", "prior"), WAITS)
def test_the_host_waits_once_a_step(make_recipe, monkeypatch, name, prior):
    changes = {"discriminator": "unet", "richness_spread": 0.1}
    recipe = make_recipe(prior, stages=(name,), posterior="sample", noise_off=0.0, **changes)
    engine = MetaEngine("no")
    reads = []

    def read(accelerator, sums, count, norms):
        reads.append({**sums, **norms})  # of these numbers settle makes one tensor and reads it
        return {}

    monkeypatch.setattr(update, "settle", read)
    with without_weights(), MetaKernels(), engine.recomputing():
        stage = MAKERS[name](recipe, engine)
        picture = torch.zeros(2, 3, 32, 32, device="meta")
        batch = Batch(picture, picture.clone(), ["", "a cat"], [0, 1], picture[:, 0, 0, 0])
        with Waits() as waits:
            stage.step(iter([batch] * 2), 2, 1)
            stage.ema.update()
    assert not waits.blocking
    assert len(reads) == 1 and all(value.is_meta for value in reads[0].values())
