"""Whether a checkpoint is of the run that is asked for."""

from collections.abc import Mapping
from typing import Any

from .recipe import STAGES, Recipe, check_format, defaults
from .schedule import Phase, Phases

MAY_CHANGE = {"out", "workers", "keep", "checkpoint_every", "checkpoint_minutes", "log_every"}
MAY_CHANGE |= {"validate", "validate_every", "validate_count", "probe_every", "base", "variant"}
MAY_CHANGE |= {
    "stages",
    "tflops",
    "trackers",
    "cudnn_benchmark",
    "gradient_checkpointing",
    "vae_checkpointing",
    "prefetch",
    "text_cache",
    "text_folder",
    "export",
    "lpips_backbone",
    "discriminator_weights",
    "accept_changes",
}
MAY_CHANGE |= {"autoencoder_file", "prior_file", "encoder_file", "lora_file", "discriminator_file"}
"""Fields of a recipe that a resumed run may have otherwise: they change no number, or where
something lies."""


def differences(kept: Mapping[str, Any], recipe: Recipe, stage: str, step: int) -> list[str]:
    """What a checkpoint's recipe has otherwise than the one that is asked for, for people.

    Phases may be otherwise from `step` on only; those of other stages do not matter here.

    Raises:
        ValueError: if the checkpoint is of another version.
    """
    check_format(kept, recipe.out)
    # A field that the run's version did not have yet was, in effect, at its default.
    then, now = defaults() | dict(kept), recipe.flat()
    odd = [
        f"{name}={then[name]!r}, asked is {now[name]!r}"
        for name in now
        if name not in (*MAY_CHANGE, *STAGES) and then[name] != now[name]
    ]
    before = tuple(Phase.parse(text) for text in then[stage])
    after = recipe.phases(stage)
    made, asked = first_steps(before, step), first_steps(after, step)
    if sum(phase.steps for phase in after) < step:
        odd.append(f"{step} steps of {stage}, asked are {sum(phase.steps for phase in after)}")
    elif made != asked:
        texts = [",".join(map(str, phases)) for phases in (made, asked)]
        odd.append(f"{stage}={texts[0]!r} so far, asked is {texts[1]!r}")
    return odd


def first_steps(phases: Phases, count: int) -> Phases:
    """What the first steps of some phases are, equal neighbours as one."""
    result: list[Phase] = []
    for phase in phases:
        steps = min(phase.steps, count)
        count -= steps
        if not steps:
            continue
        if result and (result[-1].images, result[-1].lr) == (phase.images, phase.lr):
            steps += result.pop().steps
        result.append(Phase(steps, phase.images, phase.lr))
    return tuple(result)


def refuse(odd: list[str], recipe: Recipe) -> None:
    """Stop at differences, unless the user accepts them.

    Raises:
        ValueError: naming the first.
    """
    if odd and not recipe.saving.accept_changes:
        raise ValueError(
            f"{recipe.out!r} holds a run with {odd[0]}; use the same settings to go on, or another "
            f"--out, or go on all the same with --accept-changes"
        )
