"""The public SD2 weight file: its adapted modules and their shapes.

The public HYPIR_sd2.pth contains a rank-256 LoRA of a diffusers UNet (SD 2.1) under peft's
parameter names. It adapts the modules whose names end in one of TARGETS: 257 modules, 514 tensors.
The names follow from the architecture, so the code generates them.

Shapes are those of the adapted weights: (out, in) of a linear layer, (out, in, k, k) of a
convolution.
"""

from collections.abc import Iterator

TARGETS = (
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
    "conv",
    "conv1",
    "conv2",
    "conv_shortcut",
    "conv_out",
    "proj_in",
    "proj_out",
    "ff.net.2",
    "ff.net.0.proj",
)
"""The module names of the public configuration [hypir SD2 weights, 2025]."""

CHANNELS = (320, 640, 1280, 1280)  # SD 2.1 UNet config, block_out_channels
LAYERS_PER_BLOCK = 2
CONTEXT_WIDTH = 1024
LATENT_CHANNELS = 4
PUBLIC_RANK = 256

Shape = tuple[int, ...]


def public_sd2_modules() -> dict[str, Shape]:
    """Module name -> weight shape of all 257 modules, in the order of the file."""
    return dict(_modules())


def _modules() -> Iterator[tuple[str, Shape]]:
    last = len(CHANNELS) - 1
    skips = [CHANNELS[0]]
    width = CHANNELS[0]
    for i, channels in enumerate(CHANNELS):
        if i < last:
            for j in range(LAYERS_PER_BLOCK):
                yield from _attention(f"down_blocks.{i}.attentions.{j}", channels)
        for j in range(LAYERS_PER_BLOCK):
            yield from _resnet(f"down_blocks.{i}.resnets.{j}", width, channels)
            width = channels
            skips.append(channels)
        if i < last:
            yield f"down_blocks.{i}.downsamplers.0.conv", (channels, channels, 3, 3)
            skips.append(channels)
    for i, channels in enumerate(reversed(CHANNELS)):
        if i > 0:
            for j in range(LAYERS_PER_BLOCK + 1):
                yield from _attention(f"up_blocks.{i}.attentions.{j}", channels)
        for j in range(LAYERS_PER_BLOCK + 1):
            yield from _resnet(f"up_blocks.{i}.resnets.{j}", width + skips.pop(), channels)
            width = channels
        if i < last:
            yield f"up_blocks.{i}.upsamplers.0.conv", (channels, channels, 3, 3)
    yield from _attention("mid_block.attentions.0", CHANNELS[-1])
    for j in range(2):
        yield from _resnet(f"mid_block.resnets.{j}", CHANNELS[-1], CHANNELS[-1])
    yield "conv_out", (LATENT_CHANNELS, CHANNELS[0], 3, 3)


def _attention(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    block = f"{name}.transformer_blocks.0"
    yield f"{name}.proj_in", (width, width)
    for attention, context in (("attn1", width), ("attn2", CONTEXT_WIDTH)):
        yield f"{block}.{attention}.to_q", (width, width)
        yield f"{block}.{attention}.to_k", (width, context)
        yield f"{block}.{attention}.to_v", (width, context)
        yield f"{block}.{attention}.to_out.0", (width, width)
    yield f"{block}.ff.net.0.proj", (8 * width, width)  # GEGLU: value and gate, 4 x width each
    yield f"{block}.ff.net.2", (width, 4 * width)
    yield f"{name}.proj_out", (width, width)


def _resnet(name: str, width_in: int, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.conv1", (width, width_in, 3, 3)
    yield f"{name}.conv2", (width, width, 3, 3)
    if width_in != width:
        yield f"{name}.conv_shortcut", (width, width_in, 1, 1)
