"""Write docs/controls.md and its pictures: every control, varied in a real host over HTTP.

    nox -s controls [-- --checkpoint F --lora F] [--workflow F] [--photo F] [--folder F]

Without weights it uses the small model of the pack.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image

from hypir.weights import read_weights
from tools import ROOT
from tools.command_line import Parser, run
from tools.host.get_host import get_host
from tools.host.server import running
from tools.pages.contact_sheet import contact_sheet, encode
from tools.pages.control_graphs import Lab
from tools.pages.control_sheets import CONTROLS, Section, priors
from tools.pages.markdown import table
from tools.workflows.parts import TINY_LORA
from tools.workflows.prompt import START, WORKFLOW

SMALL_LORA = ROOT / "models" / "loras" / TINY_LORA.name
PAGE, PICTURES = "controls.md", "controls"
MOST_BYTES = 1_500_000  # of all pictures together
PHOTO_BOX = (slice(0, 256), slice(96, 352))  # head and shoulders
CREDIT = "Eileen Collins, by NASA, in the public domain (`astronaut` of scikit-image)"

SMALL = """\
Made with the small model of this pack ([its card](../models/README.md)), which was trained on
synthetic images for an afternoon. It shows what the controls do, not how good HYPIR can be."""
TRAINED = "Made with {weights}."


# -------------------------------------------------------------------------------------- the page


def markdown(section: Section) -> str:
    parts = [f"## {section.title}", section.text]
    if section.rows:
        parts.append(f"![{section.title}]({PICTURES}/{section.sheet}.png)")
    if section.table:
        parts.append(table(section.head, section.table))
    return "\n\n".join([*parts, *([section.verdict] if section.verdict else [])])


def write_page(folder: Path, sections: Sequence[Section], opening: str, credit: str) -> None:
    """Write the page and its images, or nothing if the images are too large.

    Raises:
        ValueError: if they are.
    """
    sheets = {s.sheet: contact_sheet(s.rows, s.side) for s in sections if s.rows}
    files = encode(sheets, MOST_BYTES)
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
        "--workflow", type=Path, default=WORKFLOW, help="a saved graph whose loaders are used"
    )
    parser.add_argument(
        "--without-clip", action="store_true", help="use the zero token instead of a text"
    )
    parser.add_argument("--prompt", help="what the photo shows (default: as in the workflow)")
    parser.add_argument("--photo", type=Path, help="another photograph of good quality")
    parser.add_argument("--scale", type=int, default=2, choices=(1, 2, 4, 8))
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "docs", help="where the page goes (default: docs)"
    )
    return parser.parse_args(arguments)


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError, in one sentence, if the files do not belong together."""
    for option in ("checkpoint", "lora", "encoder", "workflow", "photo"):
        file = getattr(arguments, option)
        if file is not None and not file.is_file():
            raise ValueError(f"the file of --{option}, {file}, does not exist; check its path")
    own_workflow = arguments.workflow != WORKFLOW
    if arguments.lora is None and (arguments.checkpoint or arguments.encoder or own_workflow):
        raise ValueError("--checkpoint, --encoder and --workflow need --lora, the weights to show")
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
    run(lambda: make(parse_arguments(sys.argv[1:])), "stopped; nothing was written")


if __name__ == "__main__":
    main()
