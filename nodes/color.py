"""Colour transfer as a separate node."""

from comfy_api.latest import io

from ..hypir.color import METHODS, transfer_color
from ..hypir.image import check_image, color_channels
from .host.memory import check_cancelled, follow
from .inputs import CATEGORY


class HYPIRMatchColor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRMatchColor",
            display_name="HYPIR Match Color",
            category=CATEGORY,
            description="Transfers the colours of one image to another, with the colour correction "
            "of HYPIR Decode.",
            search_aliases=["color fix", "color transfer", "wavelet", "adain", "lab", "hypir"],
            inputs=[
                io.Image.Input("image", tooltip="The image to correct."),
                io.Image.Input(
                    "reference",
                    tooltip="The image to take the colours from, usually the enlarged input. It is "
                    "stretched to the image's size if its size differs. Give one for the whole "
                    "batch, or one per image.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="wavelet",
                    tooltip="wavelet takes tone and colour from the reference and detail from the "
                    "image; both must show the same scene. adain matches only mean and contrast "
                    "and works with any reference; lab does so in lightness and colour, and a "
                    "black-and-white reference leaves no colour.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0 keeps the image unchanged, 1 matches the colours fully.",
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image, reference, method="wavelet", strength=1.0) -> io.NodeOutput:
        check_image(image)
        check_image(reference, "reference")
        if strength == 0:
            return io.NodeOutput(image)
        given = color_channels(image)
        result = given.new_empty(*image.shape[:3], max(image.shape[-1], 3))
        result[..., 3:] = image[..., 3:]
        colors = result[..., :3]
        options = {"on_part": follow("match colours"), "out": colors}
        transfer_color(given, color_channels(reference), method, strength, **options)
        for item in colors:
            check_cancelled()
            item.clamp_(0, 1)
        return io.NodeOutput(result)
