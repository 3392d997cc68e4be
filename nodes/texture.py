"""Texture richness: measure it, and match it on a finished image."""

import logging

from comfy_api.latest import io, ui

from ..hypir.image import check_image, color_channels
from ..hypir.texture import measure_richness, richness_map
from ..hypir.texture_match import match_texture
from .host.memory import check_cancelled, follow
from .inputs import CATEGORY

log = logging.getLogger(__name__)

REACHED_WITHIN = 0.02
"""Largest deviation from the target that Match Texture does not report."""


SHOWN_PX = 1024
"""Longest side of the map on the node."""


class HYPIRMeasureTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRMeasureTexture",
            display_name="HYPIR Measure Texture",
            category=CATEGORY,
            description="Measures the texture richness of a clean image, as a number and as a map. "
            "Do not use it on the degraded input: it would measure noise or blur.",
            search_aliases=["sharpness", "laplacian", "hypir"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="A clean image at the size of the result. Typical values at 512 px: "
                    "0.75 to 0.82, sky 0.4, grass 0.95. The same image enlarged 2x measures 0.3 "
                    "less. A noisy image measures about 0.9.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Only the masked part is measured. It must have the size of the image.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="richness",
                    tooltip="log2(standard deviation of the Laplacian / 0.005) / 6, averaged over "
                    "the batch.",
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
        richness = measure_richness(image, mask, follow("measure texture"))
        map_ = richness_map(image, on_part=follow("map texture"))
        # One by one and small: cancel ends it between two, and nobody sees more on a node.
        stride = -(-max(map_.shape[1:]) // SHOWN_PX)
        shown = ui.PreviewMask(map_[:1, ::stride, ::stride], cls=cls)
        for item in map_[1:, ::stride, ::stride]:
            check_cancelled()
            shown.values += ui.PreviewMask(item, cls=cls).values
        return io.NodeOutput(float(richness.mean()), map_, ui=shown)


class HYPIRMatchTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRMatchTexture",
            display_name="HYPIR Match Texture",
            category=CATEGORY,
            description="Scales the restored detail until the image has the requested texture "
            "richness. Works with any weights.",
            search_aliases=["sharpness", "detail", "hypir"],
            inputs=[
                io.Image.Input("image", tooltip="The restored image from HYPIR Decode."),
                io.Image.Input(
                    "source",
                    tooltip="The enlarged input. What it already shows stays unchanged; only the "
                    "restored detail is scaled.",
                ),
                io.Float.Input(
                    "richness",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The richness to reach, as measured by HYPIR Measure Texture. Natural "
                    "photographs: 0.75 to 0.82 at 512 px, about 0.5 at 1024 px; lower for smooth "
                    "skin and sky. Every 1/6 doubles the contrast of fine detail.",
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image, source, richness=0.6) -> io.NodeOutput:
        check_image(image)
        check_image(source, "source")
        match = match_texture(image, color_channels(source), richness, follow("match texture"))
        for i, (reached, gain) in enumerate(
            zip(match.richness.tolist(), match.gain.tolist(), strict=True)
        ):
            if abs(reached - richness) > REACHED_WITHIN:
                scaled = f"its detail was scaled by {gain:.2f}, the limit of the gain"
                log.warning(
                    "HYPIR Match Texture: image %d reached richness %.3f instead of %.3f; %s",
                    *(i, reached, richness, scaled if gain != 1 else "it has no restored detail"),
                )
        return io.NodeOutput(match.image)
