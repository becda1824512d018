"""The published models at their real dimensions, with random weights made on the device.

Speed and memory follow from shapes and number formats, not from what the weights are, so nothing is downloaded. All
parts are there at full size, text encoders (T5-XXL among them) too; only the tokenizers are small, and prompts are
padded to their full length anyway. Dimensions are those of the configuration files beside the published weights.
"""
# mypy: disallow-untyped-calls=False
# diffusers' and transformers' classes have no types.

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests.support.tiny_models import BUILDERS
from tests.support.tiny_models.parts import NOISE, build_t5_tokenizer, build_tokenizer

CLIP_VOCABULARY: Final = 49408
T5_VOCABULARY: Final = 32128


@dataclass(frozen=True)
class GpuModel:
    """A model, and what is measured of it."""

    name: str
    build: Callable[[], Any]
    side_pixels: int
    guidance_scale: float
    steps: int = 20
    images_at_once: tuple[int, ...] = (1, 2, 4, 8)
    adapters: tuple[int, ...] = (1, 10, 100)  # in rotation


def _clip(width: int, layers: int, heads: int, activation: str, projection: int) -> CLIPTextConfig:
    tokenizer = build_tokenizer()
    return CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,  # of the small tokenizer, which is what prompts end with
        pad_token_id=tokenizer.pad_token_id,
    )


def _clip_large(*, projection: int = 768) -> CLIPTextConfig:
    """Of CLIP ViT-L/14, the first text encoder of all of them."""
    return _clip(768, 12, 12, "quick_gelu", projection)


def _clip_huge() -> CLIPTextConfig:
    """Of OpenCLIP ViT-bigG/14, the second one."""
    return _clip(1280, 32, 20, "gelu", 1280)


def _t5_xxl() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=T5_VOCABULARY,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=24,
            num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    )


def _vae(scaling_factor: float, *, latent_channels: int = 4, shift_factor: float | None = None) -> AutoencoderKL:
    has_quant = latent_channels == 4
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=latent_channels,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=has_quant,
        use_post_quant_conv=has_quant,
    )


def _schedule(kind: Any, **fields: Any) -> Any:
    """Schedulers keep their tables on the host."""
    with torch.device("cpu"):
        return kind(**fields)


def _build_sd15() -> StableDiffusionPipeline:
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8, cross_attention_dim=768
    )
    return StableDiffusionPipeline(
        vae=_vae(0.18215),
        text_encoder=CLIPTextModel(_clip_large()),
        tokenizer=build_tokenizer(),
        unet=unet,
        scheduler=_schedule(EulerDiscreteScheduler, **NOISE, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _build_sdxl() -> StableDiffusionXLPipeline:
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(0.13025),
        text_encoder=CLIPTextModel(_clip_large()),
        text_encoder_2=CLIPTextModelWithProjection(_clip_huge()),
        tokenizer=build_tokenizer(),
        tokenizer_2=build_tokenizer(pad_token="!"),  # noqa: S106  # no password
        unet=unet,
        scheduler=_schedule(EulerDiscreteScheduler, **NOISE, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )


def _build_sd35_medium() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=_schedule(FlowMatchEulerDiscreteScheduler, shift=3.0),
        vae=_vae(1.5305, latent_channels=16, shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(_clip_large()),
        tokenizer=build_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(_clip_huge()),
        tokenizer_2=build_tokenizer(pad_token="!"),  # noqa: S106  # no password
        text_encoder_3=_t5_xxl(),
        tokenizer_3=build_t5_tokenizer(),
    )


def _build_flux_dev() -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=_schedule(
            FlowMatchEulerDiscreteScheduler,
            shift=3.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
        ),
        vae=_vae(0.3611, latent_channels=16, shift_factor=0.1159),
        text_encoder=CLIPTextModel(_clip_large()),
        tokenizer=build_tokenizer(),
        text_encoder_2=_t5_xxl(),
        tokenizer_2=build_t5_tokenizer(),
    )


MODELS: Final[Mapping[str, GpuModel]] = {
    "sd15": GpuModel("Stable Diffusion 1.5, 512x512", _build_sd15, 512, 7.5),
    "sdxl": GpuModel("Stable Diffusion XL, 1024x1024", _build_sdxl, 1024, 7.5),
    "sd35-medium": GpuModel("Stable Diffusion 3.5 medium, 1024x1024", _build_sd35_medium, 1024, 4.5),
    "flux-dev": GpuModel(
        "Flux.1 dev, 1024x1024", _build_flux_dev, 1024, 3.5, images_at_once=(1, 2, 4), adapters=(1, 10)
    ),
}
# The same families in a few megabytes, so that all of this runs on any machine.
TINY: Final[Mapping[str, GpuModel]] = {
    "sd15": GpuModel("tiny Stable Diffusion 1.5", BUILDERS["sd15"], 64, 7.5, 4, (1, 2), (1, 2)),
    "sdxl": GpuModel("tiny Stable Diffusion XL", BUILDERS["sdxl"], 64, 7.5, 4, (1, 2), (1, 2)),
    "sd35-medium": GpuModel("tiny Stable Diffusion 3", BUILDERS["sd3"], 64, 4.5, 4, (1, 2), (1, 2)),
    "flux-dev": GpuModel("tiny Flux", BUILDERS["flux"], 64, 3.5, 4, (1, 2), (1, 2)),
}


def build_on(model: GpuModel, device: torch.device, dtype: torch.dtype) -> Any:
    """The pipeline, made where it will be and in its number format: no copy on the host, whose memory may be small."""
    torch.manual_seed(0)
    with _default_dtype(dtype), device:
        pipeline = model.build()
    pipeline.to(device, dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
