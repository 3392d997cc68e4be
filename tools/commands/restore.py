"""Restore a photo with ComfyUI and this pack, from the command line.

    nox -s restore -- photo.jpg restored.png [--checkpoint F --lora F] [--scale 2] [--prompt TEXT]

Starts the host without a page and runs a workflow through its HTTP API: workflows/START_here.json
with the small model of this pack, or workflows/restore_photo.json with the given weights. Writes
the result in the format given by the output's name.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from PIL import Image

from hypir.archive.photo import FORMATS, LONGEST_SIDE, WRITE, read
from hypir.train.pictures import in_bytes, open_picture
from tools.command_line import Parser, run
from tools.host.get_host import get_host
from tools.host.server import Progress, Prompt, Server, running
from tools.workflows.prompt import START, WORKFLOW, build_prompt, find, insert_encoder, set_input

NOTICE = "This is the small model of the pack; for real weights, use --checkpoint and --lora."
SCALES = (0.01, 8.0)  # limits of the host's Upscale Image By
BAR_CELLS = 24


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="nox -s restore --",
        description="Restore a photo with HYPIR in ComfyUI, without a window.",
        allow_abbrev=False,
    )
    parser.add_argument("input", type=Path, metavar="photo", help="the photo to restore")
    parser.add_argument("output", type=Path, metavar="restored", help="the image to write")
    parser.add_argument("--checkpoint", type=Path, help="the SD2.1-base checkpoint, one file")
    parser.add_argument("--lora", type=Path, help="HYPIR weights (.pth or .safetensors)")
    parser.add_argument("--encoder", type=Path, help="a trained VAE encoder, for HYPIR Encode only")
    parser.add_argument(
        "--scale", type=float, default=2.0, help="output side / input side (default: 2)"
    )
    parser.add_argument("--prompt", default="", help="what the photo shows (default: empty)")
    parser.add_argument(
        "--seed",
        type=int,
        help="sample the latent with this seed (default: use the encoder's mean)",
    )
    return parser.parse_args(arguments)


# ----------------------------------------------------------------- checks before the host starts


def check_paths(arguments: argparse.Namespace) -> None:
    """Check everything about the arguments that needs no host.

    Raises:
        ValueError: in one sentence that says what to change.
    """
    source, target = arguments.input, arguments.output
    if not source.is_file():
        raise ValueError(f"the photo {source} does not exist; check its path")
    if target.suffix.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        raise ValueError(f"the output's name must end in one of {known}, got {target.name}")
    if not target.resolve().parent.is_dir():
        raise ValueError(f"the output's folder {target.resolve().parent} does not exist; create it")
    if target.is_dir():
        raise ValueError(f"the output must be a file, but {target} is a folder")
    if target.exists() and target.samefile(source):
        raise ValueError(f"the output would overwrite the photo {source}; give it another name")
    for option in ("checkpoint", "lora", "encoder"):
        file = getattr(arguments, option)
        if file is not None and not file.is_file():
            raise ValueError(f"the file of --{option}, {file}, does not exist; check its path")
    if (arguments.checkpoint is None) != (arguments.lora is None):
        raise ValueError(
            "--checkpoint and --lora need each other: give both for real weights, or neither for "
            "the small model of the pack"
        )
    if arguments.encoder is not None and arguments.checkpoint is None:
        raise ValueError(
            "--encoder needs --checkpoint and --lora: the small model has its own encoder"
        )
    if arguments.prompt and arguments.checkpoint is None:
        raise ValueError(
            "--prompt needs --checkpoint and --lora: the small model of the pack has no text "
            "encoder"
        )
    if not SCALES[0] <= arguments.scale <= SCALES[1]:
        raise ValueError(f"--scale must be from {SCALES[0]} to {SCALES[1]}, got {arguments.scale}")
    if arguments.seed is not None and arguments.checkpoint is None:
        raise ValueError(
            "--seed needs --checkpoint and --lora: the small model's encoder does not sample"
        )
    if arguments.seed is not None and not 0 <= arguments.seed < 2**64:
        raise ValueError(f"--seed must be from 0 to 2^64 - 1, got {arguments.seed}")


@dataclass(frozen=True)
class Photo:
    """What the result takes from the photo besides its colours."""

    size: tuple[int, int]
    """Width and height after applying the camera's orientation."""
    alpha: Image.Image | None
    """Transparency, which Load Image drops."""
    icc_profile: bytes | None
    """The colour profile; Load Image passes the values on unchanged."""


def read_photo(file: Path, scale: float, format_: str) -> Photo:
    """Check that the photo can be opened and that its result fits the output's format.

    Raises:
        ValueError: in one sentence that says which of the two fails.
    """
    picture = open_picture(file, in_srgb=False)
    size = picture.colors.shape[1::-1]
    width, height = (round(side * scale) for side in size)
    if not width or not height:
        raise ValueError(f"{file} at --scale {scale} would have no pixels; increase the scale")
    longest = LONGEST_SIDE.get(format_)
    if longest and max(width, height) > longest:
        raise ValueError(
            f"{format_} supports at most {longest} px per side, but the result has "
            f"{width}x{height}; use an output name that ends in .png"
        )
    alpha = None if picture.alpha is None else Image.fromarray(in_bytes(picture.alpha))
    return Photo(size=size, alpha=alpha, icc_profile=picture.profile)


