"""Real Stable Diffusion pipelines, a few megabytes each, with random weights from a fixed seed.

The classes, the blocks and their order are those of the published models; only widths, depths of the text encoders and
the vocabulary are small. So everything that a real checkpoint goes through (download layout, loading, dtype, device,
denoising, decoding) is gone through, in milliseconds a step on a CPU. The images are noise.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SEED = 20240229
TEXT_WIDTH = 32
TEXT_WIDTH_LARGE = 64
TIME_EMBEDDING_WIDTH = 8
NORM_GROUPS = 8  # 32 in the real ones, which the small widths don't divide by
XL_TIME_IDS = 6  # original size, crop corner and target size, two numbers each
PROMPT_TOKENS = 77
START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"

# The noise schedule of all Stable Diffusion models up to XL.
NOISE_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}


def _byte_characters() -> list[str]:
    # Byte-level BPE spells each byte as one printable character; the table is GPT-2's, which CLIP shares.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(hidden))]


def build_tokenizer(*, pad_token: str = END_TOKEN) -> CLIPTokenizer:
    """A CLIP tokenizer whose tokens are single bytes, inside a word and at its end: the first 512 entries of CLIP's."""
    characters = _byte_characters()
    # The end token is the last id: CLIP's text model finds the end of a prompt by the largest one.
    tokens = [*characters, *(f"{character}</w>" for character in characters), START_TOKEN, END_TOKEN]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token=pad_token, model_max_length=PROMPT_TOKENS)


def _text_config(tokenizer: CLIPTokenizer, width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_TOKENS,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _build_vae(scaling_factor: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=NORM_GROUPS,
        sample_size=64,
        scaling_factor=scaling_factor,
    )


def build_sd15() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5: four down blocks, one text encoder, PNDM. Draws 64 by 64 pixels."""
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        attention_head_dim=4,
        norm_num_groups=NORM_GROUPS,
        cross_attention_dim=TEXT_WIDTH,
    )
    return StableDiffusionPipeline(
        vae=_build_vae(0.18215),
        text_encoder=CLIPTextModel(_text_config(tokenizer, TEXT_WIDTH, "quick_gelu")),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(**NOISE_SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_sdxl() -> StableDiffusionXLPipeline:
    """Stable Diffusion XL: three down blocks, two text encoders, size conditioning, Euler. Draws 128 by 128 pixels."""
    torch.manual_seed(SEED + 1)
    tokenizer, tokenizer_2 = build_tokenizer(), build_tokenizer(pad_token="!")  # the two differ so in the real one
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 2),  # 1, 2, 10 in the real one
        attention_head_dim=(2, 4, 8),
        norm_num_groups=NORM_GROUPS,
        use_linear_projection=True,
        cross_attention_dim=TEXT_WIDTH + TEXT_WIDTH_LARGE,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_EMBEDDING_WIDTH,
        projection_class_embeddings_input_dim=TEXT_WIDTH_LARGE + XL_TIME_IDS * TIME_EMBEDDING_WIDTH,
    )
    return StableDiffusionXLPipeline(
        vae=_build_vae(0.13025),
        text_encoder=CLIPTextModel(_text_config(tokenizer, TEXT_WIDTH, "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer_2, TEXT_WIDTH_LARGE, "gelu")),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**NOISE_SCHEDULE, timestep_spacing="leading"),
        add_watermarker=False,
    )


def write_tiny_models(directory: Path) -> None:
    """Write ``sd15/`` and ``sdxl/`` below the directory, in diffusers' own layout with safetensors weights."""
    pipelines: dict[str, Any] = {"sd15": build_sd15(), "sdxl": build_sdxl()}
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(directory / name, safe_serialization=True)
