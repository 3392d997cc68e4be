"""The generator: one step through the adapted network, and the autoencoder around it.

The step itself is hypir.one_step, the same that the nodes run; here are only the calls of
diffusers' networks and autoencoders. Legend: z scaled latent, x_t = k z, m model timestep.
"""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from hypir.noise import standard_normal
from hypir.one_step import OneStep, restore_tile
from hypir.priors import Prior
from hypir.texture import embed_richness, init_texture_mlp

from .architectures import ARCHITECTURES, Condition
from .klt import HEAD, closed_form, closed_form_head
from .precision import is_half, no_autocast
from .transfer import send


class TextureToken(nn.Module):
    """hypir.texture's MLP with trainable weights."""

    def __init__(self, width: int, seed: int = 0):
        super().__init__()
        weights = init_texture_mlp(width, seed=seed)
        self.register_buffer("frequencies", weights.pop("frequencies"))
        self.layers = nn.ParameterDict({_dotless(k): nn.Parameter(v) for k, v in weights.items()})

    def weights(self) -> dict[str, Tensor]:
        """As hypir.texture and weight files have them."""
        named = {k.replace("_", "."): v for k, v in self.layers.items()}
        return {"frequencies": self.frequencies, **named}

    def forward(self, richness: Tensor) -> Tensor:
        """(B,) to one token each, (B, 1, width)."""
        return embed_richness(richness, self.weights())


