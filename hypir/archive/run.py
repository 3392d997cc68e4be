"""One run of the archive, from the listing to the report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hypir import __version__
from hypir.train.pictures import OTHER_SUFFIXES, SUFFIXES

from .comfyui import PACK_ROOT, find_comfyui
from .engine import engine, machines, number_of_hosts, restored
from .manifest import Manifest, Result, Task
from .photo import format_of
from .places import OWN, Place, open_place
from .progress import Progress
from .workflow import FOLDERS, SHORT, Recipe, find_weights, read_setting, read_workflow

LIST_ROWS = 10_000
LOST = (
    "its result was lost with the process or the machine that restored it, several times; the same "
    "command tries again"
)
NO_SPACE = "the manifest {file} cannot be written ({error}); free space and run the command again"


class Failures(ValueError):
    """Photos of the run failed; the report has been printed."""


def archive(options: argparse.Namespace) -> None:
    """List, restore what is missing or changed, and report.

    Raises:
        ValueError: in one sentence, if the run cannot begin or some photos failed.
    """
    check(options)
    source, target = open_place(options.source), open_place(options.target)
    manifest = Manifest(_manifest_file(options, target))
    try:
        recipe = recipe_of(options)
        weights = weights_of(recipe, manifest)
        output = f"{options.format} {options.quality}"
        digest = recipe.digest(weights, output)
        plan(manifest, source, target, options.format, digest)
        todo = manifest.counts().get("todo", 0)
        already = manifest.counts().get("done", 0)
        _say(f"{todo} photos to restore, {already} done already.")
        if todo:
            _write_sidecar(target, options, recipe, weights, digest)
            work(options, manifest, recipe, target, digest, todo)
        report(manifest)
    except sqlite3.OperationalError as error:
        raise ValueError(NO_SPACE.format(file=manifest.file, error=error)) from error
    finally:
        manifest.close()


def check(options: argparse.Namespace) -> None:
    """Check what needs neither the manifest nor Ray.

    Raises:
        ValueError: in one sentence that says what to change.
    """
    if "://" not in options.source and not Path(options.source).is_dir():
        raise ValueError(f"the folder {options.source} does not exist; check its path")
    if "://" not in options.target and Path(options.target).is_file():
        raise ValueError(f"the target must be a folder, but {options.target} is a file")
    if _absolute(options.source) == _absolute(options.target):
        raise ValueError(
            "the target must be another folder than the source: nothing is overwritten"
        )
    if options.quality is not None and not 1 <= options.quality <= 100:
        raise ValueError(f"--quality must be from 1 to 100, got {options.quality}")
    for option in FOLDERS:
        file = getattr(options, option)
        if file is not None and not file.is_file():
            raise ValueError(f"the file of --{option}, {file}, does not exist; check its path")


def _manifest_file(options: argparse.Namespace, target: Place) -> Path:
    if options.manifest is not None:
        return options.manifest
    if not target.is_local:
        raise ValueError(
            f"{options.target} cannot hold the manifest, which is a file on a disk; give it a "
            "place with --manifest FILE, and keep it"
        )
    folder = Path(target.root, OWN)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "manifest.sqlite"
    except OSError as error:
        raise ValueError(
            f"the target {options.target} cannot be written to ({error.strerror}); choose a folder "
            "that can"
        ) from error


# --------------------------------------------------------------------------------- what is asked


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The workflow with the options that change it."""
    name = "restore_photo.json" if options.checkpoint else "START_here.json"
    file = options.workflow or PACK_ROOT / "workflows" / name
    settings = [read_setting(text) for text in options.set]
    models = {}
    for option, (node, input_) in SHORT.items():
        value = getattr(options, option)
        if value is None:
            continue
        if option in FOLDERS:
            models[FOLDERS[option]] = (str(value.resolve()),)
            value = value.name
        settings.append((node, input_, value))
    return Recipe(read_workflow(file), tuple(settings), models)


def weights_of(recipe: Recipe, manifest: Manifest) -> dict[str, str]:
    """The sha256 of every weight file that the recipe names and this machine has."""
    given = [path for paths in recipe.models.values() for path in paths]
    folders = [PACK_ROOT / "models"]
    try:
        folders.append(find_comfyui().folder / "models")
    except ValueError:
        pass  # the ComfyUI may be on other machines
    found = find_weights([*given, *sorted(recipe.names_of_weights())], folders)
    return {name: manifest.sha256(file) for name, file in found.items()}


