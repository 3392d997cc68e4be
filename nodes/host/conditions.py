"""Conditioning for tiles: conditions that belong to a place or a batch item are cut per tile.

The host resolves conditions once, for the whole latent (`guider.conds`: name -> list of dicts with
`model_conds`). Tensors with one entry per image are selected by the tile's item, masks and areas
are cut, and a painted richness gives each tile its own token. Conditions that cannot be cut are
refused.
"""

import torch
from torch import Tensor

from ...hypir.image import latent_size
from ...hypir.texture import embed_richness
from ...hypir.tiling import CELL_PX, Tile, TilePlan

TEXTURE_MAP = "hypir_texture_map"
"""Key of a condition with a painted richness: (map (B, H, W) in [0, 1], weights of the MLP, index
of its token)."""

UNCUT = {"control": "a ControlNet", "gligen": "GLIGEN boxes"}

Conditions = dict[str, list[dict]]


def have_places(conditions: Conditions) -> bool:
    """Whether any condition has a mask or an area; the host fits these to the latent's size."""
    return _have(conditions, "area", "mask")


def are_spatial(conditions: Conditions) -> bool:
    """Whether any condition differs between parts of the image."""
    return _have(conditions, "area", "mask", TEXTURE_MAP)


def _have(conditions: Conditions, *keys: str) -> bool:
    return any(key in c for group in conditions.values() for c in group for key in keys)


def most_tiles(plan: TilePlan, conditions: Conditions, items: int) -> int:
    """How tiles can share a network call: tiles of one place or one image go alone if the
    conditions differ between places or images."""
    if len(plan.boxes) > 1 and are_spatial(conditions):
        return 1
    return len(plan.boxes) * (1 if differ_by_item(conditions) else items)


def differ_by_item(conditions: Conditions) -> bool:
    """Whether any condition has one entry per image of the batch."""
    return any(
        tensor.shape[0] > 1
        for group in conditions.values()
        for c in group
        for tensor in _tensors(c)
    )


def within_latent(conditions: Conditions, cells: tuple[int, int]) -> Conditions:
    """The conditions whose area overlaps a latent of this many cells."""
    whole = Tile(0, 0, 0, *cells)
    return {
        name: [c for c in group if "area" not in c or _cut_area(tuple(c["area"]), whole)]
        for name, group in conditions.items()
    }


def check_conditions(
    conditions: Conditions, tiled: bool, cells: tuple[int, int], items: int
) -> None:
    """Raise ValueError for conditions that do not fit a latent of so many cells and items."""
    every = [c for group in conditions.values() for c in group]
    for c in every:
        size = tuple(c[TEXTURE_MAP][0].shape[-2:]) if TEXTURE_MAP in c else None
        if size is not None and latent_size(*size) != cells:
            raise ValueError(
                f"the painted texture map must have the size of the image, got {size[1]}x{size[0]} "
                f"px for a latent of {cells[1]}x{cells[0]} cells of {CELL_PX} px; resize the mask "
                "to the enlarged image"
            )
        if size is not None and len(c[TEXTURE_MAP][0]) not in (1, items):
            raise ValueError(
                f"there must be one painted texture map, or one per image ({items}), got "
                f"{len(c[TEXTURE_MAP][0])}; select or repeat it with a batch node"
            )
        _check_hints(c.get("control"))
    if not tiled:
        return
    for c in every:
        for key, what in UNCUT.items():
            if c.get(key) is not None:
                raise ValueError(
                    f"{what} in the conditioning cannot be cut into tiles; increase tile_size "
                    "until the image fits in one tile, or remove it"
                )
        if {"c_concat", "ref_latents"} & c.get("model_conds", {}).keys():
            raise ValueError(
                "a conditioning that carries an image (c_concat or a reference latent) cannot be "
                "cut into tiles; increase tile_size until the image fits in one tile, or remove it"
            )


