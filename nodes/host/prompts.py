"""The contents that a prior needs in a condition, checked and completed in one place.

These are the host's conditions before it resolves them for a latent: name -> list of dicts with
`cross_attn` (the tokens), `pooled_output` and anything else that nodes have added.
"""

from ...hypir.image import count_not_finite
from .conditions import Conditions
from .model import TextWidths, text_widths
from .settings import Settings


def check_prompts(conditions: Conditions, model, settings: Settings) -> None:
    """Raise ValueError, in one sentence, for a text that this MODEL cannot use.

    Args:
        conditions: all conditions of a guider.
        model: the host's MODEL.
        settings: the settings of its weights.
    """
    if not any(conditions.values()):
        raise ValueError("there is no conditioning; connect CLIP Text Encode or HYPIR Conditioning")
    widths = text_widths(model)
    for name, group in conditions.items():
        for condition in group:
            _check_tokens(name, condition.get("cross_attn"), widths, settings)
            _check_pooled(name, condition, widths, model, settings)


def fill_defaults(conditions: Conditions, settings: Settings) -> bool:
    """Add what the prior needs besides text (SDXL's sizes, Flux's guidance) to every condition that
    lacks it, in place; returns whether anything was missing."""
    missing = False
    for group in conditions.values():
        for condition in group:
            for key, value in settings.conditions.items():
                if condition.get(key) is None:
                    condition[key] = value
                    missing = True
    return missing


def _check_tokens(name: str, tokens, widths: TextWidths, settings: Settings) -> None:
    title = settings.prior.title
    if tokens is None:
        raise ValueError(
            f"the {name} conditioning has no text tokens, but {title} needs them; connect CLIP "
            "Text Encode or HYPIR Conditioning"
        )
    if tokens.ndim != 3 or tokens.shape[-1] != widths.token:
        raise ValueError(
            f"{title} takes text tokens of width {widths.token}, but the {name} conditioning has "
            f"{tuple(tokens.shape)}: another model's text encoder made it; connect the CLIP that "
            f"belongs to this model"
        )
    if count_not_finite(tokens):
        raise ValueError(
            f"the {name} conditioning must hold finite numbers, but {count_not_finite(tokens)} of "
            f"{tokens.numel()} values are NaN or infinite; run the text encoder in another "
            f"precision (start ComfyUI with --fp32-text-enc)"
        )


def _check_pooled(
    name: str, condition: dict, widths: TextWidths, model, settings: Settings
) -> None:
    if not widths.pooled:
        return
    pooled, title = condition.get("pooled_output"), settings.prior.title
    if pooled is None:
        if _needs_pooled(condition, model):
            raise ValueError(
                f"{title} needs the pooled vector of the text, {widths.pooled} wide, which the "
                f"{name} conditioning lacks: another model's text encoder made it; connect the "
                f"CLIP that belongs to this model"
            )
        return
    if pooled.shape[-1] != widths.pooled:
        raise ValueError(
            f"{title} takes a pooled text vector of width {widths.pooled}, but that of the {name} "
            f"conditioning has {tuple(pooled.shape)}: another model's text encoder made it; "
            f"connect the CLIP that belongs to this model"
        )
    if count_not_finite(pooled):
        raise ValueError(
            f"the pooled vector of the {name} conditioning must contain finite numbers, but "
            f"{count_not_finite(pooled)} of {pooled.numel()} values are NaN or infinite; run the "
            "text encoder in another precision (start ComfyUI with --fp32-text-enc)"
        )


def _needs_pooled(condition: dict, model) -> bool:
    """Some families do not need it (the host uses zeros): this asks the host's code."""
    told = {"width": 1024, "height": 1024, **condition, "device": "cpu"}
    try:
        model.model.encode_adm(**told)
    except KeyError:
        return True
    return False
