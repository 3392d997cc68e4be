"""Discriminators: a frozen backbone that sees the picture, light heads that judge its features.

As published for SD2: heads with spectral norm on several levels of a CLIP ConvNeXt, and on its
pooled embedding. The others are those of the paper's ablation: DINO, CLIP, and the diffusion
network's own features. All take any size.

PatchDiscriminator has no backbone: a small convolutional network that learns from nothing, as those
of Isola et al. 2017, with spectral norm (Miyato et al. 2018). It is for the decoder of the tiny
recipe, where no pretrained network is at hand, and sees pixels at their full size.
"""

import copy
import logging
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .adversary import TIMM_MODELS, Adversary
from .architectures import ARCHITECTURES, Condition
from .generator import call_network
from .heads import MapHead, VectorHead, load_heads
from .models import Base, load_network
from .precision import no_autocast
from .transfer import send
from .weightless import plans, reads_files

log = logging.getLogger(__name__)

PATCH_LAYERS = ((32, 1), (64, 2), (96, 2), (96, 1), (1, 1))
"""Channels and strides of PatchDiscriminator; the sides of its kernels are 3 and 4 px."""
JUDGED_SCALES = (4, 8, 16)
"""Of a backbone's maps, as published: 384, 768 and 1536 channels of ConvNeXt-XXL."""
UNET_TIMESTEPS = (20, 400)
"""Noise levels at which the diffusion network looks; higher ones hide texture."""


class Discriminator(nn.Module):
    """Backbone and heads; only the heads are trained."""

    def __init__(self, backbone: nn.Module, example: Tensor, seed: int):
        """`example`: an input of the backbone, from which the heads take their widths."""
        super().__init__()
        device = next(backbone.parameters()).device
        self.backbone = backbone.requires_grad_(False).eval().to(device)
        with torch.no_grad():
            features = backbone(example.to(device), [0] * len(example))
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

    def __init__(self, model: nn.Module, embedding: bool = False):
        """`embedding`: its last layer projects to an embedding and does not name classes."""
        super().__init__()
        self.model, self._embedding = model, embedding
        config = model.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).reshape(1, 3, 1, 1))
        self.levels = levels_of(model)
        self.names = tuple(model.feature_info[i]["module"] for i in self.levels)
        # What keeps one size of map throughout is a transformer of one stage.
        self._columnar = _is_columnar(model)
        self.stride = 1 if self._columnar else 2
        self.pooled = model.num_classes > 0

    def forward(self, x: Tensor, seeds: list[int]) -> list[Tensor]:
        """Feature maps of the levels, and the pooled vector where the model has a head."""
        x = ((x + 1) / 2 - self.mean) / self.std
        dtype = next(self.model.parameters()).dtype
        # Weights in bf16 compute in it throughout: autocast would take every norm to float32.
        with no_autocast(x.device, dtype == torch.bfloat16):
            last, maps = self.model.forward_intermediates(
                x.to(dtype), indices=self.levels, norm=self._columnar, output_fmt="NCHW"
            )
            if not self.pooled:
                return maps
            return [*maps, self.model.forward_head(last, pre_logits=not self._embedding)]


def levels_of(model: nn.Module) -> list[int]:
    """Which entries of a timm model's feature_info are judged.

    Of a pyramid (ConvNeXt, EfficientNet, ResNet, Swin ...) its maps at JUDGED_SCALES: for ConvNeXt
    stages.0 to stages.2, as published. Of a transformer of one scale four blocks, evenly.

    Raises:
        ValueError: if a pyramid lacks one of these scales.
    """
    scales = [entry["reduction"] for entry in model.feature_info]
    if not _is_columnar(model):
        if not set(JUDGED_SCALES) <= set(scales):
            raise ValueError(
                f"a backbone must have maps at 1/4, 1/8 and 1/16 of the picture; "
                f"{type(model).__name__} has them at {', '.join(f'1/{s}' for s in scales)}: choose "
                f"another --discriminator-model"
            )
        return [scales.index(scale) for scale in JUDGED_SCALES]
    return sorted({round((i + 1) * len(scales) / 4) - 1 for i in range(4)} - {-1})


