"""HYPIR weight files: read, check, convert, describe.

Two layouts are read. The public one holds peft parameter names of a diffusers UNet
(`<module>.lora_A.default.weight`, alpha = rank). Ours is a .safetensors whose LoRA names the
host's own loader maps (`lora_unet_<module>.lora_up.weight`, dots as underscores), with metadata
`hypir.*` and further tensors `hypir.*`. A file is checked in full before anything is made of it.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from .image import count_not_finite
from .priors import PRIORS, Prior
from .public_file import Shape, public_sd2_modules
from .texture import check_texture_mlp
from .weight_files import Loader, read_tensors, write_tensors

FORMAT = "1"
"""Version of our layout, in the metadata as hypir.format."""
TEXTURE_PREFIX = "hypir.texture."

PEFT_NAME = re.compile(
    r"(?:base_model\.model\.|unet\.)?(?P<module>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight"
)
NATIVE_NAME = re.compile(r"(?P<module>lora_.+)\.lora_(?P<part>up|down)\.weight")


@dataclass(frozen=True)
class HypirWeights:
    """A checked weight file: every module has both factors, of one rank, all finite."""

    prior: Prior
    lora: Mapping[str, tuple[Tensor, Tensor]]
    """Module name (diffusers) -> up (out, r[, 1, 1]) and down (r, in[, k, k]): W += up @ down."""
    rank: int
    timestep: int
    coefficient_timestep: int
    input_scale: float
    texture: Mapping[str, Tensor] | None = None
    """The richness MLP (hypir.texture), or None: these weights cannot follow a richness."""
    conditions: Mapping[str, float] = field(default_factory=dict)
    """What the network was told beside text in training."""
    source: str = "hypir"
    """"public" for the public layout, "hypir" for ours."""

    def host_names(self) -> dict[str, str]:
        """Module name -> the name under which the host's LoRA loader knows it."""
        return {m: self.prior.lora_prefix + m.replace(".", "_") for m in self.lora}

    def shape(self, module: str) -> Shape:
        """Shape of the weight that `module` adapts, from the factors."""
        up, down = self.lora[module]
        return (up.shape[0], *down.shape[1:])


def read_weights(path: str | os.PathLike, load: Loader | None = None) -> HypirWeights:
    """A weight file, checked in full.

    Args:
        path: .safetensors, or .pth read as plain tensors (nothing in it is executed).
        load: the reader to use, by default torch.load(weights_only=True) and safetensors.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: with one sentence naming the file, what is wrong and what was expected.
    """
    name = Path(path).name
    tensors, metadata = read_tensors(path, load)
    if "hypir.format" in metadata:
        weights = _read_native(name, tensors, metadata)
    else:
        weights = _read_public(name, tensors)
    _check_finite(name, tensors)
    return weights


def save_weights(weights: HypirWeights, path: str | os.PathLike) -> None:
    """Write our layout, complete or not at all (errors: those of write_tensors)."""
    tensors = {}
    for module, host_name in weights.host_names().items():
        up, down = weights.lora[module]
        tensors[f"{host_name}.lora_up.weight"] = up
        tensors[f"{host_name}.lora_down.weight"] = down
    for key, value in (weights.texture or {}).items():
        tensors[TEXTURE_PREFIX + key] = value
    write_tensors(path, tensors, _metadata(weights))


def check_shapes(name: str, weights: HypirWeights, shapes: Mapping[str, Shape]) -> None:
    """Every module must exist in the model and have the weight shape that the factors give.

    Args:
        name: of the file, for the message.
        shapes: module name -> weight shape in the model; modules that it lacks are absent.

    Raises:
        ValueError: with the count, the first offender and what was expected.
    """
    absent = [m for m in weights.lora if m not in shapes]
    if absent:
        raise ValueError(
            f"{name} adapts {len(weights.lora)} modules of {weights.prior.title}, but the model "
            f"lacks {len(absent)} of them, first {absent[0]!r}; use the base model the weights "
            f"were trained on"
        )
    wrong = [m for m in weights.lora if _matrix(weights.shape(m)) != _matrix(shapes[m])]
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"{name} does not fit the model: {len(wrong)} of {len(weights.lora)} modules have "
            f"another shape, first {first!r} with {weights.shape(first)} where the model has "
            f"{tuple(shapes[first])}; use the base model the weights were trained on"
        )


