"""Write docs/quality.md: how good the small model is, on photographs that are not in the training
data.

    python -m tools.pages.quality [--plain-lora F] [--folder F] [--votes F]

Photographs of scikit-image are degraded by HYPIR Degrade, enlarged, and restored through a real
host with the template START_here. For comparison: bicubic enlarging, the prior before its
adversarial stage, and a LoRA trained with mean squared error alone (--plain-lora). --votes writes
pairs of images in random order for a blind vote, with the key in a separate file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import color, data, metrics

from hypir.color import transfer_color
from hypir.metrics import band_correlations, detail_ratio, seam_ratio
from hypir.priors import SD3
from hypir.tiling import CELL_PX, VAE_COST, plan_tiles
from hypir.weights import read_weights
from tools import ROOT
from tools.command_line import Parser, run
from tools.host.get_host import get_host
from tools.host.server import Server, running
from tools.pages.contact_sheet import contact_sheet, encode
from tools.pages.control_graphs import Lab, Setting
from tools.pages.controls import SMALL_LORA
from tools.pages.markdown import table
from tools.workflows.prompt import START

PHOTOS = {
    "astronaut": data.astronaut,
    "chelsea": data.chelsea,
    "coffee": data.coffee,
    "rocket": data.rocket,
    "stereo_motorcycle": lambda: data.stereo_motorcycle()[0],
    "camera": data.camera,
    "grass": data.grass,
    "brick": data.brick,
}
PRESETS = ("light", "medium", "heavy")
SCALE = 4
MEAN_PX = 16  # side of the squares whose mean colours are compared
TILE_PX = 256
BICUBIC, PRIOR, PLAIN, FULL = "bicubic", "prior alone", "MSE alone", "HYPIR"
BOUND = "photograph, colours of the input"
COLUMNS = ("PSNR", "SSIM", "detail", "correlation", "color")
MOST_BYTES = 1_500_000  # of the pictures of a preset
SHEET_PX = 256
OPENING = """\
# How good the small model is

Eight photographs of scikit-image, none of them in the training data. HYPIR Degrade reduced each one
to 1/4 of its size. They were then restored through ComfyUI with the template START_here, with
colour transfer and without HYPIR Match Texture. A preset is a range of degradations: each
photograph gets its own draw, with its number (0 to 7) as the seed, as HYPIR Degrade does for the
images of a batch. The small model was trained on synthetic images on a CPU ([its
card](../models/README.md)); these numbers say nothing about full-size weights.

- **PSNR** (dB), **SSIM** (in colour): higher is closer to the photograph.
- **detail**: standard deviation of the Laplacian, divided by that of the photograph. At 1 the
  result has as much fine detail as the photograph.
- **correlation** with the photograph in the bands of a Haar wavelet: mean over the bands of the
  finest octave / the second / the third. Invented detail and noise lower it.
- **color**: CIEDE2000 between means of 16x16 px.

*bicubic* is the enlarged degraded image. *prior alone* is the graph without the LoRA: encoder, one
step, decoder. *MSE alone* has a LoRA trained on the error of latents only. *HYPIR* is the shipped
model. For medium and heavy, a list under the table compares the results with goals that were set
before measuring; the goals are for HYPIR unless a line says otherwise.

The last row is not a restoration. It is the photograph after the colour transfer, which gives it
the low frequencies of the degraded image. A result with colour transfer cannot be expected to have
better colours.

"""


def photo(name: str) -> np.ndarray:
    """(H, W, 3) uint8."""
    picture = PHOTOS[name]()
    return picture[..., :3] if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)


def measure(result: np.ndarray, target: np.ndarray) -> dict[str, float | list[float]]:
    """All columns of the table for one image (H, W, 3) uint8."""
    a, b = (torch.from_numpy(x)[None].float() / 255 for x in (result, target))
    small = [color.rgb2lab(means(x) / 255) for x in (result, target)]
    bands = band_correlations(a, b)[0].mean(dim=1).tolist()
    return {
        "PSNR": metrics.peak_signal_noise_ratio(target, result),
        "SSIM": metrics.structural_similarity(target, result, channel_axis=-1),
        "detail": float(detail_ratio(a, b)),
        "correlation": bands,
        "color": float(color.deltaE_ciede2000(*small).mean()),
    }


def means(picture: np.ndarray) -> np.ndarray:
    """Means over squares of MEAN_PX."""
    height, width = (side // MEAN_PX for side in picture.shape[:2])
    cut = picture[: height * MEAN_PX, : width * MEAN_PX].astype(float)
    return cut.reshape(height, MEAN_PX, width, MEAN_PX, 3).mean(axis=(1, 3))


def with_colors_of(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The picture after the colour transfer from another, both (H, W, 3) uint8."""
    image, reference = (torch.from_numpy(x)[None].float() / 255 for x in (picture, other))
    moved = transfer_color(image, reference)[0].clamp(0, 1)
    return (moved * 255).round().to(torch.uint8).numpy()


