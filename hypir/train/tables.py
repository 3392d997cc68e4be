"""Tables of pictures and captions: .csv, .tsv, .jsonl, .parquet, as Excel and the hub write them.

Every row is looked at by itself: a column that the first row lacks may come later. Rows that cannot
be used are named with file and line, counted and left out.
"""

import csv
import io
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .pictures import read_picture
from .texts import as_caption, read_caption, read_text, readable

log = logging.getLogger(__name__)

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
PATH_COLUMNS = ("image", "path", "file_name", "filename", "file")
CAPTION_COLUMNS = ("caption", "text", "prompt")
DELIMITERS = (",", ";", "\t", "|")
"""Excel writes the second where a comma belongs to numbers."""


class Row(NamedTuple):
    """One picture of a table."""

    table: Path
    path: str
    """Relative to the table; of an embedded picture only a name, maybe none."""
    caption: str
    place: tuple[int, int] | None
    """(row group, row in it) of a picture that lies in the table, which must be a .parquet."""


class TableSource:
    """Rows of one or several tables with a column of pictures and maybe one of captions."""

    def __init__(self, tables: Path | Sequence[Path]):
        """Raises ValueError, with the table's name, if it has no row that can be used."""
        tables = [tables] if isinstance(tables, Path) else list(tables)
        self.name = str(tables[0] if len(tables) == 1 else tables[0].parent)
        self._rows = [row for table in tables for row in _rows(table)]
        self._group: tuple[Path, int, list] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def label(self, index: int) -> str:
        """The picture's path, or its place in the table."""
        table, path, _, place = self._rows[index]
        if place is None:
            return str(_found(table, path))
        return f"{table}:group {place[0]}, row {place[1]}" + (f" ({path})" if path else "")

    def captions(self) -> Iterator[str]:
        """Captions of the rows, or of the .txt beside the pictures."""
        return readable(self._caption, self._rows)

    def _caption(self, row: Row) -> str:
        return row.caption or ("" if row.place else read_caption(_found(row.table, row.path)))

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """Picture and the row's caption, or that of the .txt beside the picture."""
        table, path, caption, place = self._rows[index]
        if place is not None:
            content = self._embedded(table, *place)
            if content is not None or not path:
                return read_picture(content or b"", self.label(index)), caption
        file = _found(table, path)
        return read_picture(file), caption or read_caption(file)

    def _embedded(self, table: Path, group: int, row: int) -> bytes | None:
        """Content of a picture; the last row group stays in memory."""
        if self._group is None or self._group[:2] != (table, group):
            self._group = (table, group, _parquet_pictures(table, group))
        return self._group[2][row]


def _found(table: Path, path: str) -> Path:
    """A path of a table, relative to it; one written on Windows too."""
    file = table.parent / path
    if "\\" in path and not file.exists():
        return table.parent / path.replace("\\", "/")
    return file


def _rows(table: Path) -> list[Row]:
    rows, bad, columns = [], [], set()
    read = {".parquet": _parquet_rows, ".jsonl": _json_rows}.get(table.suffix.lower(), _csv_rows)
    for place, found in read(table):
        if isinstance(found, str):
            bad.append(f"{place}: {found}")
            continue
        found = {str(name).strip().lower(): value for name, value in found.items()}
        columns |= found.keys()
        path = next((found[c] for c in PATH_COLUMNS if found.get(c) not in (None, "")), None)
        text = next((found[c] for c in CAPTION_COLUMNS if found.get(c) not in (None, "")), None)
        try:
            caption = as_caption(text, f"{table} {place}")
        except ValueError as error:
            bad.append(f"{place}: {error}")
            continue
        if isinstance(path, tuple):  # a picture in the table: group, row, name
            rows.append(Row(table, path[2], caption, path[:2]))
        elif isinstance(path, str) and path.strip():
            rows.append(Row(table, path.strip(), caption, None))
        else:
            bad.append(f"{place}: no picture is named")
    if not rows and not columns & set(PATH_COLUMNS):
        found = ", ".join(sorted(map(str, columns))) or "no rows"
        raise ValueError(
            f"{table} must have a column of picture paths ({', '.join(PATH_COLUMNS)}), found "
            f"{found}" + (f"; {bad[0]}" if bad else "")
        )
    if not rows:
        raise ValueError(f"{table} has no row that can be used; {bad[0] if bad else 'it is empty'}")
    if bad:
        total = len(bad) + len(rows)
        log.warning("%s: %d of %d rows are left out, first %s", table, len(bad), total, bad[0])
    return rows


