"""The templates with a painted mask: only a part, inpainting afterwards, scratches."""

from __future__ import annotations

from tools.workflows import notes, parts
from tools.workflows.graph import Graph, Output
from tools.workflows.parts import Restoration


def masked_region(graph: Graph) -> None:
    r = Restoration(graph)
    r.load("Only a part", notes.MASK)
    large = r.enlarge(r.photo["IMAGE"])
    positive = r.prompt()
    graph.column()
    latent = r.encode(large)
    painted = enlarged_mask(graph, r.photo["MASK"], large)
    grown = graph.add("GrowMask", title="Grow the mask", mask=painted, expand=16)["MASK"]
    masked = graph.add("SetLatentNoiseMask", samples=latent, mask=grown)["LATENT"]
    restored = r.step(positive, masked)
    image = r.decode(restored, large)
    graph.column()
    drawn = graph.add("MaskToImage", mask=grown)["IMAGE"]
    soft = graph.add("ImageBlur", title="Feather it", image=drawn, blur_radius=12, sigma=6.0)
    feathered = graph.add("ImageToMask", image=soft["IMAGE"], channel="red")["MASK"]
    whole = graph.add("ImageCompositeMasked", destination=large, source=image, mask=feathered)[
        "IMAGE"
    ]
    graph.note(notes.COMPOSITE)
    graph.note(notes.FEATHER)
    r.show(large, whole)


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
    scratches = enlarged_mask(graph, r.photo["MASK"], large)
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


def enlarged_mask(graph: Graph, mask: Output, large: Output) -> Output:
    """A mask painted on the photo, at the size of the enlarged photo."""
    return graph.add(
        "ResizeImageMaskNode",
        title="The painted mask, enlarged too",
        input=mask,
        resize_type="match size",
        resize_type__match=large,
        resize_type__crop="disabled",
        scale_method="bilinear",
    )["resized"]