def describe(weights: HypirWeights) -> str:
    """What a file is, for people, one fact a line."""
    kind = "public HYPIR weights (peft names)" if weights.source == "public" else "HYPIR weights"
    parameters = sum(up.numel() + down.numel() for up, down in weights.lora.values())
    dtypes = sorted({str(up.dtype).removeprefix("torch.") for up, _ in weights.lora.values()})
    lines = [
        f"kind                  {kind}",
        f"prior                 {weights.prior.name}: {weights.prior.title}",
        f"prediction            {weights.prior.prediction}",
        f"rank                  {weights.rank}",
        f"modules               {len(weights.lora)} ({2 * len(weights.lora)} tensors)",
        f"parameters            {parameters / 1e6:.1f} M, {', '.join(dtypes)}",
        f"timestep              {weights.timestep}",
        f"coefficient timestep  {weights.coefficient_timestep}",
        f"input scale           {weights.input_scale:g}",
        f"texture richness      {'yes' if weights.texture else 'no'}",
        "checks                all modules there, shapes right, nothing unknown, all finite",
    ]
    if weights.conditions:
        told = ", ".join(f"{k}={v:g}" for k, v in weights.conditions.items())
        lines.insert(-1, f"conditions            {told}")
    return "\n".join(lines)


def _read_public(name: str, tensors: dict[str, Tensor]) -> HypirWeights:
    expected = public_sd2_modules()
    parts, unknown = _split(tensors, PEFT_NAME)
    shared = [m for m in parts if m in expected]
    if not shared:
        what = _guess(tensors)
        raise ValueError(
            f"{name} is not a HYPIR weight file: it looks like {what}, first tensor "
            f"{next(iter(tensors))!r}; expected the public HYPIR_sd2.pth ({len(expected)} modules, "
            f"'{next(iter(expected))}.lora_A.default.weight') or a file with hypir.* metadata"
        )
    lora = _pair(name, parts, unknown, list(expected), ("B", "A"))
    wrong = [m for m, (u, d) in lora.items() if (u.shape[0], *d.shape[1:]) != expected[m]]
    if wrong:
        up, down = lora[wrong[0]]
        raise ValueError(
            f"{name} has {len(wrong)} of {len(expected)} modules of another shape, first "
            f"{wrong[0]!r} with {(up.shape[0], *down.shape[1:])}; expected {expected[wrong[0]]}"
        )
    prior = PRIORS["sd2"]
    return HypirWeights(
        prior=prior,
        lora=lora,
        rank=_rank(name, lora),
        timestep=prior.timestep,
        coefficient_timestep=prior.timestep,
        input_scale=1.0,
        source="public",
    )


