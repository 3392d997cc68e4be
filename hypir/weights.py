"""HYPIR weight files: read, check, convert.

There are two layouts. The public one uses peft's parameter names for a diffusers UNet
(`<module>.lora_A.default.weight`, alpha = rank). Ours is a .safetensors with LoRA names that the
host's own loader maps (`lora_unet_<module>.lora_up.weight`, dots as underscores), `hypir.*`
metadata and further `hypir.*` tensors. A file is checked in full before it is used.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, prod
from pathlib import Path
from statistics import mode

import torch
from torch import Tensor

from .image import count_not_finite
from .priors import PRIORS, Prior
from .public_file import PUBLIC_RANK, Shape, public_sd2_modules
from .texture import check_texture_mlp
from .weight_files import Loader, read_tensors, write_tensors

FORMAT = "1"
"""Version of our layout: hypir.format in the metadata."""
TEXTURE_PREFIX = "hypir.texture."
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

PEFT_NAME = re.compile(
    r"(?:base_model\.model\.|unet\.)?(?P<module>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight"
)
NATIVE_NAME = re.compile(r"(?P<module>.+)\.lora_(?P<part>up|down)\.weight")


@dataclass(frozen=True)
class HypirWeights:
    """A checked weight file: every module has both factors, with one rank, all finite."""

    prior: Prior
    lora: Mapping[str, tuple[Tensor, Tensor]]
    """Module name (diffusers) -> up (out, r[, 1, 1]) and down (r, in[, k, k]): W += up @ down."""
    rank: int
    timestep: int
    coefficient_timestep: int
    input_scale: float
    texture: Mapping[str, Tensor] | None = None
    """The richness MLP (hypir.texture); None if the weights cannot follow a richness."""
    conditions: Mapping[str, float] = field(default_factory=dict)
    """The network's conditions besides text in training."""
    source: str = "hypir"
    """Layout of the file: "public" or "hypir" (ours)."""

    def host_names(self) -> dict[str, str]:
        """Module name -> its name in the host's LoRA loader."""
        return {m: self.prior.lora_prefix + m.replace(".", "_") for m in self.lora}

    def is_public(self) -> bool:
        """Whether the modules and the rank are the published ones, in either layout.

        SD2's text encoder made the empty prompt that those were trained with.
        """
        return self.rank == PUBLIC_RANK and self.lora.keys() == public_sd2_modules().keys()

    def shape(self, module: str) -> Shape:
        """Shape of the adapted weight of `module`, from the factors."""
        up, down = self.lora[module]
        return (up.shape[0], *down.shape[1:])


def read_weights(path: str | os.PathLike, load: Loader | None = None) -> HypirWeights:
    """Read a weight file and check all of it.

    Args:
        path: .safetensors, or .pth read as plain tensors (no code in it runs).
        load: the reader, by default torch.load(weights_only=True) and safetensors.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one sentence, with the file, what is wrong and what was expected.
    """
    name = Path(path).name
    tensors, metadata = read_tensors(path, load)
    if "hypir.format" in metadata:
        weights = _read_native(name, tensors, metadata)
    else:
        weights = _read_public(name, tensors)
    _check_numbers(name, tensors)
    return weights


def save_weights(weights: HypirWeights, path: str | os.PathLike) -> None:
    """Write our layout atomically (errors: those of write_tensors)."""
    tensors = {}
    for module, host_name in weights.host_names().items():
        up, down = weights.lora[module]
        tensors[f"{host_name}.lora_up.weight"] = up
        tensors[f"{host_name}.lora_down.weight"] = down
    for key, value in (weights.texture or {}).items():
        tensors[TEXTURE_PREFIX + key] = value
    write_tensors(path, tensors, _metadata(weights))


def check_shapes(name: str, weights: HypirWeights, shapes: Mapping[str, Shape]) -> None:
    """Check that every module exists in the model with the shape given by its factors.

    Args:
        name: the file's name, for the message.
        weights: the contents of the file.
        shapes: module name -> weight shape in the model, without modules that it lacks.

    Raises:
        ValueError: with the count, the first offender and what was expected.
    """
    absent = [m for m in weights.lora if m not in shapes]
    if absent:
        raise ValueError(
            f"{name} adapts {len(weights.lora)} modules of {weights.prior.title}, but the model "
            f"lacks {len(absent)} of them, first {absent[0]!r}; use the base model that the "
            "weights were trained on"
        )
    wrong = [m for m in weights.lora if _matrix(weights.shape(m)) != _matrix(shapes[m])]
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"{name} does not fit the model: {len(wrong)} of {len(weights.lora)} modules have "
            f"another shape, first {first!r} with {weights.shape(first)} instead of "
            f"{tuple(shapes[first])}; use the base model that the weights were trained on"
        )


