"""A whole video in one run, slice by slice."""

from comfy_api.latest import io

from ..hypir.color import METHODS, transfer_color_
from ..hypir.noise import inject_noise
from .host import model as _model
from .host import step, video_run
from .host import vae as _vae
from .host.memory import check_cancelled
from .inputs import CATEGORY, seed_input


class HYPIRRestoreVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HYPIRRestoreVideo",
            display_name="HYPIR Restore Video",
            category=CATEGORY,
            description="Restores a video of any length, a slice of frames at a time, and keeps "
            "its sound and timing. Every frame is restored by itself, with the same noise. If you "
            "cancel, the finished part is saved in the output folder.",
            search_aliases=["video upscale", "restore", "hypir"],
            inputs=[
                io.Video.Input(
                    "video", tooltip="From Load Video. Trim Video before it restores a part."
                ),
                io.Model.Input("model", tooltip="From Load HYPIR LoRA."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt for all frames, from CLIP Text Encode or HYPIR "
                    "Conditioning. It can be empty.",
                ),
                io.Vae.Input(
                    "vae", tooltip="The VAE of the base model, or the one from Load HYPIR Encoder."
                ),
                io.Float.Input(
                    "scale",
                    default=2.0,
                    min=0.25,
                    max=8.0,
                    step=0.05,
                    tooltip="Size of the result relative to the video. 1 restores at the same "
                    "size; lower values shrink a large but blurred video first.",
                ),
                io.Float.Input(
                    "noise",
                    default=0.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Strength of HYPIR Inject Noise. Every frame gets the same noise, so "
                    "that still parts stay still. More noise invents more detail, which flickers "
                    "where the picture moves.",
                ),
                seed_input("Seed of the noise, the same for every frame."),
                io.Combo.Input(
                    "color_fix",
                    options=[*METHODS, "none"],
                    default="wavelet",
                    tooltip="As in HYPIR Decode; the reference is the enlarged frame. adain and "
                    "lab correct each frame as a whole, so that brightness can flicker.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=512,
                    advanced=True,
                    tooltip="Frames in memory at a time. Lower it if main memory runs short; it "
                    "does not change the result.",
                ),
            ],
            outputs=[io.Video.Output(tooltip="For Save Video, which copies it without loss.")],
        )

    @classmethod
    def execute(
        cls,
        video,
        model,
        positive,
        vae,
        scale=2.0,
        noise=0.0,
        seed=0,
        color_fix="wavelet",
        frames=16,
    ) -> io.NodeOutput:
        if not 0 < scale < float("inf"):
            raise ValueError(
                f"scale must be a finite number above 0, got {scale:g}; 1 keeps the size"
            )
        if not 0 <= noise < float("inf"):
            raise ValueError(
                f"noise must be a finite number, at least 0, got {noise:g}; 0 adds no noise"
            )
        prior = _model.detect_prior(model)

        def restore(images):
            """One slice: (n, H, W, 3) enlarged frames to restored ones."""
            size = tuple(images.shape[1:3])
            latent = _vae.encode(vae, images)
            seeds = [seed] * len(images)
            latent = inject_noise(latent, noise / prior.latent_scale, seeds, None, size=size)
            latent = step.restore(model, positive, latent, size, preview=False)
            result = _vae.decode(vae, latent, size)
            if color_fix != "none":
                device = _vae.compute_device(vae)
                transfer_color_(
                    result, images, color_fix, 1.0, device, lambda *_: check_cancelled()
                )
            return result.clamp_(0, 1)

        return io.NodeOutput(video_run.restore_clip(video, restore, scale, frames))
