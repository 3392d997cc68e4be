"""Interpolate two weight files (network interpolation: Wang et al. 2018, ESRGAN, section 3.4).

    theta = (1 - a) theta_1 + a theta_2

where theta_1 was trained on the error alone and theta_2 was trained from it adversarially. This
sets the balance of fidelity and invented detail without further training.
"""

from torch import Tensor

from .weights import HypirWeights


def blend(first: HypirWeights, second: HypirWeights, share: float) -> HypirWeights:
    """Interpolate the factors of two files; share 0 gives the first, 1 the second.

    Args:
        first, second: files with the same prior, rank, modules and timesteps. One must be trained
            from the other, or both from a third: factors of unrelated LoRAs do not correspond.
        share: share of the second, 0 to 1.

    Raises:
        ValueError: if the files differ in one of these (it is named), or the share is not in 0..1.
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
            f"both files must have the same {what} to be blended, got {one} and {other}; use two "
            "runs, one started from the other's file, or both from a third"
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
