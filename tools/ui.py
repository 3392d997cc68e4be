"""Open the host's page with this pack: `nox -s ui`. Ctrl-C ends it.

What is saved there stays in .nox/ui; weights put into its models folder are found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.get_host import get_host
from tools.server import HostError, running
from tools.stand_in import CHECKPOINT, LORA, NOTICE, write_checkpoint, write_lora

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / ".nox" / "ui"
WORKFLOW = ROOT / "workflows" / "restore_photo.json"
HOW = """
Open {url} - Ctrl-C ends it.
{notice}
Workflows (w) > restore_photo_stand_in is the shipped workflow with that model filled in.
For real weights: {models}/checkpoints and {models}/loras.
"""


def prepare(base: Path) -> None:
    """Put the stand-in among the models, and the workflow that uses it among the saved ones."""
    for kind in ("checkpoints", "loras"):
        (base / "models" / kind).mkdir(parents=True, exist_ok=True)
    write_checkpoint(base / "models" / "checkpoints" / CHECKPOINT)
    write_lora(base / "models" / "loras" / LORA)
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in graph["nodes"]:
        for class_type, name in (("CheckpointLoaderSimple", CHECKPOINT), ("HYPIRLoadLora", LORA)):
            if node["type"] == class_type:
                node["widgets_values"][0] = name
    saved = base / "user" / "default" / "workflows" / "restore_photo_stand_in.json"
    saved.parent.mkdir(parents=True, exist_ok=True)
    saved.write_text(json.dumps(graph), encoding="utf-8")


def main() -> None:
    try:
        host = get_host()
        prepare(BASE)
        with running(host, base=BASE, echo=True) as server:
            how = HOW.format(url=server.url, notice=NOTICE, models=BASE / "models")
            sys.stdout.write(how)
            sys.stdout.flush()
            server.process.wait()
    except KeyboardInterrupt:
        sys.stdout.write("stopped\n")
    except (ValueError, HostError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
