"""The parts of the campaign: what each shows, where it stands, and how often it tries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part; the tests run it `few` times, the command `some` times, and `many` with --long."""

    title: str
    test: str
    """The test that is this part, as pytest names it."""
    unit: str
    few: int
    some: int
    many: int
    shows: str


PARTS = {
    "files": Part(
        "Damaged weight files",
        "tests/nodes/test_campaign_files.py",
        "files",
        *(60, 1000, 10_000),
        "flipped bits, cuts, swapped and missing tensors, other dtypes, huge headers, NaN, "
        "duplicate keys and malicious pickles through `inspect`, `convert`, Load HYPIR LoRA and "
        "Load HYPIR Encoder. No crash, no hang, no code run, nothing half applied, bounded "
        "memory, and every message names the file.",
    ),
    "sizes": Part(
        "Sizes",
        "tests/nodes/test_campaign_sizes.py",
        "pictures",
        *(8, 150, 1000),
        "1 x 1 to 300 x 300 px and strips, with and without alpha, one and several images, in one "
        "tile and in many, through Encode, Restore and Decode. The size is exact, every value is "
        "finite, alpha comes back unchanged.",
    ),
}