def plan(manifest: Manifest, source: Place, target: Place, asked: str, recipe: str) -> None:
    """Bring the manifest up to date with what lies in the source and in the target."""
    run = manifest.begin(recipe, time.time())
    others: dict[str, int] = {}
    for found in source.walk(without=target.root):
        suffix = Path(found.name).suffix.lower()
        if found.error:
            manifest.add_failure(run, found.name, found.error)
        elif suffix in SUFFIXES:
            new, _ = format_of(found.name, asked)
            manifest.add(run, found.name, new, found.size, found.mtime, recipe)
        elif suffix in OTHER_SUFFIXES:
            others[suffix] = others.get(suffix, 0) + 1
    manifest.listed(run)
    lost = (id_ for id_, name, size in manifest.done() if target.size(name) != size)
    while ids := list(islice(lost, LIST_ROWS)):
        manifest.lost(ids)
    for suffix, count in sorted(others.items()):
        _say(f"{count} {suffix} pictures cannot be read here and are left out.")


def _write_sidecar(
    target: Place,
    options: argparse.Namespace,
    recipe: Recipe,
    weights: dict[str, str],
    digest: str,
) -> None:
    """The settings of this run, so that its results can be made again."""

    def known(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return ""

    now = time.strftime("%Y-%m-%dT%H-%M-%S")
    asked = {k: v for k, v in vars(options).items() if k != "run"}
    settings = {
        "started": now,
        "recipe": digest,
        "options": asked,
        "settings": recipe.settings,
        "weights_sha256": weights,
        "hypir": __version__,
        "python": platform.python_version(),
        "versions": {name: known(name) for name in ("torch", "ray", "pillow", "numpy")},
        "workflow": recipe.graph,
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False, default=str)
    target.write(f"{OWN}/settings-{now}.json", text.encode())


# -------------------------------------------------------------------------------------- the work


def work(
    options: argparse.Namespace,
    manifest: Manifest,
    recipe: Recipe,
    target: Place,
    digest: str,
    total: int,
) -> None:
    """Restore all that is to do."""
    for name in ("parts", "todo"):  # of a run that was killed
        target.delete_folder(f"{OWN}/{name}")
    write_lists(manifest.tasks(), target)
    ends = (_absolute(options.source), _absolute(options.target))
    comfyui = (os.environ.get("COMFYUI_PATH"), tuple(options.comfyui_argument))
    try:
        with engine(options.address):
            hosts = min(total, number_of_hosts(options.hosts))
            _say(f"{hosts} ComfyUI on {machines()} machines start ...")
            progress = Progress(total, hosts)
            output = (options.format, options.quality)
            rows = restored(target, f"{OWN}/todo", ends, recipe, hosts, output, comfyui)
            for row in rows:
                if row["fatal"]:
                    raise ValueError(row["fatal"])
                note(manifest, row, digest)
                progress.add(row)
            progress.close()
        manifest.fail_the_rest(LOST)
    finally:
        for name in ("parts", "todo"):
            target.delete_folder(f"{OWN}/{name}")


def note(manifest: Manifest, row: dict[str, Any], digest: str) -> None:
    """Write a photo's report into the manifest."""
    if row["unchanged"]:
        manifest.unchanged(row["id"])
    else:
        manifest.finish(Result(**{name: row[name] for name in Result._fields}), digest)


def write_lists(tasks: Iterable[Task], target: Place) -> None:
    """What is to do, as Parquet files that Ray Data reads, so that no process holds it all."""
    tasks = iter(tasks)
    number = 0
    names = ("id", "source", "target", "mtime", "known_sha256")
    while rows := list(islice(tasks, LIST_ROWS)):
        table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        target.write(f"{OWN}/todo/{number:06}.parquet", buffer.getvalue().to_pybytes())
        number += 1


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().resolve())


# -------------------------------------------------------------------------------------- the report


def report(manifest: Manifest) -> None:
    """Print what became of the photos.

    Raises:
        Failures: if some failed.
    """
    counts = manifest.counts()
    failed = counts.get("failed", 0)
    for line in _table(manifest.failures()):
        _say(line)
    gone = f", {counts['gone']} no longer in the source" if counts.get("gone") else ""
    _say(f"{counts.get('done', 0)} photos done, {failed} failed{gone}.")
    if failed:
        raise Failures(
            f"{failed} photos failed, see the table above or the manifest {manifest.file}; the "
            "same command tries them again"
        )


def _table(failures: Iterable[tuple[str, str]]) -> Iterator[str]:
    rows = list(failures)
    width = min(60, max((len(name) for name, _ in rows), default=0))
    for name, error in rows:
        yield f"{name:{width}}  {error}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
