"""Write docs/controls.md and its pictures: every control, turned in a real host over HTTP.

    nox -s controls [-- --checkpoint F --lora F] [--workflow F] [--photo F] [--folder F]

Without weights it takes the small model of the pack.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hypir.weights import read_weights
from tools.commands.restore import START, WORKFLOW, Parser
from tools.host.get_host import get_host
from tools.host.server import HostError, running
from tools.pages.control_graphs import Lab
from tools.pages.control_sheets import CONTROLS, Row, Section, priors
from tools.workflows.parts import TINY_LORA

ROOT = Path(__file__).resolve().parents[2]
SMALL_LORA = ROOT / "models" / "loras" / TINY_LORA.name
PAGE, PICTURES = "controls.md", "controls"
MOST_BYTES = 1_500_000  # of all pictures together
PHOTO_BOX = (slice(0, 256), slice(96, 352))  # head and shoulders
CREDIT = "Eileen Collins, by NASA, in the public domain (`astronaut` of scikit-image)"

CAPTION, GAP, FONT = 22, 6, 14
EDGE = (160, 160, 160)  # around each crop, or a white one would be lost on the white page
LEVEL_STEPS = (1, 4, 8)  # colours are rounded to these until the pictures are small enough

SMALL = """\
Made with the small model of this pack ([its card](../models/README.md)), which was trained on
made-up pictures for an afternoon; it shows what the controls do, not how good HYPIR can be."""
TRAINED = "Made with {weights}."


# ------------------------------------------------------------------------------------- the sheet


def crop(picture: np.ndarray, side: int) -> np.ndarray:
    """The middle of a picture (H, W, 3); all of a smaller one, on white."""
    height, width = picture.shape[:2]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    part = picture[top : top + side, left : left + side]
    missing = (side - part.shape[0], side - part.shape[1])
    return np.pad(part, [(0, missing[0]), (0, missing[1]), (0, 0)], constant_values=255)


def contact_sheet(rows: Sequence[Row], side: int) -> Image.Image:
    """Crops of `side` px in rows, each with its caption under it.

    Raises:
        ValueError: if a caption is wider than its crop.
    """
    font = ImageFont.load_default(size=FONT)
    columns = max(len(row) for row in rows)
    size = (columns * (side + GAP) + GAP, len(rows) * (side + CAPTION + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        for j, (picture, caption) in enumerate(row):
            x, y = GAP + j * (side + GAP), GAP + i * (side + CAPTION + GAP)
            if draw.textlength(caption, font) > side:
                raise ValueError(f"the caption {caption!r} must not be wider than its picture")
            draw.rectangle((x - 1, y - 1, x + side, y + side), outline=EDGE)
            sheet.paste(Image.fromarray(crop(picture, side)), (x, y))
            middle = (x + side / 2, y + side + CAPTION / 2)
            draw.text(middle, caption, fill="black", font=font, anchor="mm")
    return sheet


def png(sheet: Image.Image, step: int) -> bytes:
    """A sheet with its levels rounded to multiples of a step (white stays white)."""
    levels = np.asarray(sheet).astype(np.int32)
    rounded = ((levels + step // 2) // step * step).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(rounded).save(stream, "PNG", optimize=True)
    return stream.getvalue()


# -------------------------------------------------------------------------------------- the page


def markdown(section: Section) -> str:
    parts = [f"## {section.title}", section.text]
    if section.rows:
        parts.append(f"![{section.title}]({PICTURES}/{section.sheet}.png)")
    if section.table:
        lines = [section.head, ["---"] + ["--:"] * (len(section.head) - 1), *section.table]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*parts, *([section.verdict] if section.verdict else [])])


def write_page(folder: Path, sections: Sequence[Section], opening: str, credit: str) -> None:
    """Write the page and its pictures, or nothing if the pictures are too many bytes.

    Raises:
        ValueError: if they are.
    """
    sheets = {s.sheet: contact_sheet(s.rows, s.side) for s in sections if s.rows}
    for step in LEVEL_STEPS:
        files = {name: png(sheet, step) for name, sheet in sheets.items()}
        size = sum(map(len, files.values()))
        if size <= MOST_BYTES:
            break
    else:
        raise ValueError(f"the pictures must not exceed {MOST_BYTES} bytes, got {size}")
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    for section in sections:
        (pictures / f"{section.sheet}.png").unlink(missing_ok=True)  # of an earlier run
    for name, content in files.items():
        (pictures / f"{name}.png").write_bytes(content)
    foot = "Written by `nox -s controls` with the pack in ComfyUI over HTTP; do not edit by hand. "
    foot += f"Photograph: {credit}."
    parts = ["# Controls", opening, *map(markdown, sections), foot]
    (folder / PAGE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------ the command


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="nox -s controls --",
        description="Write docs/controls.md: every control in pictures and numbers.",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", type=Path, help="the base model as one file")
    parser.add_argument("--lora", type=Path, help="HYPIR weights (.pth or .safetensors)")
    parser.add_argument("--encoder", type=Path, help="a trained VAE encoder, for HYPIR Encode only")
    parser.add_argument(
        "--workflow", type=Path, default=WORKFLOW, help="whose loaders are used (a saved graph)"
    )
    parser.add_argument(
        "--without-clip", action="store_true", help="the zero token in the place of a text"
    )
    parser.add_argument("--prompt", help="what the photo shows (default: as in the workflow)")
    parser.add_argument("--photo", type=Path, help="another photograph; a good one")
    parser.add_argument("--scale", type=int, default=2, choices=(1, 2, 4, 8))
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "docs", help="where the page goes (default: docs)"
    )
    return parser.parse_args(arguments)


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError with one sentence if the files do not go together."""
    for option in ("checkpoint", "lora", "encoder", "workflow", "photo"):
        file = getattr(arguments, option)
        if file is not None and not file.is_file():
            raise ValueError(f"the file of --{option}, {file}, does not exist; check its path")
    own_workflow = arguments.workflow != WORKFLOW
    if arguments.lora is None and (arguments.checkpoint or arguments.encoder or own_workflow):
        raise ValueError("--checkpoint, --encoder and --workflow need --lora: the weights shown")
    if arguments.lora is not None and arguments.checkpoint is None and not own_workflow:
        raise ValueError("--lora needs --checkpoint, or a --workflow that names its own models")