def _check_hints(control) -> None:
    """Refuse hints per image: a call can contain only some images, and the host would use the first
    hints."""
    while control is not None:
        hint = getattr(control, "cond_hint_original", None)
        if hint is not None and hint.shape[0] > 1:
            raise ValueError(
                f"a ControlNet with {hint.shape[0]} hints cannot be assigned to the images of a "
                "batch; restore the images one by one, each with its own hint"
            )
        control = getattr(control, "previous_controlnet", None)


def conditions_of_tiles(
    conditions: Conditions, tiles: list[Tile], tiled: bool, mixed: bool
) -> Conditions:
    """The conditions of one call of the network.

    Args:
        conditions: the host's conditions, resolved for the whole latent.
        tiles: the tiles of the call; of one item unless `mixed`.
        tiled: whether the image has several tiles.
        mixed: whether the conditions are the same for all items and places.
    """
    if mixed:
        return conditions
    result = {}
    for name, group in conditions.items():
        cut = [_of_tiles(c, tiles, tiled) for c in group]
        result[name] = [c for c in cut if c is not None]
    return result


def _of_tiles(condition: dict, tiles: list[Tile], tiled: bool) -> dict | None:
    condition = dict(condition)
    item = tiles[0].item
    if "model_conds" in condition:
        condition["model_conds"] = {
            key: _of_item(value, item) for key, value in condition["model_conds"].items()
        }
    if TEXTURE_MAP in condition:
        _set_texture(condition, tiles)
    if "mask" in condition:
        mask = condition["mask"]
        mask = mask[item % mask.shape[0]][None]
        condition["mask"] = tiles[0].window(mask) if tiled else mask
    if "area" in condition and tiled:
        area = _cut_area(tuple(condition["area"]), tiles[0])
        if area is None:
            return None
        condition["area"] = area
    return condition


def _of_item(value, item: int):
    """The entry of one image; conditions with one entry for all images are kept."""
    tensor = getattr(value, "cond", None)
    if isinstance(tensor, Tensor) and tensor.ndim > 0 and tensor.shape[0] > 1:
        index = item % tensor.shape[0]
        return value._copy_with(tensor[index : index + 1])
    return value


def _tensors(condition: dict):
    if isinstance(condition.get("cross_attn"), Tensor):
        yield condition["cross_attn"]
    for value in condition.get("model_conds", {}).values():
        tensor = getattr(value, "cond", None)
        if isinstance(tensor, Tensor) and tensor.ndim > 0:
            yield tensor
    if "mask" in condition:
        yield condition["mask"]


def _cut_area(area: tuple[int, ...], tile: Tile) -> tuple[int, ...] | None:
    """(height, width, y, x) of the area inside the tile, or None if they do not overlap."""
    height, width, y, x = area
    top, left = max(y - tile.y, 0), max(x - tile.x, 0)
    bottom = min(y + height - tile.y, tile.height)
    right = min(x + width - tile.x, tile.width)
    if bottom <= top or right <= left:
        return None
    return bottom - top, right - left, top, left


def _set_texture(condition: dict, tiles: list[Tile]) -> None:
    """Give every tile the token for the mean of its part of the painted map.

    Its index is the one set by HYPIR Conditioning: a prompt may have been appended since.
    """
    painted, mlp, place = condition[TEXTURE_MAP]
    means = []
    for tile in tiles:
        plane = painted[tile.item % painted.shape[0]]
        y, x = tile.y * CELL_PX, tile.x * CELL_PX
        part = plane[y : y + tile.height * CELL_PX, x : x + tile.width * CELL_PX]
        # A tile with only padding repeats the edge of the image.
        part = part if part.numel() else plane[-1:, -1:]
        means.append(part.mean())
    token = embed_richness(torch.stack(means), mlp)
    attention = condition["model_conds"]["c_crossattn"]
    tokens = attention.cond.expand(len(tiles), -1, -1).clone()
    if place >= tokens.shape[1]:
        raise ValueError(
            f"the painted texture belongs to token {place + 1}, but the conditioning has only "
            f"{tokens.shape[1]}; put nodes that shorten a prompt before HYPIR Conditioning"
        )
    tokens[:, place : place + 1] = token.to(tokens)
    condition["model_conds"]["c_crossattn"] = attention._copy_with(tokens)
