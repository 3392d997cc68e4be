"""Backbones of every kind, frozen, at any size."""

from __future__ import annotations

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

from hypir.priors import PRIORS
from hypir.train.adversary import TIMM_MODELS, Adversary, accuracy, discriminator_loss
from hypir.train.discriminators import (
    DiffusionBackbone,
    Discriminator,
    ImageBackbone,
    PatchDiscriminator,
    gives_embedding,
    load_backbone,
    make_discriminator,
)
from hypir.train.heads import MapHead, VectorHead, load_heads
from hypir.train.loop import load_module_state, module_state, trainable
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


def test_the_published_discriminator_has_its_widths_scales_and_13_01_million_numbers():
    name = TIMM_MODELS["convnext"]
    assert gives_embedding(Adversary())
    with torch.device("meta"):
        backbone = ImageBackbone(timm.create_model(name, pretrained=False), embedding=True)
        judge = Discriminator(backbone, torch.zeros(1, 3, 64, 64), seed=0)
        maps = backbone(torch.zeros(1, 3, 512, 512), [0])
    assert [tuple(m.shape[1:]) for m in maps] == [
        (384, 128, 128),
        (768, 64, 64),
        (1536, 32, 32),
        (1024,),
    ]
    assert backbone.names == ("stages.0", "stages.1", "stages.2")
    kept = [t for k, t in judge.state_dict().items() if k.startswith("heads.")]
    # The released file has a 4x4 blur kernel for each channel of both layers of a map's head.
    blurs = [16 * width for m in maps[:3] for width in (m.shape[1], 512)]
    assert len(kept) + len(blurs) == 38
    assert round((sum(t.numel() for t in kept) + sum(blurs)) / 1e6, 2) == 13.01


LEVELS = {
    "convnext_atto": (("stages.0", "stages.1", "stages.2"), (40, 80, 160, 320)),
    "tf_efficientnet_lite0": (("blocks.1", "blocks.2", "blocks.4"), (24, 40, 112, 1280)),
    "mobilenetv3_small_050": (("blocks.0", "blocks.1", "blocks.3"), (8, 16, 24, 1024)),
    "resnet18": (("layer1", "layer2", "layer3"), (64, 128, 256, 512)),
    "swin_tiny_patch4_window7_224": (("layers.0", "layers.1", "layers.2"), (96, 192, 384, 768)),
    "vit_tiny_patch16_224": ((*(f"blocks.{i}" for i in (2, 5, 8, 11)),), (192,) * 5),
}
"""Names and widths of what is judged, as timm and the papers of these networks have them; the last
is the pooled vector, and not the classes."""


