"""The restoration step and its conditions."""

from comfy_api.latest import io

from .host import conditioning, step
from .inputs import CATEGORY, tile_batch_input, tile_cells, tile_inputs, timestep_inputs
from .sizes import true_size, with_size


class HYPIRRestore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRRestore",
            display_name="HYPIR Restore",
            category=CATEGORY,
            description="Restores a latent with one step of the model. If the latent has a mask "
            "(Set Latent Noise Mask), only the masked part is restored.",
            search_aliases=["restore", "hypir", "upscale", "deblur", "denoise", "sampler"],
            inputs=[
                io.Model.Input("model", tooltip="From Load HYPIR LoRA."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt, from CLIP Text Encode or HYPIR Conditioning. Describe "
                    "what the image shows; quality words do not help. An empty prompt works.",
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
        size = true_size(samples)
        restored = step.restore(
            model,
            positive,
            samples["samples"],
            size,
            samples.get("noise_mask"),
            timestep=timestep,
            coefficient_timestep=coefficient_timestep,
            tile_batch=tile_batch,
            **tile_cells(tile_size, overlap),
        )
        return io.NodeOutput(with_size(samples, restored, size))


class HYPIRSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRSampler",
            display_name="HYPIR Sampler",
            category=CATEGORY,
            description="The step of HYPIR Restore as SAMPLER and SIGMAS for "
            "SamplerCustomAdvanced, for use with guiders, CFG and other custom nodes. Noise "
            "inputs have no effect.",
            search_aliases=["restore", "hypir", "custom sampler"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model from Load HYPIR LoRA. Connect the same model to the guider.",
                ),
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
            description="The prompt and the texture richness of the result. Without a CLIP the "
            "prompt must be empty.",
            search_aliases=["restore", "hypir", "prompt", "texture", "sharpness"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model from Load HYPIR LoRA, whose weights contain the "
                    "texture condition.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP of the base model."),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the image shows. Quality words do not help.",
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
                                    tooltip="A clean example at the size of the result. Do not use "
                                    "the degraded input: the node would measure its noise or blur.",
                                ),
                                io.Float.Input(
                                    "offset",
                                    default=0.0,
                                    min=-1.0,
                                    max=1.0,
                                    step=0.01,
                                    tooltip="Added to the richness measured on the example.",
                                ),
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "map",
                            [
                                io.Mask.Input(
                                    "mask",
                                    tooltip="Richness per pixel, 0 to 1, at the size of the "
                                    "result. Every tile uses the mean of its part.",
                                )
                            ],
                        ),
                    ],
                    tooltip="off: the weights decide. set: one value for the image. match: the "
                    "richness of a clean example. map: a painted mask. All but off need weights "
                    "trained with texture.",
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
        tooltip="Texture richness of the result. Typical photographs at 512 px have 0.75 to 0.82 "
        "(sky 0.4, grass 0.95); the same photographs enlarged 2x have about 0.5. Every 1/6 "
        "doubles the contrast of fine detail.",
    )
