"""Load HYPIR weights onto the host's MODEL and VAE."""

from comfy_api.latest import io

from .host import files
from .host import model as _model
from .host import vae as _vae
from .inputs import CATEGORY


class HYPIRLoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRLoadLora",
            display_name="Load HYPIR LoRA",
            category=CATEGORY,
            description="Puts HYPIR restoration weights on a base model. The file is checked in "
            "full first, and all of it is applied or none. The base model itself is not changed.",
            search_aliases=["restore", "hypir", "lora"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The base model the weights were trained on: Stable Diffusion 2.1-base "
                    "(the 512 px one, eps prediction) for the public HYPIR_sd2.",
                ),
                io.Combo.Input(
                    "lora_name",
                    options=files.names("loras"),
                    tooltip="HYPIR_sd2.pth or a HYPIR .safetensors in ComfyUI/models/loras.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much of the restoration weights is used. 1 as trained; lower for "
                    "a softer result nearer to the base model, above 1 exaggerates.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the weights patched on.")],
        )

    @classmethod
    def execute(cls, model, lora_name: str, strength: float) -> io.NodeOutput:
        path = files.path_of("loras", lora_name)
        return io.NodeOutput(_model.load_lora(model, path, lora_name, strength))


class HYPIRLoadEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRLoadEncoder",
            display_name="Load HYPIR Encoder",
            category=CATEGORY,
            description="A VAE whose encoder was trained to remove degradation. The decoder is "
            "shared with the VAE that comes in, which is not changed.",
            search_aliases=["restore", "hypir", "vae"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the base model."),
                io.Combo.Input(
                    "encoder_name",
                    options=files.names("vae"),
                    tooltip="A HYPIR encoder .safetensors in ComfyUI/models/vae. A file for "
                    "another VAE is refused.",
                ),
            ],
            outputs=[
                io.Vae.Output(
                    tooltip="For HYPIR Encode. Its decoder is the one of the VAE that came in."
                )
            ],
        )

    @classmethod
    def execute(cls, vae, encoder_name: str) -> io.NodeOutput:
        path = files.path_of("vae", encoder_name)
        return io.NodeOutput(_vae.load_encoder(vae, path, encoder_name))
