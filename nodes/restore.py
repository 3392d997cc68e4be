"""The one step and what steers it."""

from comfy_api.latest import io

from .host import conditioning, step
from .inputs import CATEGORY, tile_batch_input, tile_cells, tile_inputs, timestep_inputs
from .latent import true_size


class HYPIRRestore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRRestore",
            display_name="HYPIR Restore",
            category=CATEGORY,
            description="Restores a latent in one step of the model. A mask on the latent (Set "
            "Latent Noise Mask) restores only there.",
            search_aliases=["restore", "hypir", "upscale", "deblur", "denoise", "sampler"],
            inputs=[
                io.Model.Input("model", tooltip="From Load HYPIR LoRA."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What is in the picture (CLIP Text Encode or HYPIR Conditioning). Say "
                    "what you see; words of quality do not help. An empty prompt works.",
                ),
                io.Latent.Input("samples", tooltip="From HYPIR Encode."),
                *timestep_inputs(),
                *tile_inputs(),
                tile_batch_input(),
            ],
            outputs=[io.Latent.Output(tooltip="For HYPIR Decode.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        samples,
        timestep=-1,
        coefficient_timestep=-1,
        tile_size=0,
        overlap=-1,
        tile_batch=0,
    ) -> io.NodeOutput:
        restored = step.restore(
            model,
            positive,
            samples["samples"],
            true_size(samples),
            samples.get("noise_mask"),
            timestep=timestep,
            coefficient_timestep=coefficient_timestep,
            tile_batch=tile_batch,
            **tile_cells(tile_size, overlap),
        )
        return io.NodeOutput({**samples, "samples": restored})


class HYPIRSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRSampler",
            display_name="HYPIR Sampler",
            category=CATEGORY,
            description="The same one step as SAMPLER and SIGMAS for SamplerCustomAdvanced, for "
            "guiders (CFG) and other nodes of your own. Noise inputs have no effect.",
            search_aliases=["restore", "hypir", "custom sampler"],
            inputs=[
                io.Model.Input("model", tooltip="From Load HYPIR LoRA; the guider's model too."),
                *timestep_inputs(),
                *tile_inputs(),
                tile_batch_input(),
            ],
            outputs=[io.Sampler.Output(), io.Sigmas.Output()],
        )

    @classmethod
    def execute(
        cls,
        model,
        timestep=-1,
        coefficient_timestep=-1,
        tile_size=0,
        overlap=-1,
        tile_batch=0,
    ) -> io.NodeOutput:
        sampler, sigmas = step.make_sampler(
            model,
            timestep,
            coefficient_timestep,
            tile_batch=tile_batch,
            **tile_cells(tile_size, overlap),
        )
        return io.NodeOutput(sampler, sigmas)


class HYPIRConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRConditioning",
            display_name="HYPIR Conditioning",
            category=CATEGORY,
            description="A prompt, and how rich the texture shall be. Without a CLIP the prompt "
            "must be empty.",
            search_aliases=["restore", "hypir", "prompt", "texture", "sharpness"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="From Load HYPIR LoRA: its weights know the texture."
                ),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP of the base model."),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What is in the picture. Words of quality do not help.",
                ),
                io.DynamicCombo.Input(
                    "texture",
                    options=[
                        io.DynamicCombo.Option("off", []),
                        io.DynamicCombo.Option("set", [_richness_input()]),
                        io.DynamicCombo.Option(
                            "match",
                            [
                                io.Image.Input(
                                    "image",
                                    tooltip="A clean example, at the size of the result; not the "
                                    "degraded input, whose noise or blur would be measured.",
                                ),
                                io.Float.Input(
                                    "offset",
                                    default=0.0,
                                    min=-1.0,
                                    max=1.0,
                                    step=0.01,
                                    tooltip="Added to the measured richness.",
                                ),
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "map",
                            [
                                io.Mask.Input(
                                    "mask",
                                    tooltip="Richness per pixel, 0 to 1, at the size of the "
                                    "result; every tile follows its part.",
                                )
                            ],
                        ),
                    ],
                    tooltip="off: the weights decide. set: one value. match: as rich as a clean "
                    "example. map: painted. Needs weights trained with texture.",
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, model, clip=None, text="", texture=None) -> io.NodeOutput:
        return io.NodeOutput(conditioning.encode(model, clip, text, texture))


def _richness_input() -> io.Input:
    return io.Float.Input(
        "richness",
        default=0.6,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Texture richness of the result. Photographs at 512 px lie at 0.75 to 0.82 (sky "
        "0.4, grass 0.95), the same enlarged 2x at about 0.5. Every 1/6 doubles the fine contrast.",
    )