def _is_columnar(model: nn.Module) -> bool:
    return len({entry["reduction"] for entry in model.feature_info}) == 1


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
        noise = send(torch.stack([n for n, _ in drawn]), x)
        levels = [self.prior.level(t) for _, t in drawn]
        alpha, sigma = (
            send([getattr(level, name) for level in levels], x)[:, None, None, None]
            for name in ("alpha", "sigma")
        )
        t = send([float(t) for _, t in drawn], x)
        condition = Condition(self.tokens, self.pooled).repeated(len(x))
        self._caught = []
        call_network(
            self.prior, self.network, alpha * x + sigma * noise, t, condition, self.prior.conditions
        )
        caught, self._caught = self._caught, []
        return [_unit(self._architecture.feature_map(f, x.shape[-2:])) for f in caught]


def make_discriminator(
    asked: Adversary, seed: int, base: Base, precision: str = "no"
) -> Discriminator | PatchDiscriminator:
    """The discriminator that a recipe names.

    `precision`: of the run; with bf16 a backbone from timm is in bf16, as published.

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
        model = load_backbone(asked)
        model = model.bfloat16() if precision == "bf16" else model
        backbone = ImageBackbone(model, gives_embedding(asked))
        log.info("the discriminator judges %s", ", ".join(backbone.names))
        example = torch.zeros(1, 3, 64, 64)
    discriminator = Discriminator(backbone, example, seed)
    if asked.discriminator_file:
        load_heads(discriminator.heads, Path(asked.discriminator_file))
    return discriminator


def load_backbone(asked: Adversary) -> nn.Module:
    """The image model that a recipe names, by timm.

    Raises:
        FileNotFoundError: if there is no file of its weights under the name that is given.
        ValueError: naming what to download if it cannot be had.
    """
    import timm

    name, file = backbone_name(asked), asked.discriminator_weights
    if file and reads_files() and not Path(file).is_file():
        raise FileNotFoundError(f"there is no discriminator_weights at {file!r}; check the name")
    if not timm.is_model(name):
        raise ValueError(
            f"timm knows no model {name!r}; give another --discriminator-model (timm.list_models() "
            f"names them)"
        )
    overlay = {"file": file} if file else None
    wanted = not plans() or (bool(file) and reads_files())
    try:
        with torch.device("meta") if plans() else nullcontext():
            return timm.create_model(
                name, pretrained=wanted, pretrained_cfg_overlay=overlay, **_any_size(name)
            )
    except Exception as error:  # the hub, the network and the file each raise their own
        where = f"the file {file!r} does not hold its weights under timm's names" if file else ""
        raise ValueError(
            f"the discriminator's backbone {name!r} cannot be loaded "
            f"({where or _first_line(error)}); download it where there is a network "
            f"(timm.create_model({name!r}, pretrained=True)), or give its file as "
            f"--discriminator-weights, or choose --discriminator unet or patch, which need none"
        ) from error


def backbone_name(asked: Adversary) -> str:
    """Timm's name of the image model that a recipe asks for."""
    return asked.discriminator_model or TIMM_MODELS[asked.discriminator]


def gives_embedding(asked: Adversary) -> bool:
    """Whether the backbone's last layer is CLIP's projection, and not one for classes."""
    return asked.discriminator == "clip" or ".clip_" in backbone_name(asked)


def _any_size(name: str) -> dict[str, bool]:
    """Options without which timm's plain transformers take one size of picture only."""
    import timm

    architecture = name.partition(".")[0]
    if timm.models.is_model_in_modules(architecture, {"vision_transformer", "eva", "deit", "beit"}):
        return {"dynamic_img_size": True, "dynamic_img_pad": True}
    return {}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