# -------------------------------------------------------------------------------------- the graph


def own_models(arguments: argparse.Namespace) -> dict[str, list[Path]]:
    """The user's files by the host's model folder."""
    if arguments.checkpoint is None:
        return {}
    models = {"checkpoints": [arguments.checkpoint], "loras": [arguments.lora]}
    return models | ({"vae": [arguments.encoder]} if arguments.encoder is not None else {})


def upload(server: Server, photo: Path) -> str:
    """Upload the photo for Load Image, upright, as RGB, at its bit depth, without alpha; returns
    its name.

    The file itself would not do: Load Image reads the colours of some files wrong.
    """
    with TemporaryDirectory() as folder:
        plain = Path(folder) / f"{photo.stem}.png"
        plain.write_bytes(read(photo.read_bytes(), str(photo))[0])
        return server.upload_image(plain)


def fill_in(server: Server, arguments: argparse.Namespace) -> Prompt:
    """The graph with the given photo, weights and settings."""
    own = arguments.checkpoint is not None
    prompt = build_prompt(server, WORKFLOW if own else START)
    del prompt[find(prompt, "ImageCompare")]  # only useful on a page
    set_input(prompt, "LoadImage", image=upload(server, arguments.input))
    set_input(prompt, "ImageScaleBy", scale_by=arguments.scale)
    if arguments.seed is not None:
        set_input(prompt, "HYPIREncode", posterior="sample", seed=arguments.seed)
    if own:
        set_input(prompt, "CheckpointLoaderSimple", ckpt_name=arguments.checkpoint.name)
        set_input(prompt, "HYPIRLoadLora", lora_name=arguments.lora.name)
        set_input(prompt, "CLIPTextEncode", text=arguments.prompt)
    if arguments.encoder is not None:
        insert_encoder(prompt, arguments.encoder.name)
    return prompt


# ------------------------------------------------------------------------------------- the picture


def write_picture(saved: Path, target: Path, photo: Photo) -> None:
    """Write the host's PNG under the user's name, atomically."""
    format_ = FORMATS[target.suffix.lower()]
    options = dict(WRITE[format_])
    if photo.icc_profile is not None and format_ != "BMP":
        options["icc_profile"] = photo.icc_profile
    with Image.open(saved) as picture:
        result = picture.convert("RGB")
    if photo.alpha is not None and format_ not in ("JPEG", "BMP"):
        result.putalpha(photo.alpha.resize(result.size, Image.Resampling.LANCZOS))
    unfinished = target.with_name(f".{target.name}.part")
    try:
        result.save(unfinished, format_, **options)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


class Bar:
    """Progress on one line of a terminal; without a terminal, one line per stage."""

    def __init__(self, titles: dict[str, str]) -> None:
        self.titles = titles
        self.live = sys.stdout.isatty()
        self.stage = ""

    def __call__(self, progress: Progress) -> None:
        title = self.titles.get(progress.node, progress.node)
        if title != self.stage:
            self._write("\n" if self.live and self.stage else "")
            self._write("" if self.live else f"{title}\n")
            self.stage = title
        if self.live and progress.total:
            filled = BAR_CELLS * progress.done // progress.total
            cells = "#" * filled + "." * (BAR_CELLS - filled)
            self._write(f"\r{title:26} [{cells}] {progress.done}/{progress.total} tiles")
        elif self.live:
            self._write(f"\r{title}")

    def close(self) -> None:
        self._write("\n" if self.live and self.stage else "")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def titles(server: Server, prompt: Prompt) -> dict[str, str]:
    known = server.object_info()
    return {name: known[node["class_type"]]["display_name"] for name, node in prompt.items()}


# -------------------------------------------------------------------------------------------- main


def restore(arguments: argparse.Namespace) -> None:
    check_paths(arguments)
    format_ = FORMATS[arguments.output.suffix.lower()]
    photo = read_photo(arguments.input, arguments.scale, format_)
    host = get_host()
    before, after = _sizes(photo, arguments.scale)
    _say(f"Restoring {before} px to {after} px. Starting ComfyUI ...")
    with running(host, models=own_models(arguments)) as server:
        prompt = fill_in(server, arguments)
        bar = Bar(titles(server, prompt))
        try:
            (saved,) = server.run(prompt, bar)
        finally:
            bar.close()
        write_picture(saved, arguments.output, photo)
    with Image.open(arguments.output) as result:
        size = "x".join(map(str, result.size))
    _say(f"Wrote {arguments.output}, {size} px, from {'x'.join(map(str, photo.size))} px.")
    if arguments.checkpoint is None:
        _say(NOTICE)


def _sizes(photo: Photo, scale: float) -> tuple[str, str]:
    return tuple("x".join(str(round(side * s)) for side in photo.size) for s in (1, scale))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    run(lambda: restore(parse_arguments(sys.argv[1:])), "stopped; nothing was written")


if __name__ == "__main__":
    main()
