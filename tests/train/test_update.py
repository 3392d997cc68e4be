"""What an update costs: memory and reads of the device, whatever the number of its batches."""

from __future__ import annotations

import pytest

from hypir.train.feed import Feed
from hypir.train.plan.live_bytes import LiveBytes
from hypir.train.run import MAKERS

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