def _read_native(name: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> HypirWeights:
    if metadata["hypir.format"] != FORMAT:
        raise ValueError(
            f"{name} has layout {metadata['hypir.format']!r}, this version reads {FORMAT!r}; "
            f"update the pack"
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
    except (KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{name} has damaged hypir.* metadata ({error}); get it again") from error
    prior = PRIORS.get(prior_name)
    if prior is None or prior.prediction != prediction:
        raise ValueError(
            f"{name} is for prior {prior_name!r} with {prediction!r} prediction, which is unknown "
            f"here (known: {', '.join(PRIORS)}); update the pack"
        )
    texture = {
        k[len(TEXTURE_PREFIX) :]: v for k, v in tensors.items() if k.startswith(TEXTURE_PREFIX)
    }
    rest = {k: v for k, v in tensors.items() if not k.startswith(TEXTURE_PREFIX)}
    if bool(texture) != has_texture:
        raise ValueError(f"{name} names a texture part that differs from its tensors; get it again")
    if texture:
        if "out.bias" not in texture:
            raise ValueError(f"{name} lacks 'hypir.texture.out.bias'; get the file again")
        check_texture_mlp(texture, len(texture["out.bias"]))
    parts, unknown = _split(rest, NATIVE_NAME)
    module_of = {prior.lora_prefix + m.replace(".", "_"): m for m in modules}
    unknown += [host_name for host_name in parts if host_name not in module_of]
    parts = {module_of[k]: v for k, v in parts.items() if k in module_of}
    lora = _pair(name, parts, unknown, modules, ("up", "down"))
    if _rank(name, lora) != rank:
        raise ValueError(
            f"{name} says rank {rank} but holds rank {_rank(name, lora)}; get it again"
        )
    return HypirWeights(
        prior, lora, rank, timestep, coefficient_timestep, input_scale, texture or None, conditions
    )


def _split(tensors: Mapping[str, Tensor], pattern: re.Pattern) -> tuple[dict, list[str]]:
    """Tensors by module and part, and the names that are not LoRA factors."""
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, value in tensors.items():
        match = pattern.fullmatch(key)
        if match:
            parts.setdefault(match["module"], {})[match["part"]] = value
        else:
            unknown.append(key)
    return parts, unknown


def _pair(
    name: str, parts: Mapping[str, Mapping], unknown: list[str], modules: list[str], order: tuple
) -> dict[str, tuple[Tensor, Tensor]]:
    """(up, down) of every expected module; nothing missing, nothing more."""
    unknown = unknown + [m for m in parts if m not in set(modules)]
    missing = [m for m in modules if len(parts.get(m, {})) < 2]
    if missing:
        raise ValueError(
            f"{name} is incomplete: {len(missing)} of {len(modules)} modules lack a factor, first "
            f"{missing[0]!r}; nothing was applied, get the file again"
        )
    if unknown:
        raise ValueError(
            f"{name} holds {len(unknown)} tensors that no HYPIR file has, first {unknown[0]!r}; "
            f"expected {len(modules)} modules and nothing more"
        )
    return {m: (parts[m][order[0]], parts[m][order[1]]) for m in modules}


def _rank(name: str, lora: Mapping[str, tuple[Tensor, Tensor]]) -> int:
    """The one rank of all modules."""
    rank = next(iter(lora.values()))[1].shape[0]
    for module, (up, down) in lora.items():
        if up.ndim < 2 or down.ndim < 2 or up.shape[1] != down.shape[0] or down.shape[0] != rank:
            raise ValueError(
                f"{name} must have one rank throughout ({rank}), but {module!r} has up "
                f"{tuple(up.shape)} and down {tuple(down.shape)}; get the file again"
            )
    return rank


def _check_finite(name: str, tensors: Mapping[str, Tensor]) -> None:
    bad = [k for k, v in tensors.items() if v.is_floating_point() and count_not_finite(v)]
    if bad:
        raise ValueError(
            f"{name} has NaN or infinite values in {len(bad)} of {len(tensors)} tensors, first "
            f"{bad[0]!r}; nothing was applied, get the file again"
        )


def _metadata(weights: HypirWeights) -> dict[str, str]:
    prior = weights.prior
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{prior.name}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"HYPIR for {prior.title}",
        "modelspec.prediction_type": {"eps": "epsilon"}.get(prior.prediction, prior.prediction),
        "hypir.format": FORMAT,
        "hypir.prior": prior.name,
        "hypir.prediction": prior.prediction,
        "hypir.timestep": str(weights.timestep),
        "hypir.coefficient_timestep": str(weights.coefficient_timestep),
        "hypir.input_scale": repr(weights.input_scale),
        "hypir.rank": str(weights.rank),
        "hypir.modules": json.dumps(list(weights.lora)),
        "hypir.texture": "true" if weights.texture else "false",
        "hypir.conditions": json.dumps(dict(weights.conditions)),
    }


def _matrix(shape: Shape) -> tuple[int, int]:
    """(out, in * k * k): a linear layer and a 1x1 convolution are the same adapted weight."""
    inner = 1
    for n in shape[1:]:
        inner *= n
    return shape[0], inner


def _guess(tensors: Mapping[str, Tensor]) -> str:
    """What a file that is not HYPIR's seems to be."""
    names = " ".join(list(tensors)[:50])
    if "lora" in names.lower():
        return "a LoRA of another method or base model"
    if "first_stage_model" in names or "model.diffusion_model" in names:
        return "a full checkpoint"
    if "encoder" in names or "decoder" in names:
        return "an autoencoder"
    return "something else"
