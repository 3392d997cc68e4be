"""A recipe: all settings of a training run, in groups owned by the files that read them.

A field's name is unique over all groups and is also its option on the command line; `changed` finds
the group. A recipe has every stage once, or is a chain of steps that repeats stages with other
settings.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Any

from .adversary import Adversary
from .bounds import Bounds, Filled, hints, settings, show
from .checkpoints import Saving
from .conditions import Conditions
from .data import Data
from .degrading import Degradation
from .engine import Engine
from .files import WRITES, Files, Model
from .log import Log
from .lora import Lora
from .loss_list import (
    AdversarialLosses,
    AutoencoderLosses,
    EncoderLosses,
    LossOptions,
    RestoredLosses,
    weights_in,
)
from .schedule import Optimizer, Phase, Phases, Schedule

FORMAT = 2
"""Format of recipe.json and of the recipe in checkpoints; format 1 had all fields in one list."""
STAGES = tuple(WRITES)
"""The stages in the order in which they run without a chain."""
LOSSES_OF = {
    "autoencoder": ("autoencoder_losses", "restored_losses"),
    "encoder": ("encoder_losses",),
    "adversarial": ("adversarial_losses",),
}
"""Groups of loss weights per stage; the diffusion stage has a single loss without a weight."""


@dataclass(frozen=True)
class Step:
    """One stage of a chain."""

    name: str
    """Name of its folder."""
    stage: str
    """One of STAGES."""
    changes: Mapping[str, Any]
    """Fields that differ from the recipe's, by name."""
    begins: Mapping[str, str] = field(default_factory=dict)
    """By stage, the step whose file is used instead of the latest."""


@dataclass(frozen=True)
class Blend:
    """A step without training: it interpolates the weights of two adversarial steps."""

    name: str
    first: str
    second: str
    share: float
    """Share of the second, 0 to 1."""


