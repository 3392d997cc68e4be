"""What the notes on the canvas of the templates say."""

START = """## Start here: press Run

This graph needs no download: its four files come with the pack. They are a **small model**, \
trained on a CPU from made-up pictures only, to show how everything works. It removes noise, \
blocks and blur, and draws edges; it does not know what a face is.

1. **Load Image**: choose your photo, a small or bad one.
2. **Upscale Image By**: how much larger the result is; 4 for a small picture.
3. **Run.** The result is in Save Image. *Before and after* at the right is a slider \
over both, with Nodes 2.0 (in the settings)."""

START_NEXT = """## Then

- For real weights open the template *restore_photo*; it says which files it needs and where from.
- All knobs: *restore_all_controls*.
- The small model takes no prompt: it has no text encoder."""

TWO_FILES = """## Two files

- `models/checkpoints`: `v2-1_512-ema-pruned.safetensors`, Stable Diffusion 2.1 **base** \
(the 512 px one; not the 768 px v-prediction one)
- `models/loras`: `HYPIR_sd2.pth` from the authors of HYPIR; its licence is non-commercial

Press R when they are there, and choose them in Load Checkpoint and Load HYPIR LoRA."""

THREE_FILES = TWO_FILES.replace("Two files", "Three files").replace(
    "\n\nPress R",
    "\n- `models/upscale_models`: any upscale model, here "
    "`RealESRGAN_x4plus.safetensors`\n\nPress R",
)

CAPTION_FILES = TWO_FILES.replace("Two files", "Three files").replace(
    "\n\nPress R",
    "\n- `models/text_encoders`: a model that reads pictures, here "
    "`qwen3vl_4b_fp8_scaled.safetensors`\n\nPress R",
)

RESTORE = """1. **Load Image**: your photo.
2. **Upscale Image By**: how much larger the result is. 1 restores at the same size.
3. Run. The result has exactly the size of the enlarged photo, odd sizes too.

Any of the host's enlarging nodes may stand there instead, for example Scale Image to Total \
Pixels or Upscale Image (using Model)."""

PROMPT = """## The prompt

May stay empty. A plain description of what the photo shows ("a brick house behind trees") helps \
where the photo does not say it. Words of quality do not."""

COLOUR = """## Colour

The enlarged photo goes in as *reference*: HYPIR Decode takes its colours back from it (wavelet: \
the large-scale colours; adain: mean and contrast only)."""

CONTROLS = """Every knob of the restoration in one graph, at settings that suit the public \
weights. Change one at a time.

*Advanced* inputs (tile sizes, timesteps) appear when you open them on the node. The timestep of \
the public weights is 200; lower is nearer to the photo, higher invents more."""

TEXTURE = """## Texture

*off* lets the weights decide. *set*, *match* and *map* need weights that were trained with \
texture; the public file was not, and the node says so. With any weights: HYPIR Match Texture, on \
the right."""

ENCODER = """## Encoder (bypassed)

Load HYPIR Encoder is switched off, because no encoder trained for SD2 is public. With one in \
`models/vae`: select the node and press Ctrl+B."""

NOISE = """## Noise

0 stays nearest to the photo. 0.1 to 0.3 frees the result from compression blocks and blur; the \
public weights stand little of it. Another seed gives another result."""

AFTER = """## Colour and texture, after the step

- **Match Color**: the colours of the enlarged photo.
- **Match Texture**: 0.5 is a typical richness at 1024 px, 0.3 to 0.4 at 2048 px and more; lower \
is smoother.
- **Measure Texture**: what was reached; the map shows where."""

VARIANTS = """Four results of one photo, from four different noises, with seeds seed, seed + 1, \
seed + 2, seed + 3.

1. Run and look at all four.
2. Put the number of the best (0 to 3) into **The one to keep** and run again: only the saving \
is done anew."""

KEEP = """## Compare

The slider shows the enlarged photo and the one to keep."""

MASK = """1. **Load Image**: your photo; right-click > *Open in Mask Editor* and paint the part \
that shall be restored.
2. Run.

Without a painted mask nothing is restored."""

COMPOSITE = """## Why it is put together again

A decoder moves even far pixels a little. Image Composite Masked keeps every pixel outside the \
mask as it was."""

UPSCALE = """An upscale model enlarges, HYPIR restores at that size. Good for small pictures with \
clean edges; for noisy ones plain enlarging (Upscale Image By) is often better, as an upscale \
model sharpens the noise too."""

INPAINT = """1. Paint a mask in Load Image (right-click > *Open in Mask Editor*).
2. HYPIR restores the whole photo.
3. The base model, without HYPIR, paints the masked part anew from the prompt.

Restoring first gives the painter a clean surrounding. Any inpainting checkpoint may take the \
place of the base model."""

OLD = """1. **Load Image**: the scan. Paint the scratches in the mask editor (right-click), a \
little wider than they are.
2. Say in the prompt what the photo shows.
3. **A photo with good colours**: any photo; or take strength 0 to keep the faded ones."""

OLD_STEPS = """## Why shrink first

A scan has more pixels than the photo has detail: grain and dust lie in the surplus. Half the \
size loses them; HYPIR brings the detail back. Use 1 for a small scan."""

OLD_COLOUR = """## Colour last

*adain* takes mean and contrast, so what faded comes back evenly. *wavelet* in HYPIR Decode would \
give the fading back to the result."""

VIDEO = """1. **Load Video**: your video; the name there is only an example.
2. **This slice**: start and duration in seconds. Memory holds the frames of one slice.
3. Run, raise the start by the duration, run again. Every slice is saved as a file of its own, \
with its sound.

HYPIR restores each frame by itself and knows nothing of the one before: fine texture may flicker. \
No noise and an empty or fixed prompt keep it calm."""

FRAMES = """## Memory

Frames x height x width x 12 bytes for each picture in the graph: 48 frames of 1920x1080 px are \
1.2 GB. Restoring itself asks for one call's tiles only."""

CAPTION = """The host's own Generate Text describes the photo, and the description is the prompt. \
(Qwen3-VL needs a newer ComfyUI than the rest of this pack: 0.30 knows it.)

It runs once per photo; the caption is kept while the photo is the same. To free its memory the \
host unloads the captioner before the restoration when it must."""

ASK = (
    "Describe this photo in one plain sentence: what is in it, and of what materials. Do not "
    "mention its quality, blur or noise."
)

OTHER_PRIOR = """The same graph on another base model: only the two files differ.

**No HYPIR weights for it have been published.** With weights of your own (made as \
https://github.com/hypir-nodes/hypir-nodes/blob/main/docs/training.md tells) put \
them into `models/loras` and choose them in Load HYPIR LoRA. Weights of another base model are \
refused with a sentence that names both."""

SDXL_FILES = """## Two files

- `models/checkpoints`: `sd_xl_base_1.0.safetensors`
- `models/loras`: your HYPIR weights for SDXL"""

SD3_FILES = """## Two files

- `models/checkpoints`: `sd3.5_large_fp8_scaled.safetensors`, with its text encoders and VAE
- `models/loras`: your HYPIR weights for SD3"""

FLUX_FILES = """## Two files

- `models/checkpoints`: `flux1-dev-fp8.safetensors`, with its text encoders and VAE
- `models/loras`: your HYPIR weights for Flux"""
