"""Whole base models in diffusers layout: real classes, small, random."""

from __future__ import annotations

import json

import pytest

from hypir.train.models import small_base


@pytest.fixture
def sd2_folder(tmp_path):
    """A whole Stable Diffusion in diffusers layout: real classes, small, random."""
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    # the alphabet, its ends of words, and the marks of begin and end
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {t: i for i, t in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    tokenizer.model_max_length = 77
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=1024,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=16,
            bos_token_id=52,
            eos_token_id=53,
            pad_token_id=53,
        )
    )
    base = small_base("sd2")
    pipeline = StableDiffusionPipeline(
        vae=base.vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=base.network,
        scheduler=DDPMScheduler(beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(tmp_path / "sd2")
    return tmp_path / "sd2"


@pytest.fixture
def z_image_folder(tmp_path):
    """A whole Z-Image in diffusers layout: real classes, small, random; bytes are its words."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {t: i for i, t in enumerate([*sorted(ByteLevel.alphabet()), *marks])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = Qwen2Tokenizer(
        str(tmp_path / "vocab.json"),
        str(tmp_path / "merges.txt"),
        additional_special_tokens=marks[1:],
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}"
    )
    text = Qwen3Model(
        Qwen3Config(
            vocab_size=len(vocabulary),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=32,
        )
    )
    base = small_base("z_image")
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=base.vae,
        text_encoder=text,
        tokenizer=tokenizer,
        transformer=base.network,
    )
    pipeline.save_pretrained(tmp_path / "z_image")
    return tmp_path / "z_image"
