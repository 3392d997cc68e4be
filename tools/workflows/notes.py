"""Texts of the notes in the templates."""

START = """## Start here: press Run

This graph needs no download: its four files come with the pack. They are a **small model**, \
trained on a CPU on synthetic images only, to show how everything works. It removes noise, \
blocks and blur, and sharpens edges. It does not know what a face looks like.

1. **Load Image**: choose your photo, a small or degraded one.
2. **Upscale Image By**: how much larger the result will be; 4 for a small photo.
3. **Run.** The result is in Save Image. *Before and after* on the right compares both with a \
slider; it needs Nodes 2.0 (in the settings)."""

START_NEXT = """## Then

- For the real weights, open the template *restore_photo*. It lists the files it needs and where \
they are.
- All controls: *restore_all_controls*.
- The small model takes no prompt: it has no text encoder."""

TWO_FILES = """## Two files

- `models/checkpoints`: `v2-1_512-ema-pruned.safetensors`, Stable Diffusion 2.1 **base** \
(the 512 px version, not the 768 px v-prediction version)
- `models/loras`: `HYPIR_sd2.pth` from the authors of HYPIR; the licence is non-commercial

Put the files there, press R, and select them in Load Checkpoint and Load HYPIR LoRA."""

THREE_FILES = TWO_FILES.replace("Two files", "Three files").replace(
    "\n\nPut the files",
    "\n- `models/upscale_models`: any upscale model, here "
    "`RealESRGAN_x4plus.safetensors`\n\nPut the files",
)

CAPTION_FILES = TWO_FILES.replace("Two files", "Three files").replace(
    "\n\nPut the files",
    "\n- `models/text_encoders`: a model that can describe images, here "
    "`qwen3vl_4b_fp8_scaled.safetensors`\n\nPut the files",
)

RESTORE = """1. **Load Image**: your photo.
2. **Upscale Image By**: how much larger the result will be. 1 restores at the same size.
3. Run. The result has exactly the size of the enlarged photo, odd sizes included.

You can use any other resizing node instead, for example Scale Image to Total Pixels or Upscale \
Image (using Model)."""

PROMPT = """## The prompt

It can be empty. A plain description of the photo ("a brick house behind trees") helps where the \
content is hard to recognize. Quality words do not help."""

COLOUR = """## Colour

The enlarged photo is the *reference*: HYPIR Decode takes the colours from it (wavelet: the \
large-scale colours; adain: mean and contrast only)."""

CONTROLS = """Every control of the restoration in one graph, with settings for the public \
weights. Change one at a time.

Open the *advanced* inputs on the node to see tile sizes and timesteps. The public weights use \
timestep 200; lower values stay closer to the photo, higher values invent more."""

TEXTURE = """## Texture

*off* lets the weights decide. *set*, *match* and *map* need weights that were trained with \
texture; the public file was not, and the node reports this. HYPIR Match Texture, on the right, \
works with any weights."""

ENCODER = """## Encoder (bypassed)

Load HYPIR Encoder is bypassed, because no encoder for SD2 has been published. If you have one in \
`models/vae`, select the node and press Ctrl+B."""

NOISE = """## Noise

0 stays closest to the photo. 0.1 to 0.3 removes compression blocks and blur; the public weights \
tolerate only a little noise. Each seed gives a different result."""

AFTER = """## Colour and texture, after the step

- **Match Color** applies the colours of the enlarged photo.
- **Match Texture**: a richness of 0.5 is typical at 1024 px, 0.3 to 0.4 at 2048 px and more; \
lower is smoother.
- **Measure Texture** measures the richness of the result; the map shows where it is high."""

VARIANTS = """Four results of one photo, from four noise seeds: seed, seed + 1, seed + 2, \
seed + 3.

1. Run and look at all four.
2. Enter the number of the best one (0 to 3) in **The one to keep** and run again: ComfyUI only \
repeats the saving."""

KEEP = """## Compare

The slider compares the enlarged photo with the result to keep."""

MASK = """1. **Load Image**: your photo; right-click > *Open in Mask Editor* and paint the part \
to restore.
2. Run.

Without a painted mask nothing is restored."""

COMPOSITE = """## Why composite at the end

The decoder changes even distant pixels slightly. Image Composite Masked keeps every pixel outside \
the mask unchanged."""

UPSCALE = """An upscale model enlarges, then HYPIR restores at that size. Good for small images \
with clean edges. For noisy ones, Upscale Image By is often better, because an upscale model \
sharpens the noise too."""

INPAINT = """1. Paint a mask in Load Image (right-click > *Open in Mask Editor*).
2. HYPIR restores the whole photo.
3. The base model, without HYPIR, repaints the masked part from the prompt.

Restoring first gives the inpainting clean surroundings. You can use any inpainting checkpoint \
instead of the base model."""

OLD = """1. **Load Image**: the scan. Paint over the scratches in the mask editor (right-click), a \
little wider than they are.
2. Describe the photo in the prompt.
3. **A photo with good colours**: any photo; or set strength to 0 to keep the faded colours."""

