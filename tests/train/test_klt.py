"""The tiny autoencoder's start: a transform codec in TAESD's layout."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close

from hypir.priors import PRIORS
from hypir.train.architectures import ARCHITECTURES
from hypir.train.architectures.tiny import tiny_vae
from hypir.train.dead_leaves import LeafCanvas
from hypir.train.generator import Encoder, frozen_encoder, latent_weights
from hypir.train.klt import (
    BLOCK,
    Head,
    Transform,
    closed_form,
    closed_form_head,
    prepare_to_learn,
    principal_components,
    start_as_transform,
)
from hypir.train.losses import latent_loss


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    vae = tiny_vae()
    start_as_transform(vae)
    return vae


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    crops = [torch.from_numpy(LeafCanvas(1, i, 64).crop(0).copy()) for i in range(8)]
    return torch.stack(crops).movedim(-1, 1).float() / 127.5 - 1


def test_the_components_are_orthonormal_and_fall():
    rows, _ = principal_components(192)
    flat = rows.double().reshape(192, 192)
    assert_close(flat @ flat.T, torch.eye(192, dtype=torch.float64), atol=1e-5, rtol=0)
    gray = principal_components(3)[1]
    assert (gray[:-1] >= gray[1:] - 1e-6).all()


def test_the_layers_of_the_encoder_compute_what_its_closed_form_does(vae, pixels):
    with torch.no_grad():
        assert_close(vae.encoder(pixels), closed_form(vae)(pixels), atol=1e-4, rtol=0)


def test_the_components_do_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    one = principal_components(16)[0]
    try:
        torch.set_num_threads(4)
        assert_close(principal_components(16)[0], one, atol=1e-5, rtol=0)
    finally:
        torch.set_num_threads(threads)


def test_sixteen_numbers_give_back_a_block_as_well_as_its_projection(vae, pixels):
    rows, deviations = principal_components(16)
    z = closed_form(vae)(pixels)
    blocks = ((pixels + 1) / 2).unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)
    blocks = blocks.permute(0, 2, 3, 4, 5, 1).reshape(-1, 192)
    flat = rows.reshape(16, 192)
    codes = z.movedim(1, -1).reshape(-1, 16) * deviations
    kept = codes @ flat + 0.5 * (flat.sum(1) @ flat)
    far = (codes.abs() > 3 * deviations).any(dim=1)  # may be clipped
    want = blocks @ flat.T @ flat
    assert_close(kept[~far], want[~far], atol=1e-4, rtol=0)
    assert float(far.float().mean()) < 0.3


def test_latents_of_made_up_pictures_are_about_normal(vae, pixels):
    z = closed_form(vae)(pixels)
    assert z.mean(dim=(0, 2, 3)).abs().max() < 1
    assert 0.2 < float(z.std(dim=(0, 2, 3)).min()) and float(z.std(dim=(0, 2, 3)).max()) < 2


def test_the_closed_form_is_used_until_the_encoder_is_trained(vae, pixels):
    prior = PRIORS["sd3"]
    assert isinstance(frozen_encoder(vae, prior), Transform)
    torch.manual_seed(1)
    other = tiny_vae()
    start_as_transform(other)
    with torch.no_grad():
        other.encoder.layers[13].conv[-1].weight.add_(0.01)
    assert closed_form(other) is None
    assert isinstance(frozen_encoder(other, prior), Encoder)
    assert isinstance(frozen_encoder(ARCHITECTURES["sd3"].small_vae(), prior), Encoder)


def test_the_error_of_latents_is_that_of_the_pixels_which_they_stand_for(vae, pixels):
    encoder = closed_form(vae)
    rows, deviations = principal_components(16)
    a = encoder(pixels)
    b = a + 0.1 * torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    synthesis = (rows * deviations[:, None, None, None]).movedim(-1, 1)
    shown = [torch.nn.functional.conv_transpose2d(z, synthesis, stride=BLOCK) * 2 for z in (a, b)]
    want = (shown[0] - shown[1]).square().mean()
    assert_close(latent_loss(a, b, latent_weights(encoder, 16)), want, rtol=1e-4, atol=0)


def test_latents_of_other_encoders_count_alike():
    weights = latent_weights(Encoder(ARCHITECTURES["sd3"].small_vae(), PRIORS["sd3"]), 16)
    assert_close(weights, torch.full((16,), 1 / 16))


@pytest.fixture
def learner(vae):
    """An encoder that is ready for training, apart from the module's own."""
    other = copy.deepcopy(vae)
    prepare_to_learn(other.encoder)
    return other


def test_an_encoder_that_is_ready_for_training_still_is_the_transform(vae, learner, pixels):
    with torch.no_grad():
        assert_close(learner.encoder(pixels), vae.encoder(pixels), atol=1e-5, rtol=0)


def test_gray_lies_at_the_threshold_of_every_unit_that_is_trained(learner):
    x = torch.full((1, 3, 64, 64), 0.5)
    with torch.no_grad():
        for layer in learner.encoder.layers:
            if hasattr(layer, "conv") and x.shape[-1] <= 16:
                assert layer.conv[0](x)[..., 2:-2, 2:-2].abs().max() < 1e-4
            x = layer(x)


def test_the_head_is_computed_in_closed_form_and_not_trained(learner, pixels):
    encoder = Encoder(learner, PRIORS["sd3"]).learn()
    assert isinstance(encoder.head, Head)
    with torch.no_grad():
        for layer in encoder.encoder.layers[7:]:  # as if it had been trained
            for parameter in layer.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    assert_close(encoder(pixels), encoder.encoder(pixels), atol=1e-4, rtol=1e-4)
    encoder(pixels).square().mean().backward()
    for name, parameter in encoder.named_parameters():
        layer = int(name.split(".")[2])
        assert (parameter.grad is not None) == (layer >= 7), name


def test_a_head_that_was_trained_is_computed_layer_by_layer(vae, learner):
    assert closed_form_head(vae.encoder) is None  # its free channels are random
    with torch.no_grad():
        learner.encoder.layers[3].conv[-1].weight.add_(0.01)
    assert closed_form_head(learner.encoder) is None
    encoder = Encoder(learner, PRIORS["sd3"]).learn()
    assert all(p.requires_grad for p in encoder.parameters())
