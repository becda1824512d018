"""Models for measurements on a CPU: the published architectures, narrower, with random weights from a fixed seed.

Wide enough that a step's time is that of its arithmetic and its weights, as on a GPU, not that of Python around it: so
batching saves what it saves there for the same reason, weights that are read once for all rows. Figures are those of
shapes; what the images show makes no difference to them.
"""
# mypy: disallow-untyped-calls=False
# diffusers' and transformers' classes have no types.

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from easel_contract.server_config import ModelConfig
from easel_server.generation.parameters import GenerationParameters
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.support.tiny_models import build_sd15 as build_tiny_sd15
from tests.support.tiny_models.parts import NOISE, PROMPT_TOKENS, build_tokenizer

SEED: Final = 10
GUIDANCE_SCALE: Final = 7.5
SAMPLER: Final = "Euler"
PROMPT: Final = "a lighthouse at dawn, oil on canvas"
XL_TIME_IDS: Final = 6
TIME_EMBEDDING_WIDTH: Final = 32


@dataclass(frozen=True)
class BenchModel:
    """A model by name, with the size of image that it is measured at."""

    name: str
    build: Callable[[], Any]
    side_pixels: int

    def parameters(self, *, seed: int, steps: int, **changes: Any) -> GenerationParameters:
        """A job for it."""
        values = {
            "prompt": PROMPT,
            "width_pixels": self.side_pixels,
            "height_pixels": self.side_pixels,
            "guidance_scale": GUIDANCE_SCALE,
            "sampler": SAMPLER,
        }
        return GenerationParameters.model_validate({**values, "seed": seed, "steps": steps, **changes})


def _text_config(width: int, layers: int) -> CLIPTextConfig:
    tokenizer = build_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        max_position_embeddings=PROMPT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _build_vae(scaling_factor: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        scaling_factor=scaling_factor,
    )


def _build_sd15(widths: tuple[int, int, int, int]) -> StableDiffusionPipeline:
    torch.manual_seed(SEED)
    text_width = widths[-1]
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=widths,
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=text_width,
    )
    return StableDiffusionPipeline(
        vae=_build_vae(0.18215),
        text_encoder=CLIPTextModel(_text_config(text_width, 6)),
        tokenizer=build_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**NOISE, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _build_sdxl() -> StableDiffusionXLPipeline:
    torch.manual_seed(SEED + 1)
    tokenizer_2 = build_tokenizer(pad_token="!")  # noqa: S106  # no password
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128, 256),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 4),
        attention_head_dim=(2, 4, 8),
        use_linear_projection=True,
        cross_attention_dim=128 + 256,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_EMBEDDING_WIDTH,
        projection_class_embeddings_input_dim=256 + XL_TIME_IDS * TIME_EMBEDDING_WIDTH,
    )
    return StableDiffusionXLPipeline(
        vae=_build_vae(0.13025),
        text_encoder=CLIPTextModel(_text_config(128, 4)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(256, 6)),
        tokenizer=build_tokenizer(),
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**NOISE, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )


# At 64 pixels a step reads more weights than it has work for, as on a GPU: that is where batching pays. At 128 pixels
# the processor is busy with one job already.
SD15: Final = BenchModel("sd15, a fifth of the width, 64x64", lambda: _build_sd15((64, 128, 256, 256)), 64)
SD15_NARROW: Final = BenchModel("sd15, a tenth of the width, 64x64", lambda: _build_sd15((32, 64, 128, 128)), 64)
SDXL: Final = BenchModel("sdxl, a fifth of the width, 128x128", _build_sdxl, 128)

# What a process keeps doesn't depend on widths.
TINY: Final = BenchModel("sd15, tiny, 64x64 to 128x128", build_tiny_sd15, 64)


@contextmanager
def written(model: BenchModel) -> Iterator[Path]:
    """A directory with the model in diffusers' layout, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="easel-bench-") as directory:
        model.build().save_pretrained(directory, safe_serialization=True)
        yield Path(directory)


def build_model_config(directory: Path) -> ModelConfig:
    """As a worker is configured for it."""
    return ModelConfig(name="bench", source=str(directory))
