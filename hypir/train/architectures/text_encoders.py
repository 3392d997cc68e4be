"""The text encoders of the published base models: classes and sizes, without weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class TextEncoder:
    """A transformers class, and where its config differs from the class's defaults."""

    title: str
    model: str
    config: str
    sizes: Mapping[str, Any]

    def parameters(self) -> int:
        """Number of its parameters, counted on the meta device."""
        import transformers

        config = getattr(transformers, self.config)(**self.sizes)
        with torch.device("meta"):
            model = getattr(transformers, self.model)(config)
        return sum(p.numel() for p in model.parameters())


def _clip(title: str, model: str, width: int, layers: int, heads: int, **more: int) -> TextEncoder:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": heads, **more}
    return TextEncoder(title, model, "CLIPTextConfig", sizes)


# The sizes are those of each model's text_encoder/config.json.
CLIP_L = _clip("CLIP-L", "CLIPTextModel", 768, 12, 12)
CLIP_L_PROJECTED = _clip("CLIP-L", "CLIPTextModelWithProjection", 768, 12, 12, projection_dim=768)
CLIP_H = _clip("OpenCLIP-H", "CLIPTextModel", 1024, 23, 16)
CLIP_G = _clip("OpenCLIP-bigG", "CLIPTextModelWithProjection", 1280, 32, 20, projection_dim=1280)
T5_XXL = TextEncoder(
    "T5-XXL",
    "T5EncoderModel",
    "T5Config",
    {
        "d_model": 4096,
        "d_ff": 10240,
        "d_kv": 64,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "vocab_size": 32128,
    },
)
QWEN3_4B = TextEncoder(
    "Qwen3-4B",
    "Qwen3Model",
    "Qwen3Config",
    {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
    },
)
