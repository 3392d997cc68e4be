"""Load HYPIR weights into the host's MODEL and VAE."""

from comfy_api.latest import io

from .host import encoder as _encoder
from .host import files
from .host import model as _model
from .inputs import CATEGORY


class HYPIRLoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRLoadLora",
            display_name="Load HYPIR LoRA",
            category=CATEGORY,
            description="Applies HYPIR restoration weights to a copy of the base model. The node "
            "checks the whole file first, then applies all of it, or none.",
            search_aliases=["restore", "hypir", "lora"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The base model that the weights were trained on. For the public "
                    "HYPIR_sd2: Stable Diffusion 2.1-base (the 512 px version, eps prediction).",
                ),
                io.Combo.Input(
                    "lora_name",
                    options=files.names("loras"),
                    tooltip="HYPIR_sd2.pth or a HYPIR .safetensors file in ComfyUI/models/loras.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Strength of the restoration weights. 1 is the trained strength. Lower "
                    "values give a softer result, closer to the base model; values above 1 "
                    "exaggerate.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the weights applied.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name=None, **_) -> str | float:
        return files.fingerprint("loras", lora_name)

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
            description="Returns a VAE whose encoder was trained to remove degradation. It shares "
            "its decoder with the input VAE, which stays unchanged.",
            search_aliases=["restore", "hypir", "vae"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the base model."),
                io.Combo.Input(
                    "encoder_name",
                    options=files.names("vae"),
                    tooltip="A HYPIR encoder .safetensors file in ComfyUI/models/vae. A file made "
                    "for another VAE is refused.",
                ),
            ],
            outputs=[
                io.Vae.Output(tooltip="For HYPIR Encode. Its decoder is that of the input VAE.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, encoder_name=None, **_) -> str | float:
        return files.fingerprint("vae", encoder_name)

    @classmethod
    def execute(cls, vae, encoder_name: str) -> io.NodeOutput:
        path = files.path_of("vae", encoder_name)
        return io.NodeOutput(_encoder.load_encoder(vae, path, encoder_name))
