"""What the project needs beside the pack."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the pack."""
WORKFLOWS = ROOT / "workflows"
