"""`nox -s bench -- restore`: computation, time and memory of restoring an image."""

from __future__ import annotations

import argparse
import gc
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from hypir.tiling import CELL_PX
from hypir.train.plan import live_bytes
from tools.host.get_host import get_host
from tools.pages.markdown import table
from tools.pages.performance import clock, host, memory, models, report, work

log = logging.getLogger(__name__)

SIZES = (512, 1024, 2048, 4096, 6144)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser("nox -s bench -- restore", description=__doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[512, 1024], help="sizes to time in px, 0 to 6144"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of the timed models")
    parser.add_argument("--only", choices=("work", "clock", "memory"), nargs="*")
    options = parser.parse_args(options)
    chosen = options.only or ("work", "clock", "memory")
    if "work" in chosen:
        publish("work", work_section())
        publish("tiny", tiny_section())
    if {"clock", "memory"} & set(chosen):
        pack = host.start(get_host())
        if "memory" in chosen:
            publish("memory", memory_section(pack))
        if "clock" in chosen:
            clocked = run_clock(pack, sorted(options.sizes), options.dtype)
            publish("clock", clock_section(clocked))


def publish(name: str, text: str) -> None:
    log.info("%s\n", text)
    report.write(name, text)


def work_section() -> str:
    rows, plans = [], []
    for px in SIZES:
        cells = px // CELL_PX
        ours, limit = work.work_of_plan(cells), work.work_of_limit(cells)
        reference = work.work_of_reference(cells)
        rows.append(
            (
                f"{px} px",
                *(f"{v:.1f}" for v in (ours.encode, ours.step, ours.decode, ours.total)),
                f"{limit.total:.1f}",
                f"{reference.total:.1f}",
                f"{ours.total / limit.total:.2f}",
                f"{reference.total / ours.total:.2f}",
            )
        )
        plans.append((f"{px} px", *(plan.describe() for plan in work.plans(cells))))
    head = ("result", "encode", "step", "decode", "ours", "limit", "reference")
    counted = [
        (stage, f"{w * CELL_PX}x{h * CELL_PX} px", f"{c:.3f}", f"{f:.3f}", f"{f / c - 1:+.2%}")
        for stage, h, w, f, c in work.constants_against_count()
    ]
    return "\n\n".join(
        [
            "TFLOP for one image, counted on the meta device (torch.utils.flop_counter on the "
            "full-size models: one call per tile shape, multiplied by the number of tiles). "
            "Blending and colour transfer are not counted; they are far below 1 %.",
            table((*head, "ours / limit", "reference / ours"), rows),
            "Tiles of each plan:",
            table(("result", "autoencoder", "network"), plans),
            "The planner's cost constants (hypir/priors.py) compared with the count, in TFLOP per "
            "tile:",
            table(("stage", "tile", "counted", "constants", "difference"), counted),
        ]
    )


def tiny_section() -> str:
    """What the small decoder of the template restore_fast saves."""
    rows = []
    for px in SIZES:
        ours, tiny = work.work_of_plan(px // CELL_PX), work.decode_of_tiny(px // CELL_PX)
        whole = ours.encode + ours.step + tiny
        numbers = (ours.decode, tiny, ours.total, whole)
        rows.append((f"{px} px", *(f"{n:.1f}" for n in numbers), f"{ours.total / whole:.2f}"))
    head = ("result", "decoder of the VAE", "TAESD", "all stages", "with TAESD", "ratio")
    return (
        "TFLOP, counted as above, with the encoder of the VAE in both cases (template "
        "restore_fast). The pictures that the two decoders give were not compared here: that "
        "needs the published weights, and this page is made with random ones.\n\n"
        + table(head, rows)
    )


def memory_section(pack: host.Host) -> str:
    model, vae = host.small_models(memory.DTYPE)
    stand_ins = memory.StandIns()
    memory.put_in(stand_ins, model, vae)
    limit = memory.peak_of_limit().total / memory.MIB
    rows, peaks = [], {}
    for px in SIZES:
        ours = memory.peak_of_plan(pack, model, vae, stand_ins, px)
        reference = memory.peak_of_reference(stand_ins, px)
        peaks[px] = ours.total
        rows.append(
            (
                f"{px} px",
                *(f"{v / memory.MIB:.0f}" for v in (ours.encode, ours.step, ours.decode)),
                f"{ours.total / memory.MIB:.0f}",
                f"{limit:.0f}",
                f"{reference.total / memory.MIB:.0f}",
                f"{ours.total / limit / memory.MIB:.2f}",
                f"{reference.total / ours.total:.2f}",
                f"{ours.total / peaks[1024]:.2f}" if px >= 1024 else "",
            )
        )
        log.info("memory: %s", rows[-1])
    head = ("result", "encode", "step", "decode", "ours", "limit", "reference plan")
    head += ("ours / limit", "reference / ours", "ours / ours at 1024 px")
    return "\n\n".join(
        [
            "Peak of live tensors in MiB, without the weights, the input and the final image; "
            "networks in 16 bit. The pack's own nodes run on images of the real size. Where they "
            "call a network, the activations of the call are counted on the meta device, with "
            "fused attention. Workspace inside kernels is not counted. On a GPU, the activations "
            "are in GPU memory and the blended images in main memory. The limit here is a single "
            "512 px tile: larger tiles use more memory to save computation.",
            table(head, rows),
        ]
    )


@dataclass(frozen=True)
class Clocked:
    """The measured times."""

    dtype: str
    ours: dict[int, clock.Times]
    """By size in px."""
    theirs: dict[int, clock.Times]
    """The reference plan's."""
    merge: float
    """Seconds for loading the models and merging the LoRA."""
    live: float
    """MiB of live tensors at the peak of the real run at 512 px, beyond the final image."""
    expected: float
    """The same, as counted for the memory table."""


def run_clock(pack: host.Host, sizes: list[int], dtype: str) -> Clocked:
    kind, device = DTYPES[dtype], "cuda" if torch.cuda.is_available() else "cpu"
    lora = models.random_lora(kind)
    model = host.make_model(models.make_unet("cpu", kind).state_dict(), kind)
    vae = host.make_vae(models.make_vae("cpu", kind).state_dict(), kind)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lora.pth"
        torch.save(lora, file)
        patch = pack.pack("nodes.host.model").load_lora
        model = patch(model, str(file), file.name, 1.0)
    gc.collect()
    watch = clock.watch_pack(model, vae)
    first = watch.run(clock.graph_of_pack(pack, model, vae, 64))
    ours = {}
    for px in sizes:
        ours[px] = watch.run(clock.graph_of_pack(pack, model, vae, px))
        log.info("%d px: %s", px, ours[px])
    tracked, graph = live_bytes.LiveBytes(), clock.graph_of_pack(pack, model, vae, 512)
    with tracked:
        watch.run(graph)
    del graph
    del model, vae, watch
    pack.pack("nodes.host.memory").comfy.model_management.unload_all_models()
    gc.collect()
    reference = clock.Reference(kind, lora, device)
    theirs = {}
    reference.graph(512)()  # warm up, as for our run
    for px in (px for px in sizes if px <= 2048):
        theirs[px] = reference.watch.run(reference.graph(px))
        log.info("reference %d px: %s", px, theirs[px])
    return Clocked(
        dtype,
        ours,
        theirs,
        merge=first.total - first.in_models,
        live=(tracked.peak - 512 * 512 * 3 * 4) / memory.MIB,
        expected=memory.peak_of_limit().total / memory.MIB,
    )


def clock_section(clocked: Clocked) -> str:
    ours, theirs = clocked.ours, clocked.theirs
    return "\n\n".join(
        [
            f"{report.machine()}, {clocked.dtype}. Seconds for the nodes Encode, Restore and "
            "Decode (wavelet colours) in ComfyUI, with the LoRA merged and the models loaded, "
            "compared with the sum of the calls of the UNet and the autoencoder in the same run. "
            "The reference plan runs on diffusers and peft. Other programs may have run at the "
            "same time. The ratio total / model calls compares within one run, and the last two "
            "ratios use CPU time, which other programs disturb less. The limit is the time of the "
            "512 px run multiplied by the number of 512 px tiles.",
            table(_CLOCK_HEAD, [_clock_row(px, ours, theirs) for px in SIZES]),
            f"Loading and merging the LoRA (257 modules, rank 256) takes {clocked.merge:.1f} s "
            "once per loaded model.",
            f"Check of the memory table: the real run at 512 px has {clocked.live:.0f} MiB of live "
            f"tensors; the count on the meta device gives {clocked.expected:.0f} MiB for the "
            "networks alone.",
            _unmeasured(),
        ]
    )


_CLOCK_HEAD = ("result", "encode", "step", "decode", "total", "total / model calls")
_CLOCK_HEAD += ("reference plan", "CPU time", "ours / limit", "reference / ours")


def _clock_row(px: int, ours: dict[int, clock.Times], theirs: dict[int, clock.Times]) -> tuple:
    missing = "not run here"
    if px not in ours:
        return (f"{px} px", *[missing] * (len(_CLOCK_HEAD) - 1))
    own, other = ours[px], theirs.get(px)
    limit = ours[512].cpu * (px / 512) ** 2 if 512 in ours else None
    return (
        f"{px} px",
        *(f"{own.models[stage]:.1f}" for stage in clock.STAGES),
        f"{own.total:.1f}",
        f"{own.overhead:.3f}",
        f"{other.total:.1f}" if other else missing,
        f"{own.cpu:.1f}",
        f"{own.cpu / limit:.2f}" if limit else missing,
        f"{other.cpu / own.cpu:.2f}" if other else missing,
    )


def _unmeasured() -> str:
    if torch.cuda.is_available():
        return "Measured on the GPU named above."
    return (
        "No GPU was measured here (fp16 and bf16 on a GPU, transfers between main memory and GPU "
        "memory, dynamic VRAM). To run the same on a GPU: `nox -s bench -- --dtype fp16 "
        "--sizes 512 1024 2048 4096 6144`."
    )