class Generator(nn.Module):
    """Scaled latents of bad pictures to those of good ones, in one step of the network."""

    def __init__(
        self,
        prior: Prior,
        network: nn.Module,
        timestep: int,
        coefficient_timestep: int,
        input_scale: float,
        texture: TextureToken | None = None,
        conditions: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.prior, self.network, self.texture = prior, network, texture
        self.timestep, self.coefficient_timestep = timestep, coefficient_timestep
        self.one_step: OneStep = prior.step(timestep, coefficient_timestep, input_scale)
        self.conditions = dict(prior.conditions if conditions is None else conditions)

    def forward(
        self,
        z: Tensor,
        tokens: Tensor | tuple[Tensor, ...],
        pooled: Tensor | None,
        richness: Tensor | None = None,
        without_token: bool = False,
    ) -> Tensor:
        """Clean scaled latents (B, C, h, w), at the precision of z.

        Args:
            z: scaled latents of the degraded pictures.
            tokens, pooled: of the captions.
            richness: asked for (B,), or None for no richness token.
            without_token: leave the token out but in the graph, with no effect: processes that
                train together want a gradient of every parameter.
        """
        condition = Condition(tokens, pooled)
        if richness is not None and self.texture is not None:
            token = self.texture(richness).to(tokens[0].dtype)
            condition = condition.with_token(token, without_token)
        t = torch.full((len(z),), float(self.timestep), device=z.device)

        def predict(x_t: Tensor) -> Tensor:
            output = call_network(self.prior, self.network, x_t, t, condition, self.conditions)
            step = self.one_step
            return step.prediction.x0(x_t, output.to(x_t.dtype), step.model_level)

        return restore_tile(z, predict, self.one_step)


def call_network(
    prior: Prior,
    network: nn.Module,
    x_t: Tensor,
    t: Tensor,
    condition: Condition,
    conditions: Mapping[str, float],
) -> Tensor:
    """Output of a diffusers network, whatever its class.

    Args:
        x_t: (B, C, h, w).
        t: (B,) timesteps, 0 to 999, for flow 1000 s.
        condition: of the text.
        conditions: what else the prior is told (SDXL's sizes, Flux's guidance).
    """
    dtype = network_dtype(network)
    architecture = ARCHITECTURES[prior.name]
    return architecture.call(network, x_t.to(dtype), t, condition.to(dtype), conditions)


def network_dtype(network: nn.Module) -> torch.dtype:
    """Precision of the frozen weights."""
    return next(p.dtype for n, p in network.named_parameters() if ".lora_" not in n)


class Encoder(nn.Module):
    """The encoding half of an autoencoder, apart from it: pixels to scaled latents."""

    def __init__(self, vae: nn.Module, prior: Prior):
        super().__init__()
        self.encoder = copy.deepcopy(vae.encoder)
        quant = getattr(vae, "quant_conv", None)
        self.quant_conv = copy.deepcopy(quant) if quant is not None else None
        self.tiny = is_tiny(vae)
        self.head = closed_form_head(self.encoder) if self.tiny else None
        self.latent_scale, self.latent_shift = prior.latent_scale, prior.latent_shift

    def forward(self, pixels: Tensor, seeds: list[int] | None = None) -> Tensor:
        """Scaled latents (B, C, h, w): the mean, or a sample of the posterior, one seed each."""
        pixels = pixels.to(next(self.encoder.parameters()).dtype)
        with _as_it_is(self.encoder, pixels.device):
            if self.head is not None:
                return self.encoder.layers[HEAD:](self.head(pixels))
            moments = self.encoder(pixels)
            if self.tiny:
                return moments
            if self.quant_conv is not None:
                moments = self.quant_conv(moments)
        mean, log_variance = moments.chunk(2, dim=1)
        if seeds is not None:
            noise = torch.stack([standard_normal(mean.shape[1:], seed) for seed in seeds])
            # The bounds of diffusers' posterior.
            mean = mean + (0.5 * log_variance.clamp(-30, 20)).exp() * send(noise, mean)
        return (mean - self.latent_shift) * self.latent_scale

    def learn(self) -> "Encoder":
        """Make it trainable: all of it, but a head that is in closed form."""
        self.float().requires_grad_(True)
        if self.head is not None:
            self.encoder.layers[:HEAD].requires_grad_(False)
        return self

    def state_for(self, vae: nn.Module) -> dict[str, Tensor]:
        """The state dict of `vae` with this encoding half."""
        own = {k: v for k, v in self.state_dict().items() if k.startswith(("encoder.", "quant"))}
        return {**vae.state_dict(), **own}


def frozen_encoder(vae: nn.Module, prior: Prior) -> nn.Module:
    """A copy of the encoder as it is, not trained; in closed form where it has one."""
    found = closed_form(vae) if is_tiny(vae) else None
    return found or Encoder(vae, prior).requires_grad_(False).eval()


def latent_weights(encoder: nn.Module, channels: int) -> Tensor:
    """What a squared step of each latent channel costs in squared pixels of [-1, 1].

    (C,); exact for a transform of orthogonal filters, whose inverse is as plain; else one for all.
    """
    filters = getattr(encoder, "filters", None)
    if filters is None:
        return torch.full((channels,), 1 / channels)
    return 4 / filters.square().sum(dim=(1, 2, 3)) / filters[0].numel()


def decode(vae: nn.Module, prior: Prior, z: Tensor) -> Tensor:
    """Scaled latents to pixels (B, 3, 8 h, 8 w), not clamped."""
    z = z.to(next(vae.decoder.parameters()).dtype)
    if not is_tiny(vae):
        z = z / prior.latent_scale + prior.latent_shift
    with _as_it_is(vae.decoder, z.device):
        return vae.decode(z, return_dict=False)[0]


def is_tiny(vae: nn.Module) -> bool:
    """Whether an autoencoder has TAESD's layout: its latents are scaled already."""
    return type(vae).__name__ == "AutoencoderTiny"


def _as_it_is(part: nn.Module, device: torch.device) -> AbstractContextManager:
    """Within, a float32 part of an autoencoder computes in float32, unless bf16 trains it.

    The autoencoders of SD and SDXL overflow in fp16.
    """
    weight = next(part.parameters())
    return no_autocast(
        device, weight.dtype == torch.float32 and (not weight.requires_grad or is_half(device))
    )


def _dotless(name: str) -> str:
    return name.replace(".", "_")  # ParameterDict keys hold no dots
