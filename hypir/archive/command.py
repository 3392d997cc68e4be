"""The options of `python -m hypir archive`; its libraries are imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

LIBRARIES = 'the archive needs more libraries; run pip install "hypir-nodes[archive]"'
EXAMPLES = """examples:
  python -m hypir archive photos/ restored/
  python -m hypir archive photos/ restored/ --workflow restore_photo.json --scale 4
  python -m hypir archive s3://scans/1931 s3://restored/1931 --address auto --manifest 1931.sqlite
"""


def add_archive(commands) -> None:
    """The parser of `archive`."""
    parser = commands.add_parser(
        "archive",
        help="restore a folder of photos of any size on one machine or many",
        description="Restore every photo of a folder with a saved workflow. The same command goes "
        "on where it stopped, and does only what is missing or has changed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", help="folder of the photos, with its subfolders; or an address like s3://...")
    add("target", help="folder of the results, which get the photos' names and folders")
    add(
        "--workflow",
        type=Path,
        help="a workflow that the page saved, with one Load Image and one Save Image (default: "
        "START_here.json of this pack, or restore_photo.json with --checkpoint)",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help='change an input of a node, for example "HYPIR Restore.timestep=150"; may be repeated',
    )
    add("--scale", type=float, help="output side / input side, of Upscale Image By")
    add("--prompt", help="what the photos show, of CLIP Text Encode")
    add("--checkpoint", type=Path, help="a checkpoint file, of Load Checkpoint")
    add("--lora", type=Path, help="HYPIR weights, of Load HYPIR LoRA")
    add(
        "--format",
        default="keep",
        choices=["keep", "png", "jpg", "webp", "tif"],
        help="format of the results (default: that of the photo, PNG where it cannot be written)",
    )
    add("--quality", type=int, help="of JPEG and WebP, 1 to 100 (default: 95)")
    add("--hosts", default="auto", help="how many ComfyUI run at once (default: one per GPU)")
    add("--address", help="a Ray cluster to use: auto, or its address (default: this machine)")
    add(
        "--manifest",
        type=Path,
        help="the SQLite file of what is done (default: .hypir/manifest.sqlite in the target)",
    )
    add("--comfyui-argument", action="append", default=[], help="passed on to every ComfyUI")
    parser.set_defaults(run=run_archive)


def run_archive(options: argparse.Namespace) -> None:
    """`archive`."""
    try:
        from .run import archive
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{LIBRARIES} ({error.name} is missing)") from error
    archive(options)
