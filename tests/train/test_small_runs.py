"""The exported files of a small run, put into an untouched base model, give what the run gives."""

from __future__ import annotations

import pytest
import torch

from hypir.priors import PRIORS
from hypir.train.generator import Encoder, decode
from hypir.train.models import load_vae_part, small_base
from hypir.weights import read_weights
from tests.nodes.small_models import merge
from tests.train.small_runs import make_small_run


@pytest.mark.parametrize("prior", PRIORS)
def test_files_on_an_untouched_base_give_what_the_run_gives(prior, tmp_path):
    run = make_small_run(prior, tmp_path, base=small_base(prior))
    fresh = small_base(prior)
    load_vae_part(fresh.vae, run.encoder_file)
    # In float64: random networks enlarge what the order of sums leaves in float32, some a lot.
    for module in (run.generator, run.encoder, run.base.vae, fresh.network, fresh.vae):
        module.double()
    lora = read_weights(run.lora_file).lora
    merge(fresh.network, {k: (up.double(), down.double()) for k, (up, down) in lora.items()})
    pixels = torch.rand(1, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        condition = fresh.text.encode([""], pixels.device)
        generator = type(run.generator)(
            fresh.prior,
            fresh.network,
            fresh.prior.timestep,
            fresh.prior.timestep,
            fresh.prior.input_scale,
        )
        z = Encoder(fresh.vae, fresh.prior)(pixels)
        x0 = generator(z, condition.tokens, condition.pooled)
        expected = decode(fresh.vae, fresh.prior, x0)
    assert torch.allclose(run.restore(pixels), expected, atol=1e-8)
    with torch.no_grad():
        untrained = Encoder(small_base(prior).vae.double(), fresh.prior)
        plain = generator(untrained(pixels), condition.tokens, condition.pooled)
    assert not torch.allclose(plain, x0, atol=1e-2)
    rich = run.restore(pixels, torch.tensor([0.9]))
    assert not torch.equal(rich, run.restore(pixels, torch.tensor([0.2])))
