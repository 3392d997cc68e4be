"""The earlier place of `nox -s restore`, which scripts may still import or run."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.commands.restore import (
    check_paths,
    fill_in,
    main,
    parse_arguments,
    read_photo,
    restore,
    write_picture,
)

__all__ = [
    "check_paths",
    "fill_in",
    "main",
    "parse_arguments",
    "read_photo",
    "restore",
    "write_picture",
]

if __name__ == "__main__":
    main()
