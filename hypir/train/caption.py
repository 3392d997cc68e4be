"""Captions for a folder of images, in .txt files next to them, by a vision-language model.

Any image-text-to-text model of transformers, by name; LLaVA by default, as in the paper. An image
that has a .txt is skipped, so an interrupted run continues where it stopped.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from .pictures import list_pictures, read_picture

log = logging.getLogger(__name__)

MODEL = "llava-hf/llava-1.5-7b-hf"
INSTRUCTION = (
    "Provide a detailed description of this image without exceeding 100 words and without line "
    "breaks."
)
"""The prompt of the released configuration."""
MAX_TOKENS = 160

Describe = Callable[[Image.Image], str]


def caption_folder(folder: Path, describe: Describe) -> tuple[int, int]:
    """Write the missing captions.

    Returns:
        The number of captions written, and of images that could not be read.
    """
    files = list_pictures(folder)
    if not files:
        raise ValueError(f"there is no picture in {str(folder)!r}")
    todo = [f for f in files if not f.with_suffix(".txt").is_file()]
    bad = 0
    for file in tqdm(todo, desc="caption", disable=None):
        try:
            picture = Image.fromarray(read_picture(file))
        except ValueError as error:
            log.warning("%s; left out", error)
            bad += 1
            continue
        text = " ".join(describe(picture).split())
        partial = file.with_suffix(".txt.partial")
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, file.with_suffix(".txt"))
    return len(todo) - bad, bad


def load_describer(model: str = MODEL, instruction: str = INSTRUCTION) -> Describe:
    """A function that describes an image, with a model from the hub or from a folder.

    Raises:
        ValueError: if the model cannot be loaded; says what to download.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        processor = AutoProcessor.from_pretrained(model)
        network = AutoModelForImageTextToText.from_pretrained(model, dtype="auto").to(device).eval()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the captioner {model!r} cannot be loaded ({str(error).strip().splitlines()[0]}); "
            "download an image-text-to-text model and pass its folder with --model"
        ) from error
    content = [{"type": "image"}, {"type": "text", "text": instruction}]
    chat = [{"role": "user", "content": content}]
    has_template = getattr(processor, "chat_template", None)
    prompt = (
        processor.apply_chat_template(chat, add_generation_prompt=True)
        if has_template
        else instruction
    )

    @torch.no_grad()
    def describe(picture: Image.Image) -> str:
        inputs = processor(images=picture, text=prompt, return_tensors="pt").to(device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(network.dtype)
        tokens = network.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        if has_template:  # a chat model repeats the prompt
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()

    return describe
