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
from tools.workflows import blueprint, notes, parts
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


def masked_region(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("Only a part", notes.MASK)
    large = r.enlarge(r.photo["IMAGE"])
    positive = r.prompt()
    graph.column()
    latent = r.encode(large)
    masked = graph.add("SetLatentNoiseMask", samples=latent, mask=r.photo["MASK"])["LATENT"]
    restored = r.step(positive, masked)
    image = r.decode(restored, large)
    graph.column()
    whole = graph.add(
        "ImageCompositeMasked", destination=large, source=image, mask=r.photo["MASK"]
    )["IMAGE"]
    graph.note(notes.COMPOSITE)
    r.show(large, whole)


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


def then_inpaint(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("HYPIR, then inpaint", notes.INPAINT)
    large = r.enlarge(r.photo["IMAGE"], 2.0)
    positive = r.prompt()
    graph.column()
    image = r.one_step(large, positive)
    graph.column()
    wanted = graph.add(
        "CLIPTextEncode", title="What to paint", clip=r.clip, text="a clear blue sky"
    )
    unwanted = graph.add("CLIPTextEncode", title="What to avoid", clip=r.clip)
    latent = graph.add("VAEEncode", pixels=image, vae=r.vae)["LATENT"]
    masked = graph.add("SetLatentNoiseMask", samples=latent, mask=r.photo["MASK"])["LATENT"]
    painted = graph.add(
        "KSampler",
        title="KSampler on the base model, without HYPIR",
        model=r.base,
        positive=wanted["CONDITIONING"],
        negative=unwanted["CONDITIONING"],
        latent_image=masked,
        cfg=7.0,
        sampler_name="dpmpp_2m",
        scheduler="karras",
        denoise=0.85,
    )["LATENT"]
    graph.column()
    decoded = graph.add("VAEDecode", samples=painted, vae=r.vae)["IMAGE"]
    whole = graph.add(
        "ImageCompositeMasked", destination=image, source=decoded, mask=r.photo["MASK"]
    )["IMAGE"]
    graph.note(notes.COMPOSITE)
    r.show(image, whole)


def old_photo(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("An old photo", notes.OLD)
    small = graph.add(
        "ImageScaleBy",
        title="1. Shrink: removes grain and dust",
        image=r.photo["IMAGE"],
        upscale_method="area",
        scale_by=0.5,
    )["IMAGE"]
    large = graph.add(
        "ImageScaleBy",
        title="2. Enlarge to the size you want",
        image=small,
        upscale_method="lanczos",
        scale_by=4.0,
    )["IMAGE"]
    positive = r.prompt("a photograph of people in front of a house")
    graph.note(notes.OLD_STEPS)
    graph.column()
    latent = r.encode(large)
    scratches = graph.add(
        "ResizeImageMaskNode",
        title="The painted mask, enlarged too",
        input=r.photo["MASK"],
        resize_type="match size",
        resize_type__match=large,
        resize_type__crop="disabled",
        scale_method="bilinear",
    )["resized"]
    noisy = graph.add(
        "HYPIRInjectNoise",
        title="3. Noise on the painted scratches only",
        model=r.model,
        samples=latent,
        strength=0.6,
        mask=scratches,
    )["LATENT"]
    restored = r.step(positive, noisy)
    image = r.decode(restored, large, color_fix="adain")
    graph.column()
    example = graph.add("LoadImage", title="A photo with good colours", image=parts.PHOTO)
    coloured = graph.add(
        "HYPIRMatchColor",
        title="4. Colours of another photo",
        image=image,
        reference=example["IMAGE"],
        method="adain",
        strength=0.3,
    )["IMAGE"]
    graph.note(notes.OLD_COLOUR)
    r.show(large, coloured)


def video_slices(graph: Graph) -> None:
    r = Restoration(graph)
    checkpoint, lora = r.files
    graph.note(f"## A video, slice by slice\n\n{notes.VIDEO}")
    graph.note(notes.TWO_FILES)
    graph.column()
    video = graph.add("LoadVideo", file="video.mp4")
    slice_ = graph.add("Video Slice", title="This slice", video=video["VIDEO"], duration=2.0)
    frames = graph.add("GetVideoComponents", video=slice_["VIDEO"])
    loader = graph.add("CheckpointLoaderSimple", models=[checkpoint], ckpt_name=checkpoint.name)
    r.clip, r.vae = loader["CLIP"], loader["VAE"]
    r.model = graph.add("HYPIRLoadLora", models=[lora], model=loader["MODEL"], lora_name=lora.name)[
        "MODEL"
    ]
    graph.column()
    large = r.enlarge(frames["images"], 2.0)
    positive = r.prompt()
    graph.note(notes.FRAMES)
    graph.column()
    image = r.one_step(large, positive)
    graph.column()
    made = graph.add("CreateVideo", images=image, fps=frames["fps"], audio=frames["audio"])
    graph.add("SaveVideo", video=made["VIDEO"], filename_prefix="video/HYPIR")
    first = graph.add("ImageFromBatch", title="First frame, before", image=large)["IMAGE"]
    then = graph.add("ImageFromBatch", title="First frame, after", image=image)["IMAGE"]
    graph.add("ImageCompare", title=parts.SLIDER, image_a=first, image_b=then)


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
    "restore_masked_region": masked_region,
    "restore_after_upscale_model": upscale_model,
    "restore_then_inpaint": then_inpaint,
    "restore_old_photo": old_photo,
    "restore_video_slices": video_slices,
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
