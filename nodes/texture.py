"""Texture richness: measured, and matched on a finished picture."""

import logging

from comfy_api.latest import io, ui

from ..hypir.image import check_image, color_channels
from ..hypir.texture import match_texture, measure_richness, richness_map
from .inputs import CATEGORY

log = logging.getLogger(__name__)

REACHED_WITHIN = 0.02
"""How near Match Texture must come to the target to say nothing."""


class HYPIRMeasureTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRMeasureTexture",
            display_name="HYPIR Measure Texture",
            category=CATEGORY,
            description="How rich the texture of a clean picture is, as a number and as a map. Not "
            "for the degraded input: its noise or blur would be measured instead.",
            search_aliases=["sharpness", "laplacian", "hypir"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="A clean picture at the size of the result. Typical values at 512 px: "
                    "0.75 to 0.82, sky 0.4, grass 0.95; the same picture enlarged 2x reads 0.3 "
                    "less. Noise alone reads 0.9.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Measures only where the mask is; same size."
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="richness",
                    tooltip="log2(deviation of the Laplacian / 0.005) / 6, the mean over a batch.",
                ),
                io.Mask.Output(
                    display_name="map", tooltip="Richness around each pixel, clipped to 0..1."
                ),
            ],
        )

    @classmethod
    def execute(cls, image, mask=None) -> io.NodeOutput:
        check_image(image)
        image = color_channels(image)
        richness = measure_richness(image, mask)
        map_ = richness_map(image)
        shown = ui.PreviewMask(map_, cls=cls)
        return io.NodeOutput(float(richness.mean()), map_, ui=shown)


class HYPIRMatchTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRMatchTexture",
            display_name="HYPIR Match Texture",
            category=CATEGORY,
            description="Scales the restored detail until the picture's texture richness is the "
            "one asked for. Works with any weights.",
            search_aliases=["sharpness", "detail", "hypir"],
            inputs=[
                io.Image.Input("image", tooltip="The restored picture, from HYPIR Decode."),
                io.Image.Input(
                    "source",
                    tooltip="The enlarged input: what it shows already is left alone, only the "
                    "restored detail is scaled.",
                ),
                io.Float.Input(
                    "richness",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The richness to reach, as HYPIR Measure Texture reads it. Natural "
                    "photographs: 0.75 to 0.82 at 512 px, about 0.5 at 1024 px; smooth skin and "
                    "sky lower. Every 1/6 doubles the fine contrast.",
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image, source, richness=0.6) -> io.NodeOutput:
        check_image(image)
        check_image(source, "source")
        match = match_texture(image, color_channels(source), richness)
        for i, (reached, gain) in enumerate(
            zip(match.richness.tolist(), match.gain.tolist(), strict=True)
        ):
            if abs(reached - richness) > REACHED_WITHIN:
                scaled = f"its detail was scaled by {gain:.2f}, which is as far as it may go"
                log.warning(
                    "HYPIR Match Texture: image %d reached a richness of %.3f instead of %.3f; %s",
                    *(i, reached, richness, scaled if gain != 1 else "it has no restored detail"),
                )
        return io.NodeOutput(match.image)
