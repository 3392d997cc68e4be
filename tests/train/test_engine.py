"""Switches of the engine."""

from __future__ import annotations

import pytest
import torch

from hypir.train.engine import compile_blocks, set_kernels
from hypir.train.models import small_base
from hypir.train.small_recipe import once


@pytest.mark.parametrize("prior", ["sd2", "flux"])
def test_a_compiled_network_keeps_names_weights_and_results(prior):
    base = small_base(prior)
    x = torch.randn(1, base.prior.latent_channels, 8, 8)
    condition = base.text.encode([""], x.device)

    from hypir.train.generator import call_network

    def output():
        t = torch.full((1,), 200.0)
        return call_network(base.prior, base.network, x, t, condition, base.prior.conditions)

    names = list(base.network.state_dict())
    with torch.no_grad():
        expected = output()
        compile_blocks(base.network, backend="eager")
        torch.testing.assert_close(output(), expected)
    assert list(base.network.state_dict()) == names


def test_deterministic_runs_do_not_try_which_convolution_is_fastest():
    kept = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    try:
        set_kernels(once(cudnn_benchmark=True, tf32=False).engine)
        assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.allow_tf32
        set_kernels(once(cudnn_benchmark=True, deterministic=True).engine)
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = kept