def read_photo(file: Path | None) -> np.ndarray:
    if file is None:
        from skimage import data

        return data.astronaut()[PHOTO_BOX]
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def opening(arguments: argparse.Namespace) -> str:
    if arguments.lora is None:
        return SMALL
    files = [arguments.checkpoint, arguments.lora, arguments.encoder]
    return TRAINED.format(weights=" and ".join(f"`{file.name}`" for file in files if file))


def make(arguments: argparse.Namespace) -> None:
    check(arguments)
    photo = read_photo(arguments.photo)
    small = arguments.lora is None
    lora, workflow = (SMALL_LORA, START) if small else (arguments.lora, arguments.workflow)
    models = {"loras": [] if small else [lora]}
    names = {"HYPIRLoadLora": {"lora_name": lora.name}}
    if arguments.checkpoint is not None:
        models["checkpoints"] = [arguments.checkpoint]
        names["CheckpointLoaderSimple"] = {"ckpt_name": arguments.checkpoint.name}
    if arguments.encoder is not None:
        models["vae"] = [arguments.encoder]
    if arguments.prompt is not None:
        names["CLIPTextEncode"] = names["HYPIRConditioning"] = {"text": arguments.prompt}
    with running(get_host(), models=models) as server:
        lab = Lab(
            server,
            read_weights(lora),
            names,
            photo,
            arguments.scale,
            workflow,
            encoder_name=arguments.encoder.name if arguments.encoder else "",
            without_clip=arguments.without_clip,
        )
        sections = []
        for control in CONTROLS:
            sections.append(control(lab))
            sys.stdout.write(f"{sections[-1].title}: {sections[-1].verdict or 'done'}\n")
            sys.stdout.flush()
    credit = CREDIT if arguments.photo is None else f"`{arguments.photo.name}`"
    write_page(arguments.folder, [*sections, priors()], opening(arguments), credit)


def main() -> None:
    try:
        make(parse_arguments(sys.argv[1:]))
    except (ValueError, HostError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")


if __name__ == "__main__":
    main()
