"""Z-Image: a transformer of single blocks over pictures and captions, each of its own length."""

import torch
from torch import Tensor, nn

from hypir.priors import Z_IMAGE

from .architecture import Architecture, Condition, Told, as_map, evenly


class ZImage(Architecture):
    """See Architecture."""

    priors = (Z_IMAGE,)
    network_class = "ZImageTransformer2DModel"
    targets = tuple(f"attention.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")) + (
        "feed_forward.w1",
        "feed_forward.w2",
        "feed_forward.w3",
        "all_final_layer.2-1.linear",
    )
    """All linear layers of the blocks that see pictures or text, and the last one."""

    def text_widths(self, network: nn.Module) -> tuple[int, int]:
        """Width of a text token; there is no pooled vector."""
        return network.config.cap_feat_dim, 0

    def encode(self, pipeline, captions: list[str], device: torch.device) -> Condition:
        """Condition of captions, one tensor if they are all of one length."""
        tokens, _ = pipeline.encode_prompt(captions, device, do_classifier_free_guidance=False)
        if len({len(own) for own in tokens}) == 1:
            return Condition(torch.stack(tokens), None)
        return Condition(tuple(tokens), None)

    def call(self, network: nn.Module, x: Tensor, t: Tensor, text: Condition, told: Told) -> Tensor:
        """Velocity: the network is told 1 - s, not s, and gives data - noise, not noise - data.

        It fills captions up to 32 n tokens with a token of its own, so what is appended to one
        (the richness token) stands before these, as in the host.
        """
        pictures = list(x.unsqueeze(2).unbind())  # (C, one frame, h, w) each
        output = network(pictures, 1 - t / 1000, list(text.tokens), return_dict=False)[0]
        return -torch.stack(output).squeeze(2)

    def levels(self, network: nn.Module) -> list[nn.Module]:
        """Of the blocks that see picture and caption together."""
        return evenly(network.layers)

    def feature_map(self, output: Tensor, cells: tuple[int, int]) -> Tensor:
        """A block gives the picture's tokens first, then what fills them up, then the caption's."""
        return as_map(output, cells)

    def small_network(self, width: int) -> nn.Module:
        """Six blocks of width 384, whatever `width` is.

        It is the least for which 8/3 of the width, the inner one of the feed-forward parts, is a
        multiple of 256, as the host makes it; but its detection knows the full width only.
        """
        from diffusers import ZImageTransformer2DModel

        return ZImageTransformer2DModel(
            dim=384, n_layers=2, n_refiner_layers=2, n_heads=3, n_kv_heads=3, cap_feat_dim=64
        )