def _read_public(name: str, tensors: dict[str, Tensor]) -> HypirWeights:
    expected = public_sd2_modules()
    parts = _split(tensors, PEFT_NAME)
    if not parts.keys() & expected.keys():
        raise ValueError(
            f"{name} is not a HYPIR weight file: it looks like {_guess(tensors)}, first tensor "
            f"{next(iter(tensors))!r}; expected the public HYPIR_sd2.pth ({len(expected)} modules, "
            f"'{next(iter(expected))}.lora_A.default.weight') or a file with hypir.* metadata"
        )
    lora = _pair(name, tensors, parts, list(expected), ("B", "A"))
    prior = PRIORS["sd2"]
    weights = HypirWeights(
        prior=prior,
        lora=lora,
        rank=_rank(name, lora),
        timestep=prior.timestep,
        coefficient_timestep=prior.timestep,
        input_scale=1.0,
        source="public",
    )
    wrong = [m for m in lora if weights.shape(m) != expected[m]]
    if wrong:
        raise ValueError(
            f"{name} has {len(wrong)} of {len(expected)} modules of another shape, first "
            f"{wrong[0]!r} with {weights.shape(wrong[0])}; expected {expected[wrong[0]]}"
        )
    return weights


def _read_native(name: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> HypirWeights:
    if metadata["hypir.format"] != FORMAT:
        raise ValueError(
            f"{name} has layout {metadata['hypir.format']!r}, but this version reads {FORMAT!r}; "
            "update the pack"
        )
    try:
        prior_name = metadata["hypir.prior"]
        prediction = metadata["hypir.prediction"]
        modules = json.loads(metadata["hypir.modules"])
        timestep = int(metadata["hypir.timestep"])
        coefficient_timestep = int(metadata["hypir.coefficient_timestep"])
        input_scale = float(metadata["hypir.input_scale"])
        rank = int(metadata["hypir.rank"])
        has_texture = metadata["hypir.texture"] == "true"
        conditions = {k: float(v) for k, v in json.loads(metadata["hypir.conditions"]).items()}
        if not modules or not all(isinstance(m, str) for m in modules):
            raise ValueError("hypir.modules is not a list of names")
        if not all(map(isfinite, (input_scale, *conditions.values()))) or input_scale <= 0:
            raise ValueError("hypir.input_scale or hypir.conditions is not a valid number")
    except (
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"{name} has damaged hypir.* metadata ({error}); download the file again"
        ) from error
    prior = PRIORS.get(prior_name)
    if prior is None or prior.prediction.name != prediction:
        raise ValueError(
            f"{name} is for prior {prior_name!r} with {prediction!r} prediction, which this "
            f"version does not know (known: {', '.join(PRIORS)}); update the pack"
        )
    for t in (timestep, coefficient_timestep):
        if t not in prior.timesteps:
            raise ValueError(
                f"{name} has damaged hypir.* metadata (timestep {t}); download the file again"
            )
    texture = {
        k[len(TEXTURE_PREFIX) :]: v for k, v in tensors.items() if k.startswith(TEXTURE_PREFIX)
    }
    factors = {k: v for k, v in tensors.items() if not k.startswith(TEXTURE_PREFIX)}
    if bool(texture) != has_texture:
        raise ValueError(
            f"{name} has metadata about texture that do not match its tensors; "
            "download the file again"
        )
    if texture:
        _check_texture(name, texture)
    module_of = {prior.lora_prefix + m.replace(".", "_"): m for m in modules}
    parts = {module_of.get(k, k): v for k, v in _split(factors, NATIVE_NAME).items()}
    lora = _pair(name, factors, parts, modules, ("up", "down"))
    if _rank(name, lora) != rank:
        raise ValueError(
            f"{name} has rank {rank} in its metadata, but tensors of rank {_rank(name, lora)}; "
            "download the file again"
        )
    return HypirWeights(
        prior, lora, rank, timestep, coefficient_timestep, input_scale, texture or None, conditions
    )


def _split(tensors: Mapping[str, Tensor], pattern: re.Pattern) -> dict[str, dict[str, str]]:
    """Module -> part -> tensor name, for every LoRA factor."""
    parts: dict[str, dict[str, str]] = {}
    for key in tensors:
        if match := pattern.fullmatch(key):
            parts.setdefault(match["module"], {})[match["part"]] = key
    return parts


def _pair(
    name: str,
    tensors: Mapping[str, Tensor],
    parts: Mapping[str, Mapping[str, str]],
    modules: list[str],
    order: tuple[str, str],
) -> dict[str, tuple[Tensor, Tensor]]:
    """(up, down) of every expected module, if nothing is missing or unknown."""
    missing = [m for m in modules if len(parts.get(m, {})) < 2]
    if missing:
        raise ValueError(
            f"{name} is incomplete: {len(missing)} of {len(modules)} modules lack a factor, first "
            f"{missing[0]!r}; nothing was applied, download the file again"
        )
    unknown = sorted(tensors.keys() - {key for m in modules for key in parts[m].values()})
    if unknown:
        raise ValueError(
            f"{name} has tensors that no HYPIR file has ({len(unknown)} of {len(tensors)}), first "
            f"{unknown[0]!r}; expected only two factors for each of {len(modules)} modules"
        )
    return {m: (tensors[parts[m][order[0]]], tensors[parts[m][order[1]]]) for m in modules}


def _rank(name: str, lora: Mapping[str, tuple[Tensor, Tensor]]) -> int:
    """The one rank of all modules; up is (out, rank[, 1, 1]), down is (rank, in[, k, k])."""
    rank = mode(down.shape[0] if down.ndim else 0 for _, down in lora.values())
    for module, (up, down) in lora.items():
        fits = up.ndim > 1 and down.ndim > 1 and up.shape[1] == down.shape[0] == rank
        if not fits or prod(up.shape[2:]) != 1 or not up.numel() or not down.numel():
            raise ValueError(
                f"{name} must have the same rank ({rank}) in all modules, but {module!r} has up "
                f"{tuple(up.shape)} and down {tuple(down.shape)}; download the file again"
            )
    return rank


def _check_texture(name: str, texture: dict[str, Tensor]) -> None:
    width = texture["out.bias"].numel() if "out.bias" in texture else 0
    try:
        check_texture_mlp(texture, width)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_numbers(name: str, tensors: Mapping[str, Tensor]) -> None:
    other = [k for k, v in tensors.items() if v.dtype not in DTYPES]
    if other:
        raise ValueError(
            f"{name} must contain float32, float16 or bfloat16, but {len(other)} of {len(tensors)} "
            f"tensors do not, first {other[0]!r} with {tensors[other[0]].dtype}; use a file that "
            "was not quantized"
        )
    bad = [k for k, v in tensors.items() if count_not_finite(v)]
    if bad:
        raise ValueError(
            f"{name} has NaN or infinite values in {len(bad)} of {len(tensors)} tensors, first "
            f"{bad[0]!r}; nothing was applied, download the file again"
        )


def _metadata(weights: HypirWeights) -> dict[str, str]:
    prior = weights.prior
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{prior.modelspec}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"HYPIR for {prior.title}",
        "modelspec.prediction_type": prior.prediction.modelspec,
        "hypir.format": FORMAT,
        "hypir.prior": prior.name,
        "hypir.prediction": prior.prediction.name,
        "hypir.timestep": str(weights.timestep),
        "hypir.coefficient_timestep": str(weights.coefficient_timestep),
        "hypir.input_scale": repr(weights.input_scale),
        "hypir.rank": str(weights.rank),
        "hypir.modules": json.dumps(list(weights.lora)),
        "hypir.texture": "true" if weights.texture else "false",
        "hypir.conditions": json.dumps(dict(weights.conditions)),
    }


def _matrix(shape: Shape) -> tuple[int, int]:
    """(out, in * k * k): a linear layer and a 1x1 convolution count as the same weight."""
    return shape[0], prod(shape[1:])


def _guess(tensors: Mapping[str, Tensor]) -> str:
    """A guess at the contents of a file that is not HYPIR's."""
    names = " ".join(tensors)
    if "lora" in names.lower():
        return "a LoRA of another method or base model"
    if "first_stage_model." in names or "model.diffusion_model." in names:
        return "a full checkpoint"
    if "encoder" in names or "decoder" in names:
        return "an autoencoder"
    return "something else"
