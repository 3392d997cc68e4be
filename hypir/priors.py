"""The base models that HYPIR supports: one frozen record each.

A prior is architecture + prediction type + latent format. Costs are TFLOP counted with
torch.utils.flop_counter on the full-size diffusers models (meta device, batch 1, 64, 96 and 128
cells), fitted with constant + linear n + quadratic n^2, where n is the number of cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .one_step import OneStep
from .predictions import EPS, FLOW, NoiseLevel, Prediction, V, diffusion_level, flow_level
from .tiling import TileCost


@dataclass(frozen=True)
class Prior:
    """A base model of HYPIR."""

    name: str
    """Its name in weight files."""
    title: str
    """For people."""
    modelspec: str
    """The architecture's name in ModelSpec metadata."""
    prediction: Prediction
    """What the network predicts."""
    latent_channels: int
    latent_scale: float
    """z = (autoencoder latent - latent_shift) * latent_scale."""
    latent_shift: float
    token_width: int
    """Width of a text token, and therefore of the texture token."""
    pooled_width: int
    """Width of the pooled text vector, 0 = none."""
    lora_prefix: str
    """Prefix of the host's LoRA names: prefix + the diffusers module name with _ for every dot."""
    tile: TileCost
    """Cost and sizes of the network's tiles."""
    memory_factor: float
    """ComfyUI's memory_usage_factor of this network."""
    betas: tuple[float, float] | None = None
    """beta_start, beta_end of the scaled linear schedule; None for flow."""
    conditions: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Values of the network's conditions besides text, for conditionings that lack them."""

    @property
    def timestep(self) -> int:
        """Default timestep of the method; weights can set another."""
        return self.prediction.timestep

    @property
    def timesteps(self) -> range:
        """The timesteps that a step can have."""
        return self.prediction.timesteps

    @property
    def input_scale(self) -> float:
        """K of x_t = k z at the default timestep; weights can set another."""
        return self.input_scale_at(self.timestep)

    def input_scale_at(self, timestep: int) -> float:
        """K of x_t = k z at a timestep (0..999; ValueError outside)."""
        return self.prediction.input_scale(self.level(timestep))

    def level(self, timestep: int) -> NoiseLevel:
        """Noise level of a timestep (0..999; ValueError outside)."""
        if self.betas is None:
            return flow_level(timestep)
        return diffusion_level(timestep, *self.betas)

    def step(self, timestep: int, coefficient_timestep: int, input_scale: float) -> OneStep:
        """The one step at these timesteps.

        Raises:
            ValueError: if a timestep is not one of the prior's.
        """
        for name, t in (("timestep", timestep), ("coefficient_timestep", coefficient_timestep)):
            if t not in self.timesteps:
                raise ValueError(
                    f"{name} must be between {self.timesteps[0]} and {self.timesteps[-1]} for "
                    f"{self.title}, got {t}; use -1 for the timestep of the weights"
                )
        return OneStep(
            self.prediction, self.level(timestep), self.level(coefficient_timestep), input_scale
        )


SD_BETAS = (0.00085, 0.012)  # Stable Diffusion scheduler config
SD_LATENT_SCALE = 0.18215  # SD 1 and 2 VAE config

SD2 = Prior(
    name="sd2",
    title="Stable Diffusion 2.1-base (eps prediction)",
    modelspec="stable-diffusion-v2-512",
    prediction=EPS,
    latent_channels=4,
    latent_scale=SD_LATENT_SCALE,
    latent_shift=0.0,
    token_width=1024,
    pooled_width=0,
    lora_prefix="lora_unet_",
    tile=TileCost(0.0, 1.667e-4, 7.242e-9, smallest=64, largest=128, overlap=16, align=8),
    memory_factor=1.0,
    betas=SD_BETAS,
)

SD2_V = Prior(
    name="sd2-v",
    title="Stable Diffusion 2.1 768 (v prediction)",
    modelspec="stable-diffusion-v2-768-v",
    prediction=V,
    latent_channels=4,
    latent_scale=SD_LATENT_SCALE,
    latent_shift=0.0,
    token_width=1024,
    pooled_width=0,
    lora_prefix="lora_unet_",
    tile=TileCost(0.0, 1.667e-4, 7.242e-9, smallest=96, largest=128, overlap=16, align=8),
    memory_factor=1.0,
    betas=SD_BETAS,
)

SDXL = Prior(
    name="sdxl",
    title="Stable Diffusion XL",
    modelspec="stable-diffusion-xl-v1-base",
    prediction=EPS,
    latent_channels=4,
    latent_scale=0.13025,  # SDXL VAE config
    latent_shift=0.0,
    token_width=2048,
    pooled_width=1280,
    lora_prefix="lora_unet_",
    tile=TileCost(0.05, 3.634e-4, 2.81e-9, smallest=96, largest=160, overlap=16, align=8),
    memory_factor=0.8,
    betas=SD_BETAS,
    # Original and target size in pixels, as in the base model's training.
    conditions=MappingProxyType({"width": 1024, "height": 1024}),
)

SD3 = Prior(
    name="sd3",
    title="Stable Diffusion 3 or 3.5",
    modelspec="stable-diffusion-v3",
    prediction=FLOW,
    latent_channels=16,
    latent_scale=1.5305,  # SD3 VAE config
    latent_shift=0.0609,
    token_width=4096,
    pooled_width=2048,
    lora_prefix="lora_transformer_",
    tile=TileCost(0.83, 1.377e-3, 2.31e-8, smallest=128, largest=160, overlap=16, align=2),
    memory_factor=1.6,
)

FLUX = Prior(
    name="flux",
    title="FLUX.1 dev or schnell",
    modelspec="flux-1-dev",
    prediction=FLOW,
    latent_channels=16,
    latent_scale=0.3611,  # FLUX.1 VAE config
    latent_shift=0.1159,
    token_width=4096,
    pooled_width=768,
    lora_prefix="lora_transformer_",
    tile=TileCost(6.81, 3.407e-3, 4.38e-8, smallest=128, largest=160, overlap=16, align=2),
    memory_factor=3.1,
    # Distilled guidance: the value in FLUX.1-dev's examples. schnell ignores it.
    conditions=MappingProxyType({"guidance": 3.5}),
)

Z_IMAGE = Prior(
    name="z_image",
    title="Z-Image or Z-Image-Turbo",
    modelspec="Z-Image",
    prediction=FLOW,
    latent_channels=16,
    latent_scale=0.3611,  # FLUX.1's autoencoder
    latent_shift=0.1159,
    token_width=2560,  # Qwen3-4B
    pooled_width=0,
    lora_prefix="lycoris_",
    # 96 text tokens: a prompt with its chat template, in the network's steps of 32.
    tile=TileCost(1.09, 2.854e-3, 3.072e-8, smallest=128, largest=160, overlap=16, align=2),
    memory_factor=2.8,
)

PRIORS: Mapping[str, Prior] = MappingProxyType(
    {prior.name: prior for prior in (SD2, SD2_V, SDXL, SD3, FLUX, Z_IMAGE)}
)
"""All priors by the name that weight files carry."""
