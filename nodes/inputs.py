"""Inputs that several nodes share, with the same text everywhere."""

from comfy_api.latest import io

from ..hypir.tiling import cells

CATEGORY = "HYPIR"
MAX_SEED = 2**64 - 1


def tile_inputs() -> list[io.Input]:
    """tile_size and overlap, in image pixels."""
    return [
        io.Int.Input(
            "tile_size",
            default=0,
            min=0,
            max=8192,
            step=16,
            advanced=True,
            tooltip="Side of a tile in image pixels. 0 chooses the tiles that need the least "
            "computation for this image size. Lower it only if you run out of memory; larger "
            "tiles see more context.",
        ),
        io.Int.Input(
            "overlap",
            default=-1,
            min=-1,
            max=512,
            step=1,  # with a minimum of -1 and steps of 8, the page would round to 7, 15, ...
            advanced=True,
            tooltip="Overlap of neighbouring tiles in image pixels, blended smoothly. -1 chooses "
            "it automatically. Raise it if you see seams; more overlap takes more time.",
        ),
    ]


def tile_batch_input() -> io.Input:
    """Number of tiles per network call."""
    return io.Int.Input(
        "tile_batch",
        default=0,
        min=0,
        max=64,
        advanced=True,
        tooltip="Tiles per network call. 0 uses the free memory, up to a sensible limit. Raise it "
        "for small tiles on a large GPU; set it to 1 to save memory.",
    )


def timestep_inputs() -> list[io.Input]:
    """timestep and coefficient_timestep."""
    return [
        io.Int.Input(
            "timestep",
            default=-1,
            min=-1,
            max=999,
            advanced=True,
            tooltip="Noise level given to the network, 0 to 999. -1 uses the one the weights were "
            "trained at (200 for the public file). Lower values are smoother and closer to the "
            "input, higher values invent more detail. Values far from the trained one break the "
            "image.",
        ),
        io.Int.Input(
            "coefficient_timestep",
            default=-1,
            min=-1,
            max=999,
            advanced=True,
            tooltip="Noise level used to compute the image from the network's output. -1 uses the "
            "same value as timestep. Change it only for experiments.",
        ),
    ]


def seed_input(tooltip: str, advanced: bool = False) -> io.Input:
    """A seed input, with the host's "control after generate" unless it is an advanced input."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=MAX_SEED,
        control_after_generate=False if advanced else io.ControlAfterGenerate.fixed,
        advanced=advanced,
        tooltip=tooltip,
    )


def tile_cells(tile_size: int, overlap: int) -> dict[str, int]:
    """tile_size and overlap of a node in cells (ValueError if they are not whole cells)."""
    return {"tile": cells(tile_size, "tile_size"), "overlap": cells(overlap, "overlap")}


def item_seeds(seed: int, latent_or_count: dict | int) -> list[int]:
    """Seed of every item: seed + batch_index[i], or seed + i; wraps after the largest seed."""
    if isinstance(latent_or_count, int):
        index = range(latent_or_count)
    else:
        count = latent_or_count["samples"].shape[0]
        index = latent_or_count.get("batch_index") or range(count)
    return [(seed + i) % (MAX_SEED + 1) for i in index]


def item_seeds_after(seeds: list[int], variant: int) -> list[int]:
    """The seeds raised by `variant`; they wrap after the largest seed."""
    return [(seed + variant) % (MAX_SEED + 1) for seed in seeds]