OLD_STEPS = """## Why shrink first

A scan has more pixels than the photo has detail; the extra pixels contain grain and dust. Half \
size removes them, and HYPIR restores the detail. Use 1 for a small scan."""

OLD_COLOUR = """## Colour last

*adain* matches mean and contrast, so faded colours recover evenly. *wavelet* in HYPIR Decode \
would restore the fading too."""

VIDEO = """1. **Load Video**: your video; the name shown is only an example.
2. **HYPIR Restore Video**: scale 2 doubles width and height.
3. Run. The whole video is restored, a few frames at a time; sound and timing stay.

Try a part first: put ComfyUI's Trim Video (in older versions Video Slice) behind Load Video. If \
you press Cancel, the finished part is saved in `output/video`."""

FRAMES = """## What it cannot do

Each frame is restored by itself. Still parts stay still, but where the picture moves, invented \
texture flickers. Noise 0 and a lower strength in Load HYPIR LoRA reduce it.

Memory: `frames` images of the result's size at a time, whatever the length."""

FEATHER = """## Grow and feather

The painted mask is grown by 16 px, so that its edge lies outside the damage, and blurred, so that \
no edge is seen. Set *expand* to 0 to restore exactly what you painted."""

FAITHFUL = """For letters, faces and documents, where shapes must stay as they are.

1. **Load Image**: your photo.
2. **Upscale Image By**: how much larger the result will be.
3. Run. **fidelity** in HYPIR Decode says how much of the photo's own detail is kept."""

FIDELITY = """## fidelity

0 is the restored picture. At 1, wherever the photo has as much detail as the result, the photo's \
own is used; where it is blurred, the restored detail stays. Blur and noise of the photo do not \
return.

Still too much invention? Lower *strength* in Load HYPIR LoRA to 0.8."""

FOUR_FILES = TWO_FILES.replace("Two files", "Four files").replace(
    "\n\nPut the files",
    "\n- `models/vae_approx`: [taesd_encoder.safetensors]"
    "(https://huggingface.co/madebyollin/taesd/resolve/main/taesd_encoder.safetensors) and "
    "[taesd_decoder.safetensors]"
    "(https://huggingface.co/madebyollin/taesd/resolve/main/taesd_decoder.safetensors); Load VAE "
    "offers both as `taesd`, and ComfyUI's list of missing files does not know them"
    "\n\nPut the files",
)

FAST = """The same restoration with a small decoder, TAESD. Decoding is most of the work, so the \
whole takes half of the computation, and less memory."""

SMALL_DECODER = """## What it costs

Fine detail and flat colours are a little less exact; the colours of the photo are put back by \
*wavelet*. Encode with the VAE of the checkpoint: a TAESD encoder loses what is to be restored.

The decoder must be that of the same latents: `taesd` for SD 1 and 2, `taesdxl` for SDXL, `taesd3` \
for SD3, `taef1` for Flux and Z-Image."""

WINDOW = """See a part of the result before you wait for the whole.

1. **The window to try**: x and y of its upper left corner in the enlarged photo, 512x512 px.
2. Run, look, change the settings, run again.
3. Turn **Only the window?** off and run: the whole photo is restored with the same settings."""

WHOLE = """## The plan

HYPIR Plan shows what the whole photo takes: tiles, computation, memory. The window is one tile; \
its time multiplied by the number of tiles is a first guess.

The whole photo can look a little different from the window: each tile sees other surroundings."""

CAPTION = """ComfyUI's Generate Text describes the photo, and the description becomes the prompt. \
(Qwen3-VL needs a newer ComfyUI than the rest of this pack: 0.30 supports it.)

The caption is generated once per photo and reused while the photo stays the same. If memory is \
short, ComfyUI unloads the captioning model before the restoration."""

ASK = (
    "Describe this photo in one plain sentence: what is in it, and of what materials. Do not "
    "mention its quality, blur or noise."
)

OTHER_PRIOR = """The same graph with another base model: only the files differ.

**No HYPIR weights for it have been published.** If you trained your own (see \
https://github.com/hypir-nodes/hypir-nodes/blob/main/docs/training.md), put them into \
`models/loras` and select them in Load HYPIR LoRA. Weights of another base model are refused with \
an error that names both."""

SDXL_FILES = """## Two files

- `models/checkpoints`: `sd_xl_base_1.0.safetensors`
- `models/loras`: your HYPIR weights for SDXL"""

SD3_FILES = """## Two files

- `models/checkpoints`: `sd3.5_large_fp8_scaled.safetensors`, with its text encoders and VAE
- `models/loras`: your HYPIR weights for SD3"""

FLUX_FILES = """## Two files

- `models/checkpoints`: `flux1-dev-fp8.safetensors`, with its text encoders and VAE
- `models/loras`: your HYPIR weights for Flux"""

Z_IMAGE_FILES = """## Four files

- `models/diffusion_models`: `z_image_bf16.safetensors` (Z-Image-Turbo's file works as well)
- `models/text_encoders`: `qwen_3_4b.safetensors`
- `models/vae`: `ae.safetensors`, the VAE of Flux
- `models/loras`: your HYPIR weights for Z-Image"""
