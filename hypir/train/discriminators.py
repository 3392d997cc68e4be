"""Discriminators: a frozen backbone that sees the picture, light heads that judge its features.

As published for SD2: heads with spectral norm on several levels of a CLIP ConvNeXt, and on its
pooled embedding. The others are those of the paper's ablation: DINO, CLIP, and the diffusion
network's own features. All take any size.

PatchDiscriminator has no backbone: a small convolutional network that learns from nothing, as those
of Isola et al. 2017, with spectral norm (Miyato et al. 2018). It is for the decoder of the tiny
recipe, where no pretrained network is at hand, and sees pixels at their full size.
"""

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .adversary import TIMM_MODELS, Adversary
from .architectures import ARCHITECTURES, Condition
from .generator import call_network
from .models import Base, load_network

HEAD_WIDTH = 512  # as published
PATCH_LAYERS = ((32, 1), (64, 2), (96, 2), (96, 1), (1, 1))
"""Channels and strides of PatchDiscriminator; the sides of its kernels are 3 and 4 px."""
UNET_TIMESTEPS = (20, 400)
"""Noise levels at which the diffusion network looks; higher ones hide texture."""


class Discriminator(nn.Module):
    """Backbone and heads; only the heads are trained."""

    def __init__(self, backbone: nn.Module, example: Tensor, seed: int):
        """`example`: an input of the backbone, from which the heads take their widths."""
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        with torch.no_grad():
            features = backbone(example, [0] * len(example))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(
                VectorHead(f.shape[1]) if f.ndim == 2 else MapHead(f.shape[1], backbone.stride)
                for f in features
            )

    @property
    def sees_latents(self) -> bool:
        """Whether it judges scaled latents rather than pixels."""
        return self.backbone.sees_latents

    def train(self, mode: bool = True) -> "Discriminator":
        """The backbone always stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor, seeds: list[int]) -> list[Tensor]:
        """Logits per level, (B, 1, h, w) or (B, 1); `seeds`: one per item, for noise if any."""
        features = self.backbone(x, seeds)
        return [head(f.float()) for head, f in zip(self.heads, features, strict=True)]


class MapHead(nn.Module):
    """Logits for every place of a feature map."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.inner = spectral_norm(nn.Conv2d(width, HEAD_WIDTH, 3, stride, 1))
        self.outer = spectral_norm(nn.Conv2d(HEAD_WIDTH, 1, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) to (B, 1, h', w'); strides are preceded by a blur (Zhang 2019)."""
        x = F.leaky_relu(self.inner(self._blur(x)), 0.2)
        return self.outer(self._blur(x))

    def _blur(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        row = x.new_tensor((1.0, 2.0, 1.0)) / 4
        kernel = torch.outer(row, row).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])


class VectorHead(nn.Module):
    """One logit for a pooled embedding."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = spectral_norm(nn.Linear(width, HEAD_WIDTH))
        self.outer = spectral_norm(nn.Linear(HEAD_WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) to (B, 1)."""
        return self.outer(F.leaky_relu(self.inner(x), 0.2))


class PatchDiscriminator(nn.Module):
    """Logits for every 4x4 px, each from the 28x28 px around it; all of it is trained."""

    sees_latents = False

    def __init__(self, seed: int):
        super().__init__()
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for i, (width, stride) in enumerate(PATCH_LAYERS):
                before = PATCH_LAYERS[i - 1][0] if i else 3
                conv = nn.Conv2d(before, width, 2 + stride, stride, 1)
                layers += [spectral_norm(conv), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, seeds: list[int]) -> list[Tensor]:
        """One level (B, 1, h, w) of pixels in [-1, 1]; nothing is drawn, so `seeds` go unused."""
        return [self.layers(x).float()]


class ImageBackbone(nn.Module):
    """A timm model on pixels in [-1, 1]."""

    sees_latents = False

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        config = model.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).reshape(1, 3, 1, 1))
        depth = len(model.feature_info)
        self.transformer = hasattr(model, "blocks")
        # ConvNeXt: the stages but the first, as published; transformers: four blocks, evenly.
        self.levels = (
            sorted({round((i + 1) * depth / 4) - 1 for i in range(4)} - {-1})
            if self.transformer
            else list(range(1, depth))
        )
        self.stride = 1 if self.transformer else 2
        self.pooled = getattr(model, "num_classes", 0) > 0

    def forward(self, x: Tensor, seeds: list[int]) -> list[Tensor]:
        """Feature maps of the levels, and the pooled embedding where the model has one."""
        x = ((x + 1) / 2 - self.mean) / self.std
        last, maps = self.model.forward_intermediates(
            x, indices=self.levels, norm=self.transformer, output_fmt="NCHW"
        )
        return [*maps, self.model.forward_head(last)] if self.pooled else maps


class DiffusionBackbone(nn.Module):
    """The base network's own features of noised latents (a copy of it, without the LoRA)."""

    sees_latents = True
    stride = 1

    def __init__(self, base: Base):
        super().__init__()
        self.prior = base.prior
        self.network = copy.deepcopy(base.network)
        self._architecture = ARCHITECTURES[base.prior.name]
        self._caught: list = []
        for module in self._architecture.levels(self.network):
            module.register_forward_hook(self._catch)
        condition = base.text.encode([""], torch.device("cpu"))
        self.register_buffer("tokens", condition.tokens.clone(), persistent=False)
        pooled = condition.pooled
        self.register_buffer("pooled", pooled.clone() if pooled is not None else None, False)

    def _catch(self, module: nn.Module, inputs, output) -> None:
        self._caught.append(output)

    def forward(self, x: Tensor, seeds: list[int]) -> list[Tensor]:
        """Features of x noised to a random level, one seed per item."""
        drawn = [_draw(x.shape[1:], seed) for seed in seeds]
        noise = torch.stack([n for n, _ in drawn]).to(x)
        levels = [self.prior.level(t) for _, t in drawn]
        alpha, sigma = (
            x.new_tensor([getattr(level, name) for level in levels])[:, None, None, None]
            for name in ("alpha", "sigma")
        )
        t = x.new_tensor([float(t) for _, t in drawn])
        condition = Condition(self.tokens, self.pooled).repeated(len(x))
        self._caught = []
        call_network(
            self.prior, self.network, alpha * x + sigma * noise, t, condition, self.prior.conditions
        )
        caught, self._caught = self._caught, []
        return [_unit(self._architecture.feature_map(f, x.shape[-2:])) for f in caught]


def make_discriminator(
    asked: Adversary, seed: int, base: Base
) -> Discriminator | PatchDiscriminator:
    """The discriminator that a recipe names.

    Raises:
        ValueError: naming what to download if the backbone cannot be had.
    """
    if asked.discriminator == "patch":
        return PatchDiscriminator(seed)
    if asked.discriminator == "unet":
        backbone = DiffusionBackbone(base)
        if asked.discriminator_weights:
            load_network(backbone.network, Path(asked.discriminator_weights))
        example = torch.zeros(1, base.prior.latent_channels, 8, 8)
    else:
        backbone = ImageBackbone(load_backbone(asked))
        example = torch.zeros(1, 3, 64, 64)
    return Discriminator(backbone, example, seed)


def load_backbone(asked: Adversary) -> nn.Module:
    """The image model that a recipe names, by timm.

    Raises:
        ValueError: naming what to download if it cannot be had.
    """
    import timm

    name = asked.discriminator_model or TIMM_MODELS[asked.discriminator]
    overlay = {"file": asked.discriminator_weights} if asked.discriminator_weights else None
    sizes = {} if asked.discriminator == "convnext" else {"dynamic_img_size": True}
    sizes |= {} if asked.discriminator == "convnext" else {"dynamic_img_pad": True}
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **sizes)
    except Exception as error:  # the hub, the network and the file each raise their own
        raise ValueError(
            f"the discriminator's backbone {name!r} cannot be loaded ({error}); download it where "
            f"there is a network (timm.create_model({name!r}, pretrained=True)), or give its file "
            f"as --discriminator-weights, or choose --discriminator unet or patch, which need none"
        ) from error


def _unit(features: Tensor) -> Tensor:
    """Maps with zero mean and unit deviation over the channels of every place.

    The residual streams of these networks differ in scale by orders of magnitude from block to
    block, and heads with spectral norm cannot make up for that.
    """
    channels_last = features.float().movedim(1, -1)
    return F.layer_norm(channels_last, channels_last.shape[-1:]).movedim(-1, 1)


def _draw(shape: torch.Size, seed: int) -> tuple[Tensor, int]:
    """Noise and a timestep within UNET_TIMESTEPS."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    low, high = UNET_TIMESTEPS
    t = int(torch.randint(low, high + 1, (), generator=generator))
    return torch.randn(shape, generator=generator), t