def seam(lab: Lab) -> float:
    """Gradient energy at tile borders relative to elsewhere, divided by that of the untiled
    result."""
    whole, tiled = lab.run([Setting(), Setting(tile_size=TILE_PX)])
    cells = TILE_PX // CELL_PX
    borders = set()
    for cost in (VAE_COST, SD3.tile):
        axis = plan_tiles(lab.height // CELL_PX, lab.width // CELL_PX, cost, cells).columns
        ends = [start + axis.tile for start in axis.starts[:-1]]
        borders |= {c * CELL_PX for c in (*axis.starts[1:], *ends)}
    ratios = [
        seam_ratio(torch.from_numpy(r.pictures[0]).float() / 255, sorted(borders), CELL_PX)
        for r in (tiled, whole)
    ]
    return ratios[0] / ratios[1]


def restored(lab: Lab, plain: Lab | None) -> dict[str, np.ndarray]:
    """Pictures by method."""
    before, after = (r.pictures[0] for r in lab.run([Setting(lora=0.0), Setting()]))
    pictures = {BICUBIC: lab.degraded()[0], PRIOR: before}
    if plain is not None:
        pictures[PLAIN] = plain.run([Setting()])[0].pictures[0]
    return {**pictures, FULL: after}


def means_of(found: dict[str, list[dict]]) -> str:
    """The table of means by method."""
    rows = []
    for method, measured in found.items():
        bands = np.mean([m["correlation"] for m in measured], axis=0)
        mean = {k: np.mean([m[k] for m in measured]) for k in COLUMNS if k != "correlation"}
        values = {"PSNR": f"{mean['PSNR']:.2f}", "SSIM": f"{mean['SSIM']:.3f}"}
        values |= {"detail": f"{mean['detail']:.2f}", "color": f"{mean['color']:.2f}"}
        values["correlation"] = " / ".join(f"{b:.2f}" for b in bands)
        rows.append((method, *(values[column] for column in COLUMNS)))
    return table(("method", *COLUMNS), rows)


def verdicts(preset: str, found: dict[str, list[dict]], seams: float | None) -> list[str]:
    """The goals, and whether they hold."""

    def mean(method: str, column: str):
        return np.mean([m[column] for m in found[method]], axis=0)

    gain = mean(FULL, "PSNR") - mean(BICUBIC, "PSNR")
    prior = mean(PRIOR, "PSNR") - mean(BICUBIC, "PSNR")
    bands = mean(FULL, "correlation") - mean(BICUBIC, "correlation")
    lines = [
        (f"PSNR not below bicubic's: {gain:+.2f} dB", gain >= 0),
        ("SSIM above bicubic's", mean(FULL, "SSIM") > mean(BICUBIC, "SSIM")),
        ("detail between 0.6 and 1.4", 0.6 <= mean(FULL, "detail") <= 1.4),
        ("correlation above bicubic's in each octave", bool((bands > 0).all())),
        ("color at most 2", mean(FULL, "color") <= 2),
    ]
    if preset in AIMS:
        wanted = f"prior alone {AIMS[preset]} dB above bicubic"
        lines.append((f"{wanted}: {prior:+.2f} dB", prior >= AIMS[preset]))
    if seams is not None:
        lines.append((f"tile borders at most 1.05 times: {seams:.3f}", seams <= 1.05))
    return [f"- {text}: {'holds' if good else 'does not hold'}" for text, good in lines]


EXAMPLE = ("medium", "chelsea", (slice(0, 288), slice(64, 352)))
"""Preset, photograph and part of the picture in the README."""
AIMS = {"medium": 1, "heavy": 2}


def write_pairs(pictures: dict[str, np.ndarray], folder: Path, number: int) -> None:
    """Write pairs of images, HYPIR and another method, with the sides recorded only in key.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, rival in enumerate(m for m in (BICUBIC, PLAIN) if m in pictures):
        draw = np.random.default_rng([number, i])
        sides = [rival, FULL] if draw.integers(2) else [FULL, rival]
        gap = np.full((pictures[FULL].shape[0], 16, 3), 255, np.uint8)
        name = f"{draw.integers(10**6):06d}.png"
        pair = np.concatenate([pictures[sides[0]], gap, pictures[sides[1]]], axis=1)
        Image.fromarray(pair).save(folder / name)
        with open(folder / "key.csv", "a", encoding="utf-8") as key:
            key.write(f"{name},{sides[0]},{sides[1]}\n")


def section(
    server: Server, preset: str, plain_lora: Path | None, votes: Path | None
) -> tuple[str, list]:
    """A part of the page, and the rows of its sheet."""
    found: dict[str, list[dict]] = {}
    rows, seams = [], None
    for seed, name in enumerate(PHOTOS):
        target = photo(name)

        def lab(file: Path, target: np.ndarray = target, seed: int = seed) -> Lab:
            names = {"HYPIRLoadLora": {"lora_name": file.name}}
            weights = read_weights(file)
            return Lab(server, weights, names, target, SCALE, START, preset=preset, seed=seed)

        full = lab(SMALL_LORA)
        pictures = restored(full, lab(plain_lora) if plain_lora else None)
        bound = {BOUND: with_colors_of(full.photo, pictures[BICUBIC])}
        for method, picture in {**pictures, **bound}.items():
            found.setdefault(method, []).append(measure(picture, full.photo))
        if votes is not None and preset != "light":
            write_pairs(pictures, votes, len(PHOTOS) * PRESETS.index(preset) + len(rows))
        shown = {"photograph": full.photo, **pictures}
        rows.append([(picture, f"{name}, {m}"[:34]) for m, picture in shown.items()])
        if name == "astronaut" and preset == "medium":
            seams = seam(full)
        sys.stdout.write(f"{preset} {name}\n")
        sys.stdout.flush()
    floor = verdicts(preset, found, seams) if preset != "light" else []
    picture = f"![{preset}](quality/{preset}.png)"
    return "\n\n".join([f"## {preset}", means_of(found), "\n".join(floor), picture]), rows


def make(plain_lora: Path | None, folder: Path, votes: Path | None) -> None:
    """Measure and write the page and its sheets."""
    models = {"loras": [plain_lora]} if plain_lora else {}
    with running(get_host(), models=models) as server:
        made = {preset: section(server, preset, plain_lora, votes) for preset in PRESETS}
    (folder / "quality").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    write_example(made[EXAMPLE[0]][1][list(PHOTOS).index(EXAMPLE[1])], folder / "images")
    for preset, (_, rows) in made.items():
        sheet = {preset: contact_sheet(rows, SHEET_PX)}
        (folder / "quality" / f"{preset}.png").write_bytes(encode(sheet, MOST_BYTES)[preset])
    text = "\n\n".join([OPENING, *(part for part, _ in made.values())])
    text += "\n\nWritten by `python -m tools.pages.quality`; do not edit by hand.\n"
    (folder / "quality.md").write_text(text, encoding="utf-8")


def write_example(row: Sequence, folder: Path) -> None:
    """For the README: a part of the photograph, of the enlarged image and of the restored one."""
    part = {label.split(", ")[1]: picture[EXAMPLE[2]] for picture, label in row}
    gap = np.full((part[FULL].shape[0], 8, 3), 255, np.uint8)
    shown = np.concatenate([part["photograph"], gap, part[BICUBIC], gap, part[FULL]], axis=1)
    Image.fromarray(shown).save(folder / "before_after.jpg", quality=88)


def main() -> None:
    parser = Parser(description="Write docs/quality.md.", allow_abbrev=False)
    parser.add_argument("--plain-lora", type=Path, help="a LoRA trained by MSE alone")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs")
    parser.add_argument("--votes", type=Path, help="folder for pairs of pictures")
    arguments = parser.parse_args()
    make(arguments.plain_lora, arguments.folder, arguments.votes)


if __name__ == "__main__":
    run(main)
