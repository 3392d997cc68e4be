"""Prompt and texture richness as the host's CONDITIONING."""

import logging
from math import isfinite

import torch
from torch import Tensor

from ...hypir.image import check_image, color_channels, count_not_finite
from ...hypir.texture import embed_richness, measure_richness
from .carried import settings_of
from .conditions import TEXTURE_MAP
from .memory import follow
from .model import text_widths
from .settings import Settings

log = logging.getLogger(__name__)

NOISY, BLURRED = 0.97, 0.3
"""Outside this range an image is rarely clean: grass measures .97, a 4x enlargement .05 to .3."""
CHOICES = {"off": (), "set": ("richness",), "match": ("image", "offset"), "map": ("mask",)}
"""What every choice needs."""


def encode(model, clip, text: str, texture: dict | None):
    """The CONDITIONING of a prompt, with an extra token if a texture richness is requested.

    Args:
        model: the host's MODEL with HYPIR weights.
        clip: the host's CLIP; None requires an empty text, which becomes the zero token.
        text: the prompt.
        texture: {"texture": choice, ...}, the value of the node's drop-down.

    Raises:
        ValueError: if the choice is missing, if the weights were trained without texture, or if
            there is no CLIP for a text or for weights that need one.
    """
    settings = settings_of(model)
    texture = texture if isinstance(texture, dict) else {"texture": texture}
    choice = texture.get("texture")
    if not isinstance(choice, str) or choice not in CHOICES:
        raise ValueError(
            f"texture must be one of {', '.join(CHOICES)}, got {choice!r}; choose one in the "
            f'node (in API form: "texture": "off")'
        )
    missing = [part for part in CHOICES[choice] if texture.get(part) is None]
    if missing:
        raise ValueError(
            f"texture {choice!r} needs {' and '.join(missing)}, which the node was not given; "
            f'connect or set it (in API form: "texture.{missing[0]}")'
        )
    condition = _text(model, clip, text, settings)
    if choice != "off":
        condition = [_with_texture(settings, entry, choice, texture) for entry in condition]
    for _, extra in condition:
        for key, value in settings.conditions.items():
            extra.setdefault(key, value)
    return condition


def _text(model, clip, text: str, settings: Settings) -> list:
    if clip is not None:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))
    if text.strip():
        raise ValueError(
            "a prompt needs a CLIP, but none is connected; connect the checkpoint's CLIP or clear "
            "the text"
        )
    if settings.needs_clip:
        raise ValueError(
            f"{settings.name} was trained with the text encoder of {settings.prior.title}, which "
            f"gives an empty prompt tokens of its own; connect the CLIP of the checkpoint, and "
            f"leave the text empty if you like"
        )
    widths = text_widths(model)
    if widths.token == settings.prior.token_width:  # small models have no text encoder at all
        log.warning(
            "HYPIR: without a CLIP, a zero token stands for the empty prompt; weights that were "
            "trained with a text encoder need the CLIP of their checkpoint"
        )
    extra = {"pooled_output": torch.zeros(1, widths.pooled)} if widths.pooled else {}
    return [[torch.zeros(1, 1, widths.token), extra]]


def _with_texture(settings: Settings, entry: list, choice: str, texture: dict) -> list:
    if settings.texture is None:
        raise ValueError(
            f"{settings.name or 'a model without HYPIR weights'} was not trained with texture "
            "richness, so it cannot follow one; choose 'off' and use HYPIR Match Texture after "
            "HYPIR Decode, which works with any weights"
        )
    tokens, extra = entry[0], dict(entry[1])
    richness, painted = _richness(choice, texture)
    token = embed_richness(richness, settings.texture).to(tokens)
    count = max(tokens.shape[0], token.shape[0])
    if min(tokens.shape[0], token.shape[0]) not in (1, count):
        raise ValueError(
            f"{tokens.shape[0]} prompts do not match {token.shape[0]} richness values; give one of "
            "either, or the same number of both"
        )
    if "attention_mask" in extra:
        mask = extra["attention_mask"]
        extra["attention_mask"] = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    if painted is not None:
        extra[TEXTURE_MAP] = (painted, settings.texture, tokens.shape[1])
    both = [tokens.expand(count, -1, -1), token.expand(count, -1, -1)]
    return [torch.cat(both, dim=1), extra]


def _richness(choice: str, texture: dict) -> tuple[Tensor, Tensor | None]:
    """Richness per image (B,), and the painted map of choice "map"."""
    number = float(texture.get({"set": "richness", "match": "offset"}.get(choice), 0.0))
    if not isfinite(number):
        raise ValueError(f"texture {choice!r} needs a finite number, got {number}")
    if choice == "set":
        return torch.tensor([number]), None
    if choice == "match":
        image = texture["image"]
        check_image(image)
        measured = measure_richness(color_channels(image), on_part=follow("measure texture")).cpu()
        log.info(
            "HYPIR: texture richness of the example: %s", [round(r, 3) for r in measured.tolist()]
        )
        if float(measured.max()) > NOISY or float(measured.min()) < BLURRED:
            log.warning(
                "HYPIR: the texture example looks noisy or blurred (richness %.2f to %.2f); use a "
                "clean image at the size of the result",
                *(float(measured.min()), float(measured.max())),
            )
        return measured + number, None
    if 0 in texture["mask"].shape or texture["mask"].ndim < 2:
        raise ValueError(
            f"the painted texture map must be (batch, height, width) and not empty, got "
            f"{tuple(texture['mask'].shape)}; connect a MASK"
        )
    if count_not_finite(texture["mask"]):
        raise ValueError(
            "the painted texture map must hold finite numbers in [0, 1], got NaN or infinity; the "
            "node that made it failed"
        )
    painted = texture["mask"].reshape(-1, *texture["mask"].shape[-2:]).clamp(0, 1).float().cpu()
    return painted.mean(dim=(1, 2)), painted
