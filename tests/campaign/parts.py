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
    "memory": Part(
        "Out of memory",
        "tests/nodes/test_campaign_memory.py",
        "runs",
        *(12, 300, 100_000),
        "memory runs out at one operation of torch in a run of Encode, Restore and Decode, at each "
        "in turn. The run ends with the picture of the plan that the log states, or with a "
        "sentence; the next run, without the error, gives the same bits as before.",
    ),
    "soak": Part(
        "One server, many prompts",
        "tests/http/test_campaign.py::test_soak",
        "prompts",
        *(6, 150, 1000),
        "prompts with changing sizes, seeds and strengths through one server, some cancelled. "
        "Equal prompts give equal bits, no file is left behind, the number of loaded models and "
        "the memory of the process stay flat.",
    ),
    "cancel": Part(
        "Cancel",
        "tests/http/test_campaign.py::test_cancel",
        "cancels",
        *(3, 40, 200),
        "Cancel at a random moment of a run in tiles. The server is ready within a second of the "
        "end of the tile that runs, and the next prompt is right.",
    ),
    "queue": Part(
        "Two at once",
        "tests/http/test_campaign.py::test_queue",
        "pairs",
        *(2, 20, 100),
        "two prompts queued at once, and a prompt that comes while the models of another template "
        "load. Both give the pictures they give alone.",
    ),
    "kills": Part(
        "Training killed",
        "tests/train/test_campaign.py",
        "kills",
        *(1, 24, 100),
        "SIGKILL at a random moment or at a random file operation (also between the checkpoint "
        "and the exported files) of every stage, with exports of fp32, fp16 and bf16; the same "
        "command goes on. Checkpoint and files have the bits of an unbroken run.",
    ),
}
