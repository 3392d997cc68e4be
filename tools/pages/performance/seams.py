"""`nox -s bench -- seams`: how visible tile borders are, by stage and overlap.

Two tiles side by side on a photo enlarged 2x, compared with the same stage untiled, with full-size
models and random weights.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from hypir.color import transfer_color
from hypir.priors import SD2
from hypir.tiling import CELL_PX, VAE_COST, Axis, Tile, TilePlan, run_tiles
from tools.pages.markdown import table
from tools.pages.performance import models, report

log = logging.getLogger(__name__)

PHOTOS = ("astronaut.png", "coffee.png")
VAE_TILE, VAE_OVERLAPS = 32, (0, 2, 4, 6, 8, 12)  # cells; 0 to 96 px
NETWORK_TILE, NETWORK_OVERLAPS = 64, (0, 4, 8, 12, 16, 24, 32)
MARGIN = 2  # cells on either side of the overlap that count as the border
DEPTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16)  # cells from the edge of a tile


@dataclass(frozen=True)
class Seam:
    """The difference of a tiled and the untiled result around the border of two tiles."""

    band: float
    """Gradient energy across the border relative to elsewhere, divided by that of the untiled
    result."""
    line: float
    """The same for the worst single line of the border."""
    line_elsewhere: float
    """The worst line outside the border: the level without a seam."""
    difference: float
    """Root mean square of tiled minus untiled, in standard deviations of the untiled."""


@dataclass(frozen=True)
class Found:
    """One photo's curves by stage."""

    seams: dict[str, list[Seam]]
    """By overlap."""
    depths: dict[str, list[float]]
    """error_by_depth of one tile."""


def measure(tiled: Tensor, whole: Tensor, axis: Axis, scale: int) -> Seam:
    """The seam between two tiles side by side.

    Line k lies between columns k - 1 and k; those of the overlap and MARGIN cells on either side
    are the border. The last cells are excluded, because the untiled result continues there. 1 = as
    in the untiled result.

    Args:
        tiled, whole: (B, C, H, W), W = axis.length * scale.
        axis: of the columns, two tiles.
        scale: columns per cell.
    """
    inner = (axis.length - 2 * MARGIN) * scale
    ours, theirs = _line_energy(tiled[..., :inner]), _line_energy(whole[..., :inner])
    first = (axis.starts[1] - MARGIN) * scale
    last = (axis.starts[0] + axis.tile + MARGIN) * scale
    border = torch.zeros(len(ours), dtype=torch.bool)
    border[first - 1 : last] = True  # line k is entry k - 1
    level = ours[~border].mean() / theirs[~border].mean()
    by_line = ours / theirs / level
    return Seam(
        band=float(ours[border].mean() / theirs[border].mean() / level),
        line=float(by_line[border].max()),
        line_elsewhere=float(by_line[~border].max()),
        difference=float((tiled - whole).square().mean().sqrt() / whole.std()),
    )


def error_by_depth(part: Tensor, whole: Tensor, scale: int) -> list[float]:
    """The error of a tile by distance from its right edge, where the image continues.

    Returns:
        For every distance of DEPTHS from that edge the root mean square of tile minus whole, in
        standard deviations of the whole; then the same for all of the tile beyond the last.
    """
    width = part.shape[-1]
    error = (part - whole[..., :width]).square().mean(dim=(0, 1, 2)).flip(0)
    error = error.reshape(-1, scale).mean(dim=1)  # by cells, from the edge inwards
    chosen = [*(error[d] for d in DEPTHS), error[DEPTHS[-1] + 1 :].mean()]
    return [float(e.sqrt() / whole.std()) for e in chosen]


def _line_energy(image: Tensor) -> Tensor:
    return image.double().diff(dim=-1).square().mean(dim=(0, 1, 2))


def two_tiles(tile: int, overlap: int) -> TilePlan:
    """Two square tiles side by side."""
    columns = Axis(2 * tile - overlap, tile, (0, tile - overlap))
    return TilePlan(Axis(tile, tile, (0,)), columns)


def curve(
    source: Tensor,
    call: Callable[[Tensor], Tensor],
    tile: int,
    overlaps: tuple[int, ...],
    scale_in: int,
    scale_out: int,
) -> tuple[Tensor, Tensor, list[tuple[Axis, Tensor]]]:
    """The untiled result of two tiles' length, the first tile's, the tiled one by overlap."""
    whole = call(source)
    known: dict[int, Tensor] = {}

    def process(tiles: list[Tile]) -> Tensor:
        results = []
        for one in tiles:
            if one.x not in known:
                columns = slice(one.x * scale_in, (one.x + one.width) * scale_in)
                known[one.x] = call(source[..., columns])
            results.append(known[one.x])
        return torch.cat(results)

    tiled = []
    for overlap in overlaps:
        plan = two_tiles(tile, overlap)
        width = plan.columns.length * scale_out
        out = torch.zeros(1, whole.shape[1], tile * scale_out, width)
        run_tiles(plan, process, out, scale_out)
        tiled.append((plan.columns, out))
    return whole, known[0], tiled


def seams_of(whole: Tensor, tiled: list[tuple[Axis, Tensor]], scale: int) -> list[Seam]:
    return [measure(result, whole[..., : result.shape[-1]], axis, scale) for axis, result in tiled]