@settings
class Recipe:
    """What runs."""

    name: str
    """Name of the recipe, used in file names."""
    stages: Annotated[tuple[str, ...], Filled("stages")] = ("encoder", "adversarial")
    """Stages to run: autoencoder, diffusion, encoder, adversarial, or steps of the recipe."""
    out: str = ""
    """Folder of the run: checkpoints, logs, exported files."""
    seed: Annotated[int, Bounds(0, 2**53)] = 0
    """Seed of all random draws."""
    model: Model = Model()
    files: Files = Files()
    data: Data = Data()
    degradation: Degradation = Degradation()
    schedule: Schedule = Schedule()
    autoencoder_losses: AutoencoderLosses = AutoencoderLosses()
    restored_losses: RestoredLosses = RestoredLosses()
    encoder_losses: EncoderLosses = EncoderLosses()
    adversarial_losses: AdversarialLosses = AdversarialLosses()
    loss_options: LossOptions = LossOptions()
    adversary: Adversary = Adversary()
    lora: Lora = Lora()
    conditions: Conditions = Conditions()
    optimizer: Optimizer = Optimizer()
    engine: Engine = Engine()
    saving: Saving = Saving()
    log: Log = Log()
    chain: tuple[Step | Blend, ...] = ()
    """Steps in order; empty: every stage of `stages` once."""

    def rules(self) -> None:
        """Check rules between groups (ValueError if one fails)."""
        self._check_stages()
        if self.chain:
            return  # every step is checked as a recipe of its own
        for stage in self.stages:
            if not self.phases(stage):
                raise ValueError(
                    f"stage {stage!r} has no phases; give at least one, such as 1000x8@1e-4"
                )
            groups = LOSSES_OF.get(stage, ())
            if groups and not any(weights_in(getattr(self, group)) for group in groups):
                raise ValueError(f"stage {stage!r} has no loss; give one a weight above 0")
        if "autoencoder" in self.stages:
            self._check_decoder()
        if "encoder" in self.stages and self.encoder_losses.encoder_target == "both":
            pixels = [n for n in weights_in(self.encoder_losses) if not n.endswith("latent")]
            if not pixels:
                raise ValueError("encoder_target both compares pixels; give encoder_mse a weight")
        weighs = self.adversarial_losses.richness or self.conditions.richness_spread
        if weighs and not self.conditions.texture:
            raise ValueError("richness needs a richness token; train one with --texture")

    def phases(self, stage: str) -> Phases:
        """Phases of a stage of STAGES."""
        return getattr(self.schedule, stage)

    def changed(self, **values: Any) -> "Recipe":
        """The recipe with changed fields, in any group, for every step.

        Raises:
            ValueError: naming a field that does not exist, or what a value must be.
        """
        new: dict[str, Any] = {}
        for name, value in values.items():
            if name not in OWNERS:
                raise ValueError(f"{name!r} is not a field of a recipe")
            new.setdefault(OWNERS[name], {})[name] = value
        own = new.pop("", {})
        groups = {group: replace(getattr(self, group), **given) for group, given in new.items()}
        chain = tuple(_without(step, values) for step in own.pop("chain", self.chain))
        return replace(self, chain=chain, **own, **groups)

    def flat(self) -> dict[str, Any]:
        """Plain values of all fields by name, without the chain."""
        return {
            name: _plain(getattr(getattr(self, owner) if owner else self, name))
            for name, owner in OWNERS.items()
            if name != "chain"
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values in their groups, as recipe.json keeps them."""
        return {"format": FORMAT, **_plain(self)}

    def _check_stages(self) -> None:
        known = [*STAGES, *(step.name for step in self.chain)]
        unknown = [s for s in self.stages if s not in known]
        if "prior" in unknown:
            raise ValueError("the stage prior is now called diffusion, got prior among stages")
        if unknown:
            raise ValueError(f"stages must be some of {', '.join(known)}, got {show(self.stages)}")

    def _check_decoder(self) -> None:
        if self.restored_losses.restored and not self.files.encoder_file:
            raise ValueError(
                "restored images need a degradation-removal encoder; give one with --encoder-file, "
                "or set --restored 0"
            )
        if self.autoencoder_losses.autoencoder_gan and self.adversary.discriminator == "unet":
            raise ValueError(
                "discriminator unet works on latents, but the autoencoder stage trains pixels; "
                "choose patch or a timm backbone, or set --autoencoder-gan 0"
            )


GROUPS = tuple(name for name, kind in hints(Recipe).items() if dataclasses.is_dataclass(kind))
"""Fields of a recipe that are groups."""
OWNERS: Mapping[str, str] = MappingProxyType(
    {name: "" for name in hints(Recipe) if name not in GROUPS}
    | {name: group for group in GROUPS for name in hints(hints(Recipe)[group])}
)
"""The group of every field, "" for the recipe's own."""


def check_format(kept: Mapping[str, Any], out: str) -> None:
    """Check that this version understands the recipe of an existing run.

    Raises:
        ValueError: with what to do.
    """
    found = kept.get("format", 1)
    if found != FORMAT:
        age = "an earlier" if isinstance(found, int) and found < FORMAT else "another"
        raise ValueError(
            f"{out!r} holds a run of {age} version (format {found} of its recipe, this one has "
            f"{FORMAT}); finish it with that version, or use another --out and begin with its "
            f"weights (--encoder-file, --lora-file)"
        )


def defaults() -> dict[str, Any]:
    """Plain values of the fields that have a default."""
    values = Recipe(name="", schedule=Schedule(**{s: (Phase(0, 1, 1.0),) for s in STAGES})).flat()
    return {k: v for k, v in values.items() if k not in ("name", *STAGES)}


def _without(step: Step | Blend, names: Mapping[str, Any]) -> Step | Blend:
    if isinstance(step, Blend):
        return step
    return replace(step, changes={k: v for k, v in step.changes.items() if k not in names})


def _plain(value: Any) -> Any:
    if isinstance(value, Phase):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
