"""Z-Image: a transformer of single blocks over images and captions of any length."""

from types import MappingProxyType

import torch
from torch import Tensor, nn

from hypir.priors import Z_IMAGE

from .architecture import Architecture, Condition, Told, as_map, evenly
from .text_encoders import QWEN3_4B


class ZImage(Architecture):
    """See Architecture."""

    priors = (Z_IMAGE,)
    network_class = "ZImageTransformer2DModel"
    full_config = MappingProxyType({})  # the class's defaults
    text_encoders = (QWEN3_4B,)
    text_tokens = 512
    targets = tuple(f"attention.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")) + (
        "feed_forward.w1",
        "feed_forward.w2",
        "feed_forward.w3",
        "all_final_layer.2-1.linear",
    )
    """All linear layers of the blocks for image and text, and the last layer."""

    def text_widths(self, network: nn.Module) -> tuple[int, int]:
        """Width of a text token; there is no pooled vector."""
        return network.config.cap_feat_dim, 0

    def encode(self, pipeline, captions: list[str], device: torch.device) -> Condition:
        """Condition of captions; one tensor if all have the same length."""
        tokens, _ = pipeline.encode_prompt(captions, device, do_classifier_free_guidance=False)
        if len({len(own) for own in tokens}) == 1:
            return Condition(torch.stack(tokens), None)
        return Condition(tuple(tokens), None)

    def call(self, network: nn.Module, x: Tensor, t: Tensor, text: Condition, told: Told) -> Tensor:
        """Velocity: the network takes 1 - s, not s, and returns data - noise, not noise - data.

        It pads captions to 32 n tokens with its own token, so a token appended to a caption (the
        richness token) comes before the padding, as in the host.
        """
        pictures = list(x.unsqueeze(2).unbind())  # (C, one frame, h, w) each
        output = network(pictures, 1 - t / 1000, list(text.tokens), return_dict=False)[0]
        return -torch.stack(output).squeeze(2)

    def levels(self, network: nn.Module) -> list[nn.Module]:
        """The blocks that process image and caption together."""
        return evenly(network.layers)

    def feature_map(self, output: Tensor, cells: tuple[int, int]) -> Tensor:
        """A block returns the image tokens first, then their padding, then the caption tokens."""
        return as_map(output, cells)

    def small_network(self, width: int) -> nn.Module:
        """Six blocks of width 384 for any `width`.

        384 is the smallest width for which 8/3 of it, the inner width of the feed-forward layers,
        is a multiple of 256, as in the host. The host's detection knows only the full width.
        """
        from diffusers import ZImageTransformer2DModel

        return ZImageTransformer2DModel(
            dim=384, n_layers=2, n_refiner_layers=2, n_heads=3, n_kv_heads=3, cap_feat_dim=64
        )
