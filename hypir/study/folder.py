"""A study's folder: what lies where. All that makes, rates or reads a study comes here.

STUDY/
  results/METHOD/PHOTO.png   one folder for each method; the photos have the same names in all
  inputs/PHOTO.png           what the methods were given (optional)
  truth/PHOTO.png            the good photos (optional)
  marks/RATER.csv            what each rater answered, written by `rate`
  study.json                 the number that the raters' orders come from, written by `rate`
  report/                    written by `study`

Any suffix of a picture will do. A folder filled by hand is as good as one of any program.
"""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from hypir.train.pictures import list_pictures

FORMAT = 1
RESULTS, INPUTS, TRUTH, MARKS, REPORT = "results", "inputs", "truth", "marks", "report"
SETTINGS = "study.json"


@dataclass(frozen=True)
class Study:
    """An opened study."""

    folder: Path
    """Its folder."""
    methods: tuple[str, ...]
    """Names of the folders of results, sorted."""
    photos: tuple[str, ...]
    """Names without suffix of the photos that every method has, sorted."""
    files: dict[tuple[str, str], Path]
    """Picture by method and photo; INPUTS and TRUTH stand in the place of a method."""
    left_out: tuple[str, ...]
    """Photos that a method lacks, which are not shown."""

    @property
    def marks(self) -> Path:
        """The folder of the raters' answers."""
        return self.folder / MARKS

    @property
    def report(self) -> Path:
        """The folder of the evaluation."""
        return self.folder / REPORT


def open_study(folder: Path) -> Study:
    """The study of a folder.

    Raises:
        ValueError: if it has no results, or no photo that all methods have.
    """
    results = folder / RESULTS
    methods = tuple(sorted(p.name for p in results.glob("*") if p.is_dir() and p.name[0] != "."))
    if not methods:
        raise ValueError(
            f"{str(folder)!r} must hold {RESULTS}/METHOD/PHOTO.png, a folder for each method; "
            "there is none"
        )
    files: dict[tuple[str, str], Path] = {}
    for method in methods:
        files |= _pictures(results / method, method)
    for other in (INPUTS, TRUTH):
        if (folder / other).is_dir():
            files |= _pictures(folder / other, other)
    having = {m: {photo for owner, photo in files if owner == m} for m in methods}
    everywhere = set.intersection(*having.values())
    if not everywhere:
        counts = ", ".join(f"{m} has {len(photos)}" for m, photos in having.items())
        raise ValueError(
            f"every method must have pictures of the same names, but no photo has a result of "
            f"each ({counts})"
        )
    left_out = sorted(set.union(*having.values()) - everywhere)
    return Study(folder, methods, tuple(sorted(everywhere)), files, tuple(left_out))


def _pictures(folder: Path, owner: str) -> dict[tuple[str, str], Path]:
    found: dict[tuple[str, str], Path] = {}
    for file in list_pictures(folder):
        photo = file.relative_to(folder).with_suffix("").as_posix()
        if (owner, photo) in found:
            raise ValueError(
                f"{folder} must have one picture of each name, but {photo!r} is there twice"
            )
        found[owner, photo] = file
    return found


def secret_of(study: Study) -> str:
    """The study's own random number; orders and addresses of pictures come from it.

    It is made when it is first asked for and kept, so that an interrupted rater goes on in the same
    order.
    """
    file = study.folder / SETTINGS
    kept = {}
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept.get("format", FORMAT) != FORMAT:
            raise ValueError(f"{file} has format {kept['format']}; this version reads {FORMAT}")
    if "secret" not in kept:
        kept |= {"format": FORMAT, "secret": secrets.token_hex(16)}
        file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return kept["secret"]
