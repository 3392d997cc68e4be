"""What the project needs besides the pack."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the pack."""
WORKFLOWS = ROOT / "workflows"