def _csv_rows(table: Path) -> Iterator[tuple[str, dict | str]]:
    text = read_text(table)
    first = next((line.strip() for line in text.split("\n") if line.strip()), "")
    skipped = 0
    if first.lower().startswith("sep=") and len(first) == 5:  # Excel's own line
        delimiter, skipped = first[4], 1
        text = text.partition("\n")[2]
    else:
        names = [d for d in DELIMITERS if _names(first, d) & set(PATH_COLUMNS)]
        delimiter = names[0] if names else ("\t" if table.suffix.lower() == ".tsv" else ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    try:
        for fields in reader:
            place = f"line {reader.line_num + skipped}"
            if not any(field.strip() for field in fields):
                continue
            if not header:
                header = fields
            elif len(fields) > len(header) and any(fields[len(header) :]):
                yield (
                    place,
                    f"{len(fields)} fields under a header of {len(header)}; put text with "
                    f"{delimiter!r} in quotes",
                )
            else:
                yield place, dict(zip(header, fields, strict=False))
    except csv.Error as error:
        raise ValueError(
            f"{table}, line {reader.line_num + skipped}: {error}; a quote that is opened must be "
            f"closed, and one inside a text written twice"
        ) from error


def _names(line: str, delimiter: str) -> set[str]:
    return {part.strip().strip('"').lower() for part in line.split(delimiter)}


def _json_rows(table: Path) -> Iterator[tuple[str, dict | str]]:
    # Not splitlines: JSON's strings may hold other separators of lines.
    for number, line in enumerate(read_text(table).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"line {number}", f"no JSON ({error})"
            continue
        yield f"line {number}", row if isinstance(row, dict) else "no object of names and values"


def _parquet_rows(table: Path) -> Iterator[tuple[str, dict | str]]:
    import pyarrow

    try:
        with _open_parquet(table) as file:
            schema = file.schema_arrow
            texts = [name for name in CAPTION_COLUMNS if name in schema.names]
            image = next((name for name in PATH_COLUMNS if name in schema.names), None)
            if image is None:
                yield "the header", dict.fromkeys(schema.names)
                return
            kind = schema.field(image).type
            inside = _holds_pictures(kind)
            named = pyarrow.types.is_struct(kind) and kind.get_field_index("path") >= 0
            wanted = ([] if inside else [image]) + ([f"{image}.path"] if named else []) + texts
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                read = file.read_row_group(group, columns=wanted)
                columns = {name: read.column(name).to_pylist() for name in read.column_names}
                for row in range(count):
                    found = {name: values[row] for name, values in columns.items()}
                    if inside:
                        path = (found.get(image) or {}).get("path") if named else ""
                        found[image] = (group, row, path or "")
                    yield f"row {row} of group {group}", found
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{table} is cut off, damaged or no parquet file ({error})") from error


def _parquet_pictures(table: Path, group: int) -> list[bytes | None]:
    """Contents of the pictures of a row group; None where only a path is given."""
    import pyarrow

    try:
        with _open_parquet(table) as file:
            image = next(name for name in PATH_COLUMNS if name in file.schema_arrow.names)
            read = file.read_row_group(group, columns=[image]).column(0).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"group {group} of {table} cannot be read ({error})") from error
    return [value.get("bytes") if isinstance(value, dict) else value for value in read]


def _open_parquet(table: Path):
    from pyarrow import parquet

    return parquet.ParquetFile(table)


def _holds_pictures(kind) -> bool:
    """Whether an arrow type is bytes, or the hub's {bytes, path}."""
    import pyarrow

    binary = pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
    return binary or (pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
