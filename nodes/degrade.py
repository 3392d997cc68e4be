"""Degrade a good image, to test settings and compare."""

from comfy_api.latest import io

from ..hypir.degradation import MAX_SCALE, PRESETS, degrade
from ..hypir.image import check_image, color_channels
from .host.memory import follow
from .inputs import CATEGORY, item_seeds, seed_input


class HYPIRDegrade(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRDegrade",
            display_name="HYPIR Degrade",
            category=CATEGORY,
            description="Degrades a good image as in training: blur, resizing, noise and JPEG, "
            "applied twice. Use it to test settings against a known original.",
            search_aliases=["hypir", "real-esrgan", "jpeg", "noise", "blur"],
            inputs=[
                io.Image.Input("image", tooltip="A good image. Alpha is dropped."),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="medium",
                    tooltip="light, medium, heavy: increasing blur, noise and JPEG compression. "
                    "old_photo: grain, fading, scratches. web_video: small and strongly "
                    "compressed.",
                ),
                io.Int.Input(
                    "scale",
                    default=4,
                    min=1,
                    max=MAX_SCALE,
                    tooltip="Reduction factor: the side of the result is the side of the input "
                    "divided by this.",
                ),
                seed_input("Seed of the blur, noise and damage. Image i of a batch uses seed + i."),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image, preset="medium", scale=4, seed=0) -> io.NodeOutput:
        check_image(image)
        seeds = item_seeds(seed, image.shape[0])
        on_part = follow("degrade")
        return io.NodeOutput(degrade(color_channels(image), preset, scale, seeds, on_part))