def photo(name: str) -> Tensor:
    """The middle of a photo, enlarged twice: (1, 3, 512, 1024) in [0, 1]."""
    import skimage
    from skimage.io import imread

    image = torch.from_numpy(imread(Path(skimage.__file__).parent / "data" / name)[..., :3])
    top, left = ((side - want) // 2 for side, want in zip(image.shape, (256, 512), strict=False))
    small = image[top : top + 256, left : left + 512].movedim(-1, 0)[None] / 255
    return functional.interpolate(small, scale_factor=2, mode="bicubic").clamp(0, 1)


def standardized(latent: Tensor) -> Tensor:
    """As a trained encoder's latent is scaled: zero mean and unit variance per channel."""
    std, mean = torch.std_mean(latent, dim=(0, 2, 3), keepdim=True)
    return (latent - mean) / std


@torch.inference_mode()
def of_photo(name: str, unet: torch.nn.Module, vae: torch.nn.Module) -> Found:
    """The curves of all stages on one photo."""
    image = photo(name)
    text, level = models.context(), SD2.level(SD2.timestep)
    times = torch.tensor([SD2.timestep])

    def encode(pixels: Tensor) -> Tensor:
        return vae.encode(pixels * 2 - 1).latent_dist.mean

    def step(z: Tensor) -> Tensor:
        return (z - level.sigma * unet(z, times, text).sample) / level.alpha

    def decode(z: Tensor) -> Tensor:
        return vae.decode(z / SD2.latent_scale).sample

    side = VAE_TILE * CELL_PX
    part = image[..., 128 : 128 + side, 256 : 256 + 2 * side]
    found = Found({}, {})

    def keep(stage: str, whole: Tensor, part: Tensor, tiled: list, scale: int) -> None:
        found.seams[stage] = seams_of(whole, tiled, scale)
        found.depths[stage] = error_by_depth(part, whole, scale)
        log.info("%s, %s: %s %s", name, stage, found.seams[stage], found.depths[stage])

    whole, first, tiled = curve(part, encode, VAE_TILE, VAE_OVERLAPS, CELL_PX, 1)
    keep("encode", whole, first, tiled, 1)
    z = standardized(whole)
    whole, first, tiled = curve(z, decode, VAE_TILE, VAE_OVERLAPS, 1, CELL_PX)
    keep("decode", whole, first, tiled, CELL_PX)
    gain = part.std() / whole.std()
    tiled = [(axis, _colored(out, whole, gain, part)) for axis, out in tiled]
    first = _colored(first, whole, gain, part)
    whole = _colored(whole, whole, gain, part)
    keep("decode, wavelet colours", whole, first, tiled, CELL_PX)
    z = standardized(encode(image))
    whole, first, tiled = curve(z, step, NETWORK_TILE, NETWORK_OVERLAPS, 1, 1)
    keep("step", whole, first, tiled, 1)
    return found


def _colored(out: Tensor, whole: Tensor, gain: Tensor, picture: Tensor) -> Tensor:
    """The decoded picture at the photo's contrast, with the photo's colours."""
    image = (out - whole.mean()) * gain + picture.mean()
    target = picture[..., : image.shape[-1]].movedim(1, -1)  # BCHW -> BHWC
    return transfer_color(image.movedim(1, -1), target).movedim(-1, 1)


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser("nox -s bench -- seams", description=__doc__)
    parser.add_argument("--photos", nargs="*", default=PHOTOS, help="of scikit-image")
    options = parser.parse_args(options)
    unet, vae = models.make_unet(), models.make_vae()
    found = [of_photo(name, unet, vae) for name in options.photos]
    text = section(found)
    log.info("%s", text)
    report.write("seams", text)


def section(found: list[Found]) -> str:
    parts = [
        "Two tiles side by side on a photo enlarged 2x, compared with the same stage untiled: "
        f"full-size models, random weights, float32, mean of {len(found)} photos. The tiles are "
        f"{VAE_TILE * CELL_PX} px for the autoencoder and {NETWORK_TILE} latents for the network. "
        "They are smaller than the planned tiles, so that their borders weigh more.",
        f"The border is the overlap plus {MARGIN} cells on either side. band: the gradient energy "
        "across the border relative to that elsewhere, divided by the same ratio of the untiled "
        "result; 1 means no seam. worst line: the same for the worst line of the border. worst "
        "line elsewhere: the same outside the border, the level of a result without a seam. "
        "difference: root mean square of tiled minus untiled over the whole image, in standard "
        "deviations of the untiled result.",
    ]
    for stage in ("encode", "step", "decode", "decode, wavelet colours"):
        overlaps = NETWORK_OVERLAPS if stage == "step" else VAE_OVERLAPS
        default = SD2.tile.overlap if stage == "step" else VAE_COST.overlap
        rows = []
        for i, overlap in enumerate(overlaps):
            mean = torch.tensor([astuple(one.seams[stage][i]) for one in found]).mean(0).tolist()
            mark = ", default" if overlap == default else ""
            size = f"{overlap} latents, " if stage == "step" else ""
            rows.append((f"{size}{overlap * CELL_PX} px{mark}", *(f"{v:.3f}" for v in mean)))
        head = ("overlap", "band", "worst line", "worst line elsewhere", "difference")
        parts += [f"### {stage.capitalize()}", table(head, rows)]
    head = ("cells from the edge", *DEPTHS, "deeper")
    rows = [
        (stage, *(f"{v:.3f}" for v in torch.tensor([f.depths[stage] for f in found]).mean(0)))
        for stage in found[0].depths
    ]
    parts += [
        "### How far the effect of an edge reaches",
        "One tile compared with the untiled result: root mean square error, in standard "
        "deviations, by the distance from an inner edge of the tile. The error that remains deep "
        "inside the tile comes from operations over the whole tile (norms, attention); no overlap "
        "removes it.",
        table(head, rows),
    ]
    return "\n\n".join(parts)
