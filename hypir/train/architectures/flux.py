"""FLUX.1: a transformer of joint and single blocks on packed latents."""

from types import MappingProxyType

import torch
from torch import Tensor, nn

from hypir.priors import FLUX

from .architecture import Architecture, Condition, Told, evenly
from .sd3 import StableDiffusion3
from .text_encoders import CLIP_L, T5_XXL


class Flux(Architecture):
    """See Architecture."""

    priors = (FLUX,)
    network_class = "FluxTransformer2DModel"
    full_config = MappingProxyType({"guidance_embeds": True})  # else the class's defaults
    text_encoders = (CLIP_L, T5_XXL)
    text_tokens = 512
    targets = (*StableDiffusion3.targets, "proj_mlp")

    def encode(self, pipeline, captions: list[str], device: torch.device) -> Condition:
        """Condition of captions."""
        tokens, pooled, _ = pipeline.encode_prompt(prompt=captions, prompt_2=None, device=device)
        return Condition(tokens, pooled)

    def call(self, network: nn.Module, x: Tensor, t: Tensor, text: Condition, told: Told) -> Tensor:
        """Velocity; `told` contains the distilled guidance."""
        h, w = x.shape[-2:]
        steps = (torch.arange(side // 2, device=x.device) for side in (h, w))
        rows, columns = torch.meshgrid(*steps, indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
        guidance = None
        if network.config.guidance_embeds:
            guidance = torch.full((len(x),), float(told["guidance"]), device=x.device)
        output = network(
            hidden_states=pack(x),
            encoder_hidden_states=text.tokens,
            pooled_projections=text.pooled,
            timestep=t / 1000,  # diffusers multiplies by 1000 again
            img_ids=places.to(x),
            txt_ids=x.new_zeros(text.tokens.shape[1], 3),
            guidance=guidance,
            return_dict=False,
        )[0]
        return unpack(output, h, w)

    def levels(self, network: nn.Module) -> list[nn.Module]:
        """Blocks of both kinds."""
        return evenly([*network.transformer_blocks, *network.single_transformer_blocks])

    def small_network(self, width: int) -> nn.Module:
        """One block of each kind, width 256, which the host recognises."""
        from diffusers import FluxTransformer2DModel

        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=128,
            num_attention_heads=2,
            joint_attention_dim=64,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        )


def pack(latent: Tensor) -> Tensor:
    """(B, C, h, w) to Flux's tokens (B, h/2 * w/2, 4 C): squares of 2x2 cells, channels first."""
    b, c, h, w = latent.shape
    squares = latent.reshape(b, c, h // 2, 2, w // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(b, h // 2 * (w // 2), c * 4)


def unpack(tokens: Tensor, h: int, w: int) -> Tensor:
    """The inverse of pack."""
    b, _, width = tokens.shape
    squares = tokens.reshape(b, h // 2, w // 2, width // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(b, width // 4, h, w)
