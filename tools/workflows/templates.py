"""Writes the templates of workflows/ and the blueprint: `python -m tools.workflows.templates`.

Every template is a function that builds one graph; the host's schemas, read from a running host,
say which widgets a node has and what their defaults are. parts.py holds what they share.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tools import WORKFLOWS
from tools.command_line import run
from tools.host.get_host import get_host
from tools.host.server import running
from tools.workflows import blueprint, masks, notes, parts
from tools.workflows.graph import Graph, Model, Schemas, as_text
from tools.workflows.parts import Restoration, Split


def start_here(graph: Graph) -> None:
    r = Restoration(graph)
    r.load_small(notes.START, notes.START_NEXT)
    # Bicubic as in its training; 2 as ComfyUI's example is large and the first run should be short.
    large = r.enlarge(r.photo["IMAGE"], 2.0, method="bicubic")
    graph.column()
    positive = graph.add("HYPIRConditioning", model=r.model)["CONDITIONING"]
    latent = graph.add("HYPIREncode", image=large, vae=r.encoder)["LATENT"]
    restored = r.step(positive, latent)
    graph.column()
    image = r.decode(restored, large)
    r.show(large, image)


def restore_photo(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("Restore a photo", notes.RESTORE)
    large = r.enlarge(r.photo["IMAGE"])
    positive = r.prompt()
    graph.note(notes.PROMPT)
    graph.column()
    latent = r.encode(large)
    restored = r.step(positive, latent)
    image = r.decode(restored, large)
    graph.note(notes.COLOUR)
    r.show(large, image)


def all_controls(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("Restore with all controls", notes.CONTROLS)
    large = r.enlarge(r.photo["IMAGE"])
    positive = graph.add("HYPIRConditioning", model=r.model, clip=r.clip)["CONDITIONING"]
    graph.note(notes.TEXTURE)
    vae = graph.add("HYPIRLoadEncoder", bypass=True, vae=r.vae, encoder_name=parts.ENCODER.name)[
        "VAE"
    ]
    graph.note(notes.ENCODER)
    graph.column()
    latent = graph.add("HYPIREncode", image=large, vae=vae)["LATENT"]
    noisy = graph.add("HYPIRInjectNoise", model=r.model, samples=latent, strength=0.1)["LATENT"]
    restored = r.step(positive, noisy)
    graph.note(notes.NOISE)
    graph.column()
    image = r.decode(restored, large, color_fix="none")
    coloured = graph.add("HYPIRMatchColor", image=image, reference=large)["IMAGE"]
    matched = graph.add("HYPIRMatchTexture", image=coloured, source=large, richness=0.35)["IMAGE"]
    measured = graph.add("HYPIRMeasureTexture", image=matched)
    graph.add("PreviewAny", title="Richness of the result", source=measured["richness"])
    graph.note(notes.AFTER)
    r.show(large, matched)


def four_variants(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("Four variants", notes.VARIANTS)
    large = r.enlarge(r.photo["IMAGE"])
    positive = r.prompt()
    graph.column()
    latent = r.encode(large)
    noisy = graph.add("HYPIRInjectNoise", model=r.model, samples=latent, strength=0.2, variants=4)[
        "LATENT"
    ]
    restored = r.step(positive, noisy)
    images = r.decode(restored, large)
    graph.column()
    graph.add("PreviewImage", title="All four", images=images)
    best = graph.add("ImageFromBatch", title="The one to keep: 0 to 3", image=images)["IMAGE"]
    graph.note(notes.KEEP)
    r.show(large, best)


def faithful(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("Faithful to the photo", notes.FAITHFUL)
    large = r.enlarge(r.photo["IMAGE"])
    positive = r.prompt()
    graph.column()
    latent = r.encode(large)
    restored = r.step(positive, latent)
    image = r.decode(restored, large, fidelity=0.7)
    graph.note(notes.FIDELITY)
    r.show(large, image)


def fast(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("Twice as fast", notes.FAST, notes.FOUR_FILES)
    large = r.enlarge(r.photo["IMAGE"])
    positive = r.prompt()
    small = graph.add("VAELoader", title="The small decoder", vae_name="taesd")["VAE"]
    graph.column()
    latent = r.encode(large)
    restored = r.step(positive, latent)
    image = r.decode(restored, large, vae=small)
    graph.note(notes.SMALL_DECODER)
    r.show(large, image)


def try_a_window(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("Try a window first", notes.WINDOW)
    large = r.enlarge(r.photo["IMAGE"])
    window = graph.add("ImageCrop", title="The window to try: x and y", image=large)["IMAGE"]
    part = graph.add(
        "ComfySwitchNode",
        title="Only the window? Off: the whole photo",
        on_false=large,
        on_true=window,
        switch=True,
    )["output"]
    positive = r.prompt()
    graph.column()
    image = r.one_step(part, positive)
    plan = graph.add(
        "HYPIRPlan", title="What the whole photo takes", model=r.model, vae=r.vae, image=large
    )
    graph.add("PreviewAny", title="The report", source=plan["report"])
    graph.note(notes.WHOLE)
    r.show(part, image)


def upscale_model(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("Upscale model, then HYPIR", notes.UPSCALE, notes.THREE_FILES)
    model = graph.add("UpscaleModelLoader", models=[parts.UPSCALER], model_name=parts.UPSCALER.name)
    large = graph.add(
        "ImageUpscaleWithModel", upscale_model=model["UPSCALE_MODEL"], image=r.photo["IMAGE"]
    )["IMAGE"]
    positive = r.prompt()
    graph.column()
    image = r.one_step(large, positive)
    r.show(large, image)


def whole_video(graph: Graph) -> None:
    r = Restoration(graph)
    checkpoint, lora = r.files
    graph.note(f"## A video\n\n{notes.VIDEO}")
    graph.note(notes.TWO_FILES)
    graph.column()
    video = graph.add("LoadVideo", file="video.mp4")
    r.load_base(checkpoint)
    r.model = graph.add("HYPIRLoadLora", models=[lora], model=r.base, lora_name=lora.name)["MODEL"]
    graph.column()
    positive = r.prompt()
    result = graph.add(
        "HYPIRRestoreVideo", video=video["VIDEO"], model=r.model, positive=positive, vae=r.vae
    )["VIDEO"]
    graph.note(notes.FRAMES)
    graph.column()
    graph.add("SaveVideo", video=result, filename_prefix="video/HYPIR")


def caption(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("Caption, then restore", notes.CAPTION, notes.CAPTION_FILES)
    reader = graph.add("CLIPLoader", models=[parts.CAPTIONER], clip_name=parts.CAPTIONER.name)
    written = graph.add(
        "TextGenerate",
        clip=reader["CLIP"],
        prompt=notes.ASK,
        image=r.photo["IMAGE"],
        max_length=80,
        sampling_mode="off",
    )["generated_text"]
    graph.add("PreviewAny", title="The caption", source=written)
    graph.column()
    large = r.enlarge(r.photo["IMAGE"])
    positive = r.prompt(written)
    graph.column()
    image = r.one_step(large, positive)
    r.show(large, image)


def two_files(
    title: str, text: str, files: str, checkpoint: Model | Split, lora: Model
) -> Callable:
    """The short template for a pair of files; the checkpoint may be one without a text encoder."""

    def build(graph: Graph) -> None:
        r = Restoration(graph, checkpoint, lora)
        r.load(title, text, files)
        large = r.enlarge(r.photo["IMAGE"])
        positive = graph.add("HYPIRConditioning", model=r.model, clip=r.clip)["CONDITIONING"]
        graph.column()
        image = r.one_step(large, positive)
        r.show(large, image)

    return build


def other_prior(title: str, files: str, checkpoint: Model | Split, lora: Model) -> Callable:
    """The template of a prior for which no weights have been published."""
    return two_files(f"Restore a photo with {title}", notes.OTHER_PRIOR, files, checkpoint, lora)


TEMPLATES: dict[str, Callable[[Graph], None]] = {
    "START_here": start_here,
    "restore_photo": restore_photo,
    "restore_all_controls": all_controls,
    "restore_four_variants": four_variants,
    "restore_masked_region": masks.masked_region,
    "restore_after_upscale_model": upscale_model,
    "restore_then_inpaint": masks.then_inpaint,
    "restore_old_photo": masks.old_photo,
    "restore_faithful": faithful,
    "restore_fast": fast,
    "restore_try_a_window": try_a_window,
    "restore_video": whole_video,
    "restore_with_caption": caption,
    "restore_photo_sdxl": other_prior("SDXL", notes.SDXL_FILES, parts.SDXL, parts.HYPIR_SDXL),
    "restore_photo_sd3": other_prior(
        "Stable Diffusion 3.5", notes.SD3_FILES, parts.SD3, parts.HYPIR_SD3
    ),
    "restore_photo_flux": other_prior("Flux", notes.FLUX_FILES, parts.FLUX, parts.HYPIR_FLUX),
    "restore_photo_z_image": other_prior(
        "Z-Image", notes.Z_IMAGE_FILES, parts.Z_IMAGE, parts.HYPIR_Z_IMAGE
    ),
}


def build(name: str, schemas: Schemas) -> str:
    """One template as the text of its file."""
    graph = Graph(schemas, name)
    TEMPLATES[name](graph)
    return as_text(graph.as_dict())


def files(schemas: Schemas) -> dict[Path, str]:
    """Every file that this script writes, and its text."""
    written = {WORKFLOWS / f"{name}.json": build(name, schemas) for name in TEMPLATES}
    return written | {blueprint.FILE: blueprint.build(schemas)}


def write() -> None:
    with running(get_host()) as server:
        schemas = server.object_info()
    for file, text in files(schemas).items():
        file.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    run(write)
