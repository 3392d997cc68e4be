"""Image to latent, noise into the latent, latent to image."""

import logging

from comfy_api.latest import io

from ..hypir.color import METHODS, check_strength, transfer_color_
from ..hypir.fidelity import check_fidelity, keep_detail_
from ..hypir.image import (
    alpha_channel,
    check_image,
    color_channels,
    latent_size,
    padded_size,
    repeat_items,
    resize,
)
from ..hypir.noise import inject_noise
from .host import model as _model
from .host import vae as _vae
from .host.memory import follow
from .inputs import (
    CATEGORY,
    item_seeds,
    item_seeds_after,
    seed_input,
    tile_cells,
    tile_inputs,
)
from .sizes import is_moved, true_size, with_size

log = logging.getLogger(__name__)


class HYPIREncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIREncode",
            display_name="HYPIR Encode",
            category=CATEGORY,
            description="Encodes a degraded image of any size, in tiles. Enlarge the image before "
            "this node: the result has the size of this input.",
            search_aliases=["restore", "hypir", "vae encode tiled"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The degraded image, already enlarged to the size of the result (with "
                    "Upscale Image By or an upscale model). Alpha is ignored here.",
                ),
                io.Vae.Input(
                    "vae", tooltip="The VAE of the base model, or the one from Load HYPIR Encoder."
                ),
                *tile_inputs(),
                io.Combo.Input(
                    "posterior",
                    options=["mean", "sample"],
                    default="mean",
                    advanced=True,
                    tooltip="mean gives the same latent every time. sample draws from the "
                    "encoder's distribution with the seed, as the public HYPIR does.",
                ),
                seed_input("Used only when posterior is sample.", advanced=True),
            ],
            outputs=[io.Latent.Output(tooltip="Latent that stores the exact image size.")],
        )

    @classmethod
    def execute(
        cls, image, vae, tile_size=0, overlap=-1, posterior="mean", seed=0
    ) -> io.NodeOutput:
        check_image(image)
        seeds = item_seeds(seed, image.shape[0]) if posterior == "sample" else None
        latent = _vae.encode(vae, image, **tile_cells(tile_size, overlap), sample_seeds=seeds)
        return io.NodeOutput(with_size({}, latent, tuple(image.shape[1:3])))


class HYPIRInjectNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRInjectNoise",
            display_name="HYPIR Inject Noise",
            category=CATEGORY,
            description="Adds noise to the latent before the restoration step. With more noise, "
            "the result follows the input less and more of it is generated. Each seed gives a "
            "different result.",
            search_aliases=["restore", "hypir", "fidelity", "variations"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model used by HYPIR Restore. It defines the unit of the strength.",
                ),
                io.Latent.Input("samples", tooltip="From HYPIR Encode."),
                io.Float.Input(
                    "strength",
                    default=0.2,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Standard deviation of the noise, relative to that of the latent. 0 "
                    "changes nothing; 0.1 to 0.3 removes compression blocks and blur. Weights "
                    "that were trained without noise tolerate only a little.",
                ),
                seed_input("Seed of the noise. Image i of a batch uses seed + i."),
                io.Int.Input(
                    "variants",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Number of results per image, made with the seeds seed, seed + 1, ...",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Multiplies the strength per pixel. It must have the size of the "
                    "encoded image. Where it is 0, the latent stays unchanged.",
                ),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, model, samples, strength, seed, variants=1, mask=None) -> io.NodeOutput:
        if not 0 <= strength < float("inf"):
            raise ValueError(
                f"noise strength must be a finite number, at least 0, got {strength:g}; 0 adds no "
                "noise"
            )
        prior = _model.detect_prior(model)
        _model.check_latent(samples["samples"], prior)
        latent, seeds = samples["samples"], item_seeds(seed, samples)
        out = dict(samples)
        if variants > 1:
            # In the order of the host's Repeat Latent Batch, so that masks and conditions with one
            # entry per image still match: the host repeats them in this order too.
            seeds = [s for v in range(variants) for s in item_seeds_after(seeds, v)]
            latent = latent.repeat(variants, 1, 1, 1)
            out["batch_index"] = list(range(latent.shape[0]))
            if mask is not None and mask.shape[0] > 1:
                mask = mask.repeat(variants, 1, 1)
        size = true_size(samples)
        if mask is not None and not bool(mask.any()):
            log.warning("HYPIR Inject Noise: the mask is empty, so no noise is added")
        # The strength is in the model's unit: the host's LATENT is larger by 1 / scale.
        noisy = inject_noise(latent, strength / prior.latent_scale, seeds, mask, size=size)
        return io.NodeOutput(with_size(out, noisy, size))


class HYPIRDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRDecode",
            display_name="HYPIR Decode",
            category=CATEGORY,
            description="Decodes the restored latent in tiles, corrects the colours, and crops the "
            "image to its exact size.",
            search_aliases=["restore", "hypir", "vae decode tiled", "color fix"],
            inputs=[
                io.Latent.Input("samples", tooltip="From HYPIR Restore."),
                io.Vae.Input("vae", tooltip="The VAE of the base model."),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="The enlarged image that went into HYPIR Encode. The result takes its "
                    "colours and its alpha.",
                ),
                io.Combo.Input(
                    "color_fix",
                    options=[*METHODS, "none"],
                    default="wavelet",
                    tooltip="wavelet takes tone and colour from the reference and detail from the "
                    "result. adain matches only mean and contrast. lab does so in lightness and "
                    "colour, and keeps black and white free of colour. none keeps the decoder's "
                    "colours. Has no effect without a reference.",
                ),
                io.Float.Input(
                    "color_strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="1 takes all of the reference's colours. Lower it if the input has a "
                    "colour cast that you do not want in the result.",
                ),
                *tile_inputs(),
                # last, because saved workflows store the values of a node's widgets in their order
                io.Float.Input(
                    "fidelity",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Keeps the detail of the input. 0 keeps all restored detail. 1 uses "
                    "the reference's detail wherever both have the same amount of it, so that "
                    "shapes stay as in the photo. Blur and noise of the input do not return. Needs "
                    "a reference.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The restored image, the same size as the input.")],
        )

    @classmethod
    def execute(
        cls,
        samples,
        vae,
        reference=None,
        color_fix="wavelet",
        color_strength=1.0,
        tile_size=0,
        overlap=-1,
        fidelity=0.0,
    ) -> io.NodeOutput:
        check_fidelity(fidelity)
        check_strength(color_strength)
        if fidelity > 0 and reference is None:
            raise ValueError(
                f"fidelity {fidelity:g} needs a reference: connect the enlarged image that went "
                "into HYPIR Encode, or set fidelity to 0"
            )
        latent = samples["samples"]
        size = true_size(samples)
        if reference is not None:
            check_image(reference, "reference")
            reference = repeat_items(reference, latent.shape[0])
            cells = tuple(latent.shape[-2:])
            if size is None and latent_size(*reference.shape[1:3]) == cells:
                size = tuple(reference.shape[1:3])
                _check_place(samples, size)
        image = _vae.decode(vae, latent, size, **tile_cells(tile_size, overlap))
        if reference is not None:
            device, source = _vae.compute_device(vae), color_channels(reference)
            if color_fix != "none" and color_strength > 0:
                on_part = follow("match colours")
                transfer_color_(image, source, color_fix, color_strength, device, on_part)
            if fidelity > 0:
                keep_detail_(image, source, fidelity, device, follow("keep detail"))
        image.clamp_(0, 1)
        alpha = None if reference is None else alpha_channel(reference)
        if alpha is not None:
            image = _with_alpha(image, alpha)
        return io.NodeOutput(image)


def _check_place(samples: dict, size: tuple[int, int]) -> None:
    """Raise ValueError if cropping to the reference's size would cut an image that was moved."""
    if size != padded_size(*size) and is_moved(samples):
        raise ValueError(
            "a node moved the image in the latent (flip, rotate, shift), so the "
            f"{size[1]}x{size[0]} px of the reference are no longer at the top left; move the "
            "image before HYPIR Encode or after HYPIR Decode instead"
        )


def _with_alpha(image, alpha):
    from torch import cat

    return cat([image, resize(alpha, *image.shape[1:3]).to(image)], dim=-1)
