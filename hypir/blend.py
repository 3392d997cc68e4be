"""Between two weight files: network interpolation (Wang et al. 2018, ESRGAN, section 3.4).

    theta = (1 - a) theta_1 + a theta_2

of a LoRA trained by error alone and one that was trained on from it adversarially: between likeness
and invented detail, without a training run for every step between.
"""

from torch import Tensor

from .weights import HypirWeights


def blend(first: HypirWeights, second: HypirWeights, share: float) -> HypirWeights:
    """Interpolate factor by factor; 0 is the first, 1 the second.

    Args:
        first, second: of one prior, rank, list of modules and timesteps; one trained on from the
            other, or both from a third, since factors of LoRAs that grew apart do not match.
        share: of the second, 0 to 1.

    Raises:
        ValueError: naming what differs, or a share outside.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share must be between 0 and 1, got {share}")
    for what, read in _MUST_MATCH.items():
        _check_same(what, read(first), read(second))
    for kind, one, other in (
        ("modules", first.lora, second.lora),
        ("parts of the richness token", first.texture or {}, second.texture or {}),
    ):
        alone = sorted(one.keys() ^ other.keys())
        if alone:
            _check_same(kind, *(alone[0] if alone[0] in x else "none" for x in (one, other)))
        for name, tensors in one.items():
            _check_same(f"sizes of {name}", _sizes(tensors), _sizes(other[name]))

    def mix(a: Tensor, b: Tensor) -> Tensor:
        return ((1 - share) * a.float() + share * b.float()).to(b.dtype)

    lora = {
        module: tuple(mix(a, b) for a, b in zip(first.lora[module], factors, strict=True))
        for module, factors in second.lora.items()
    }
    texture = second.texture
    if texture is not None:
        texture = {key: mix(first.texture[key], value) for key, value in texture.items()}
    return HypirWeights(**{**second.__dict__, "lora": lora, "texture": texture})


def _check_same(what: str, one: object, other: object) -> None:
    if one != other:
        raise ValueError(
            f"both files must have the same {what} to be blended, got {one} and {other}; take "
            f"two runs of which one began with the other's file, or both with a third's"
        )


def _sizes(tensors: Tensor | tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in (tensors if isinstance(tensors, tuple) else (tensors,))]


_MUST_MATCH = {
    "prior": lambda w: w.prior.name,
    "rank": lambda w: w.rank,
    "number of modules": lambda w: len(w.lora),
    "timestep": lambda w: w.timestep,
    "coefficient timestep": lambda w: w.coefficient_timestep,
    "input scale": lambda w: round(w.input_scale, 6),
    "conditions": lambda w: dict(w.conditions),
    "richness token": lambda w: "one" if w.texture is not None else "none",
}