@pytest.mark.parametrize("name", LEVELS)
def test_every_backbone_is_judged_at_a_fourth_an_eighth_and_a_sixteenth_or_at_four_blocks(name):
    names, widths = LEVELS[name]
    with torch.device("meta"):
        backbone = ImageBackbone(timm.create_model(name, pretrained=False))
        features = backbone(torch.zeros(1, 3, 224, 224), [0])
    assert backbone.names == names
    assert tuple(f.shape[1] for f in features) == widths
    maps = features[:-1]
    scales = [224 // m.shape[-1] for m in maps]
    assert scales == ([16] * 4 if name.startswith("vit") else [4, 8, 16])
    assert backbone.stride == (1 if name.startswith("vit") else 2)


def released(head: torch.nn.Module, blur: torch.Tensor | None = None) -> torch.nn.Sequential:
    """A head with random weights in the form of vision-aided GANs, by torch's older spectral norm.

    Independent of hypir.train.heads: a binomial blur of four taps over zeros, then the stride.
    """
    norm = torch.nn.utils.spectral_norm
    leaky = torch.nn.LeakyReLU(0.2)
    if isinstance(head, VectorHead):
        return torch.nn.Sequential(
            norm(torch.nn.Linear(head.inner.in_features, 512)), leaky, norm(torch.nn.Linear(512, 1))
        )

    def blurring(width: int, padding: int) -> torch.nn.Conv2d:
        layer = torch.nn.Conv2d(width, width, 4, padding=padding, groups=width, bias=False)
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        kernel = torch.outer(row, row) if blur is None else blur
        layer.weight.data.copy_(kernel.expand_as(layer.weight))
        return layer

    return torch.nn.Sequential(
        blurring(head.inner.in_channels, 2),
        norm(torch.nn.Conv2d(head.inner.in_channels, 512, 3, 2)),
        leaky,
        blurring(512, 1),
        norm(torch.nn.Conv2d(512, 1, 1, 2)),
    )


def write_released(heads, path, blur=None) -> list[torch.nn.Module]:
    """A file in the layout of the released discriminator, and the modules that it was made of."""
    torch.manual_seed(3)
    modules = [released(head, blur).train() for head in heads]
    tensors = {f"{i}.{k}": v for i, m in enumerate(modules) for k, v in m.state_dict().items()}
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return [m.eval() for m in modules]


def some_heads() -> torch.nn.ModuleList:
    return torch.nn.ModuleList([MapHead(8, 2), MapHead(16, 2), VectorHead(24)])


def test_released_heads_judge_as_they_did_where_they_were_trained(tmp_path):
    heads = some_heads()
    modules = write_released(heads, tmp_path / "D.safetensors")
    load_heads(heads, tmp_path / "D.safetensors")
    inputs = [torch.randn(2, 8, 13, 16), torch.randn(2, 16, 4, 6), torch.randn(2, 24)]
    with torch.no_grad():
        for head, module, x in zip(heads.eval(), modules, inputs, strict=True):
            assert torch.allclose(head(x), module(x), atol=1e-5)
            assert head(x).std() > 0


def test_a_file_of_other_heads_or_another_blur_is_refused(tmp_path):
    write_released(some_heads()[1:], tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"6 layers .* first 512x8x3x3 and 1x512x1x1; found 4"):
        load_heads(some_heads(), tmp_path / "other.safetensors")
    box = torch.full((4, 4), 1 / 16)
    write_released(some_heads(), tmp_path / "box.safetensors", box)
    with pytest.raises(ValueError, match="blurs with other kernels"):
        load_heads(some_heads(), tmp_path / "box.safetensors")


def test_a_discriminator_of_a_run_starts_from_a_file_of_heads(make_recipe, tmp_path):
    # The heads of unet have no stride, so the file has no blurs.
    judge = make_discriminator(make_recipe().adversary, 0, small_base("sd3"))
    file = tmp_path / "D.safetensors"
    state = judge.heads.state_dict()
    wanted = {k: v + 0.01 for k, v in state.items()}
    safetensors.torch.save_file(wanted, file)
    asked = make_recipe(discriminator_file=str(file)).adversary
    got = make_discriminator(asked, 0, small_base("sd3")).heads.state_dict()
    assert all(torch.equal(got[k], v) for k, v in wanted.items())


def test_a_checkpoint_with_heads_of_other_widths_is_refused_in_a_sentence():
    state = module_state(some_heads())
    other = torch.nn.ModuleList([MapHead(16, 2), MapHead(16, 2), VectorHead(24)])
    with pytest.raises(ValueError, match=r"other parameters than this recipe, first '0\.inner"):
        load_module_state(other, state)


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


def test_a_missing_backbone_is_named_with_a_way_out(make_recipe, tmp_path):
    def message(error: type[Exception], **changes) -> str:
        with pytest.raises(error) as caught:
            make_discriminator(make_recipe(**changes).adversary, 0, small_base("sd3"))
        return str(caught.value)

    none = {"discriminator": "dino", "discriminator_weights": "/none.safetensors"}
    text = message(FileNotFoundError, **none)
    assert text == "there is no discriminator_weights at '/none.safetensors'; check the name"
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"classifier.weight": torch.zeros(2)}, other)
    text = message(
        ValueError,
        discriminator="convnext",
        discriminator_model="resnet18",
        discriminator_weights=str(other),
    )
    assert f"the file {str(other)!r} does not hold its weights under timm's names" in text
    assert "choose --discriminator unet or patch" in text and len(text) < 600
    text = message(ValueError, discriminator="convnext", discriminator_model="resnet_18")
    assert "timm knows no model 'resnet_18'" in text


@pytest.mark.parametrize("kind", ["convnext", "dino"])
def test_a_backbone_comes_from_a_file_under_the_names_of_timm(tmp_path, kind):
    name = SMALL[kind][0]
    model = timm.create_model(name, pretrained=False)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), file)
    asked = Adversary(discriminator=kind, discriminator_model=name, discriminator_weights=str(file))
    got = load_backbone(asked).state_dict()
    assert all(torch.equal(got[k], v) for k, v in model.state_dict().items())


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
