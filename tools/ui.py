"""Open the host's page with this pack: `nox -s ui`. Ctrl-C ends it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.get_host import get_host
from tools.server import HostError, running
from tools.stand_in import NOTICE, write_stand_in


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hypir-stand-in-") as folder:
        checkpoint, lora = write_stand_in(Path(folder))
        models = {"checkpoints": [checkpoint], "loras": [lora]}
        try:
            with running(get_host(), models=models, echo=True) as server:
                sys.stdout.write(f"{NOTICE}\nOpen {server.url} - Ctrl-C ends it.\n")
                sys.stdout.flush()
                server.process.wait()
        except KeyboardInterrupt:
            sys.stdout.write("stopped\n")
        except (ValueError, HostError) as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
