"""From trained modules to the files that the nodes load."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hypir.weights import HypirWeights, read_weights, save_weights

from .architectures import ARCHITECTURES
from .generator import Generator, TextureToken
from .lora import add_lora
from .models import Base
from .recipe import Recipe
from .weightless import reads_weights

DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"


def make_generator(base: Base, recipe: Recipe) -> Generator:
    """The base model's network with LoRA and richness token, as the recipe has it."""
    asked, prior = recipe.lora, base.prior
    targets = asked.targets or ARCHITECTURES[prior.name].targets
    add_lora(base.network, asked.rank, targets, recipe.seed, recipe.engine.precision != "no")
    timestep = asked.timestep if asked.timestep >= 0 else prior.timestep
    coefficient = asked.coefficient_timestep if asked.coefficient_timestep >= 0 else timestep
    scale = asked.input_scale if asked.input_scale >= 0 else prior.input_scale_at(timestep)
    texture = recipe.conditions.texture
    token = TextureToken(base.text.token_width, recipe.seed) if texture else None
    return Generator(prior, base.network, timestep, coefficient, scale, token)


def hypir_weights(generator: Generator, tensors: Mapping[str, Tensor]) -> HypirWeights:
    """A generator's trained parameters, by name, as the content of a weight file."""
    lora, texture = {}, None
    for name in tensors:
        if name.endswith(DOWN):
            module = name.removeprefix("network.").removesuffix(DOWN)
            up = tensors[name.removesuffix(DOWN) + UP]
            lora[module] = (_plain(up), _plain(tensors[name]))
    if generator.texture is not None:
        own = {k: tensors[f"texture.layers.{k.replace('.', '_')}"] for k in _TEXTURE}
        texture = {"frequencies": _plain(generator.texture.frequencies)}
        texture |= {k: _plain(v) for k, v in own.items()}
    return HypirWeights(
        prior=generator.prior,
        lora=lora,
        rank=next(iter(lora.values()))[1].shape[0],
        timestep=generator.timestep,
        coefficient_timestep=generator.coefficient_timestep,
        input_scale=generator.one_step.input_scale,
        texture=texture,
        conditions=generator.conditions,
    )


@torch.no_grad()
def put_weights(
    generator: Generator, weights: HypirWeights, tensors: Mapping[str, Tensor] | None = None
) -> None:
    """The inverse of hypir_weights: a file's content into a generator's parameters, in place.

    Args:
        tensors: where to put them, by name: the generator's own by default, or its averages.
    """
    own = dict(generator.named_parameters()) if tensors is None else tensors
    for module, (up, down) in weights.lora.items():
        own[f"network.{module}{UP}"].copy_(up)
        own[f"network.{module}{DOWN}"].copy_(down)
    for key in _TEXTURE if weights.texture is not None else ():
        own[f"texture.layers.{key.replace('.', '_')}"].copy_(weights.texture[key])


@reads_weights
def start_from(generator: Generator, path: Path) -> None:
    """Begin with the weights of a file instead of fresh ones.

    Raises:
        ValueError: if the file is of another prior, rank, list of modules or texture.
    """
    weights = read_weights(path)
    own = {n: p for n, p in generator.named_parameters() if p.requires_grad}
    here = hypir_weights(generator, own)
    for what in ("prior", "rank", "lora", "texture"):
        have, want = (_kind(getattr(w, what)) for w in (weights, here))
        if have != want:
            raise ValueError(
                f"{path.name} must fit the recipe to start from it; its {what} is {have}, the "
                f"recipe's {want}; set the fields of the recipe as the file has them"
            )
    put_weights(generator, weights)


def export_generator(
    generator: Generator,
    path: Path,
    tensors: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a generator's LoRA and richness token as hypir.weights reads them.

    Args:
        tensors: trained parameters by name, by default the generator's own.
        dtype: of the LoRA; the small richness part stays in float32.
    """
    if tensors is None:
        tensors = {k: p for k, p in generator.named_parameters() if p.requires_grad}
    weights = hypir_weights(generator, tensors)
    lora = {m: (up.to(dtype), down.to(dtype)) for m, (up, down) in weights.lora.items()}
    save_weights(HypirWeights(**{**weights.__dict__, "lora": lora}), path)
    return path


_TEXTURE = ("in.weight", "in.bias", "out.weight", "out.bias")


def _kind(value) -> str:
    """For a comparison and for people."""
    if isinstance(value, Mapping):
        return f"{len(value)} parts, {sorted(value)[0]} to {sorted(value)[-1]}"
    return str(getattr(value, "name", value))


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor if tensor.is_meta else tensor.cpu().clone()
