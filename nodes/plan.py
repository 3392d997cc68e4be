"""What a restoration will take, before it runs."""

from comfy_api.latest import io, ui

from ..hypir.image import check_image, color_channels
from ..hypir.tile_picture import draw_tiles
from .host import report
from .host.memory import show_text
from .inputs import CATEGORY

LARGEST_PX = 16384


class HYPIRPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRPlan",
            display_name="HYPIR Plan",
            category=CATEGORY,
            description="Shows what a restoration will take before it runs: the tiles of each "
            "stage, the computation, the memory, and the largest image for this device. Nothing "
            "is restored.",
            search_aliases=["memory", "vram", "tiles", "megapixels", "report", "hypir"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model used by HYPIR Restore."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The VAE used by HYPIR Encode and HYPIR Decode. Without it, their "
                    "memory is not known.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The enlarged image that goes into HYPIR Encode. The tiles are drawn "
                    "over it. Without it, width and height are used.",
                ),
                io.Int.Input(
                    "width",
                    default=2048,
                    min=1,
                    max=LARGEST_PX,
                    tooltip="Width of the result in pixels. Not used if an image is connected.",
                ),
                io.Int.Input(
                    "height",
                    default=2048,
                    min=1,
                    max=LARGEST_PX,
                    tooltip="Height of the result in pixels. Not used if an image is connected.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="tiles",
                    tooltip="The tiles of encode, step and decode, with their overlaps shaded.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Versions, device, model, tiles, computation and memory, as text for "
                    "a bug report.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, vae=None, image=None, width=2048, height=2048) -> io.NodeOutput:
        if image is not None:
            check_image(image)
            height, width = image.shape[1:3]
            image = color_channels(image)[0]
        stages, text = report.plan(model, vae, height, width)
        tiles = draw_tiles(stages, (height, width), image)
        show_text(text)
        shown = ui.PreviewImage(tiles, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(tiles, text, ui=shown)
