"""Backbones of every kind, frozen, at any size."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F

from hypir.priors import PRIORS
from hypir.train.adversary import accuracy, discriminator_loss
from hypir.train.discriminators import (
    DiffusionBackbone,
    Discriminator,
    ImageBackbone,
    PatchDiscriminator,
    make_discriminator,
)
from hypir.train.loop import trainable
from hypir.train.models import small_base

ANY_SIZE = {"dynamic_img_size": True, "dynamic_img_pad": True}
# timm's small relatives of the published backbones: the same classes, random weights
SMALL = {
    "convnext": ("convnext_atto", {"num_classes": 16}),
    "dino": ("vit_tiny_patch16_224", {"num_classes": 0, **ANY_SIZE}),
    "clip": ("vit_tiny_patch16_224", {"num_classes": 16, **ANY_SIZE}),
}


@pytest.mark.parametrize("kind", SMALL)
def test_image_backbones_judge_several_levels_at_any_size(kind):
    name, options = SMALL[kind]
    backbone = ImageBackbone(timm.create_model(name, pretrained=False, **options))
    judge = Discriminator(backbone, torch.zeros(1, 3, 64, 64), seed=0)
    assert all(name.startswith("heads.") for name in trainable(judge))
    for height, width in ((64, 64), (80, 104)):
        picture = (torch.rand(2, 3, height, width) * 2 - 1).requires_grad_()
        logits = judge(picture, [0, 0])
        assert len(logits) >= 4 and all(len(level) == 2 for level in logits)
        sum(level.sum() for level in logits).backward()
        assert picture.grad.abs().sum() > 0


@pytest.mark.parametrize("prior", PRIORS)
def test_the_diffusion_network_judges_latents(prior):
    base = small_base(prior)
    judge = Discriminator(
        DiffusionBackbone(base), torch.zeros(1, base.prior.latent_channels, 8, 8), 0
    )
    z = torch.randn(2, base.prior.latent_channels, 8, 12, requires_grad=True)
    logits = judge(z, [1, 2])
    assert len(logits) >= 2
    sum(level.sum() for level in logits).backward()
    assert torch.isfinite(z.grad).all() and z.grad.abs().sum() > 0


def test_noise_of_the_diffusion_backbone_follows_from_the_seeds():
    judge = Discriminator(DiffusionBackbone(small_base("sd3")), torch.zeros(1, 16, 8, 8), 0).eval()
    z = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        one, same, other = (judge(z, [seed])[0] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_patches_of_28_px_are_judged_in_pixels_at_any_size():
    judge = PatchDiscriminator(seed=0)
    picture = (torch.rand(1, 3, 64, 96) * 2 - 1).requires_grad_()
    (logits,) = judge(picture, [])
    assert logits.shape == (1, 1, 16, 24) and not judge.sees_latents
    logits[0, 0, 8, 8].backward()
    rows = picture.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 28


def test_patches_without_a_backbone_learn_to_tell_a_repeated_pattern_from_texture():
    judge = PatchDiscriminator(seed=0).train()
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3)
    random = torch.Generator().manual_seed(0)
    mesh = torch.ones(8, 3, 32, 32)
    mesh[..., ::2, 1::2] = mesh[..., 1::2, ::2] = -1
    right = []
    for _ in range(40):
        real = 0.2 * torch.randn(8, 3, 32, 32, generator=random)
        gray = torch.rand(8, 3, 1, 1, generator=random) - 0.5
        fake = 0.2 * mesh + gray  # as much detail
        on_real, on_fake = judge(real, []), judge(fake, [])
        optimizer.zero_grad()
        discriminator_loss(on_real, on_fake, "hinge", 1.0).backward()
        optimizer.step()
        right.append(float(accuracy(on_real, on_fake)))
    assert right[0] < 0.9 and sum(right[-10:]) / 10 > 0.95


def test_a_missing_backbone_is_named_with_a_way_out(make_recipe):
    recipe = make_recipe(discriminator="dino", discriminator_weights="/none.safetensors")
    with pytest.raises(ValueError, match=r"vit_base_patch14_dinov2.*--discriminator-weights"):
        make_discriminator(recipe.adversary, 0, small_base("sd3"))


def test_a_discriminator_learns_to_tell_sharp_from_soft():
    judge = Discriminator(DiffusionBackbone(small_base("sd3")), torch.zeros(1, 16, 8, 8), 0).train()
    optimizer = torch.optim.AdamW(trainable(judge).values(), 5e-3)
    random = torch.Generator().manual_seed(0)
    right = []
    for step in range(30):
        real, fake = torch.randn(2, 8, 16, 8, 8, generator=random)
        fake = F.interpolate(F.avg_pool2d(fake, 2) * 2, scale_factor=2, mode="bilinear")
        logits = judge(torch.cat([real, fake]), list(range(16 * step, 16 * step + 16)))
        on_real, on_fake = [x[:8] for x in logits], [x[8:] for x in logits]
        optimizer.zero_grad()
        discriminator_loss(on_real, on_fake, "bce", 0.8).backward()
        optimizer.step()
        right.append(float(accuracy(on_real, on_fake)))
    assert right[0] < 0.8 and sum(right[-10:]) / 10 > 0.9
