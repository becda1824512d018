"""Tiny models with a UNet: Stable Diffusion 1.5, 2.1, XL, its refiner, and those distilled from them."""

from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FluxControlNetModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.support.tiny_models.parts import (
    NOISE,
    NORM_GROUPS,
    SEED,
    TEXT_WIDTH,
    TEXT_WIDTH_LARGE,
    build_tokenizer,
    build_vae,
    clip_config,
)

TIME_EMBEDDING_WIDTH = 8
XL_TIME_IDS = 6  # original size, crop corner and target size, two numbers each
REFINER_TIME_IDS = 5  # original size, crop corner, aesthetic score
GUIDANCE_EMBEDDING_WIDTH = 16  # 256 in the real one
CONDITION_CHANNELS = (8, 8, 16, 16)

PNDM_FIELDS: dict[str, Any] = {
    "steps_offset": 1,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "trained_betas": None,
}
XL_FIELDS: dict[str, Any] = {
    **PNDM_FIELDS,
    "timestep_spacing": "leading",
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "use_karras_sigmas": False,
}


def _schedule(kind: Any, fields: dict[str, Any], *, bare: bool) -> Any:
    """As ``from_pretrained`` makes it of a repository's file: fields of other kinds are kept in its configuration."""
    return kind.from_config({**NOISE, **({} if bare else fields)})


def _build_unet(**changes: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (16, 32, 32, 32),
            "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            "layers_per_block": 2,
            "attention_head_dim": 4,
            "norm_num_groups": NORM_GROUPS,
            "cross_attention_dim": TEXT_WIDTH,
            **changes,
        }
    )


def _build_sd(kind: Any, unet: UNet2DConditionModel, scheduler: Any, activation: str = "quick_gelu") -> Any:
    tokenizer = build_tokenizer(pad_token="<|endoftext|>" if activation == "quick_gelu" else "!")
    return kind(
        vae=build_vae(0.18215),
        text_encoder=CLIPTextModel(clip_config(tokenizer, TEXT_WIDTH, activation)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_sd15(*, bare: bool = False) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5: four down blocks, one text encoder, PNDM. Draws 64 by 64 pixels."""
    torch.manual_seed(SEED)
    return _build_sd(StableDiffusionPipeline, _build_unet(), _schedule(PNDMScheduler, PNDM_FIELDS, bare=bare))


def build_sd2(*, bare: bool = False) -> StableDiffusionPipeline:
    """Stable Diffusion 2.1: predicts velocity, OpenCLIP's text encoder, linear projections, DDIM. 96 by 96 pixels."""
    torch.manual_seed(SEED + 2)
    unet = _build_unet(sample_size=12, attention_head_dim=(2, 4, 4, 4), use_linear_projection=True)
    velocity = {"prediction_type": "v_prediction"}  # what no repository leaves out, as nothing would come out right
    fields = {**PNDM_FIELDS, **velocity}
    return _build_sd(
        StableDiffusionPipeline, unet, _schedule(DDIMScheduler, fields if not bare else velocity, bare=False), "gelu"
    )


def build_sd_turbo() -> StableDiffusionPipeline:
    """SD-Turbo: the UNet and text encoder of 2.1, distilled to 1 to 4 steps; Euler with trailing timesteps."""
    torch.manual_seed(SEED + 3)
    unet = _build_unet(attention_head_dim=(2, 4, 4, 4), use_linear_projection=True)
    fields = {**XL_FIELDS, "timestep_spacing": "trailing"}
    return _build_sd(StableDiffusionPipeline, unet, _schedule(EulerDiscreteScheduler, fields, bare=False), "gelu")


def build_lcm(*, bare: bool = False) -> LatentConsistencyModelPipeline:
    """A latent consistency model, such as Dreamshaper's: the UNet of 1.5, told the guidance scale as an embedding."""
    torch.manual_seed(SEED + 4)
    unet = _build_unet(time_cond_proj_dim=GUIDANCE_EMBEDDING_WIDTH)
    fields = {
        "steps_offset": 1,
        "set_alpha_to_one": True,
        "clip_sample": False,
        "prediction_type": "epsilon",
        "original_inference_steps": 50,
        "rescale_betas_zero_snr": False,
        "thresholding": False,
        "timestep_spacing": "leading",
    }
    return _build_sd(LatentConsistencyModelPipeline, unet, _schedule(LCMScheduler, fields, bare=bare))


def _build_xl_unet(**changes: Any) -> UNet2DConditionModel:
    return _build_unet(
        **{
            "sample_size": 16,
            "block_out_channels": (16, 32, 64),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 2),  # 1, 2, 10 in the real one
            "attention_head_dim": (2, 4, 8),
            "use_linear_projection": True,
            "cross_attention_dim": TEXT_WIDTH + TEXT_WIDTH_LARGE,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_EMBEDDING_WIDTH,
            "projection_class_embeddings_input_dim": TEXT_WIDTH_LARGE + XL_TIME_IDS * TIME_EMBEDDING_WIDTH,
            **changes,
        }
    )


def _build_xl(unet: UNet2DConditionModel, scheduler: Any) -> StableDiffusionXLPipeline:
    tokenizer, tokenizer_2 = build_tokenizer(), build_tokenizer(pad_token="!")  # the two differ so in the real one
    return StableDiffusionXLPipeline(
        vae=build_vae(0.13025),
        text_encoder=CLIPTextModel(clip_config(tokenizer, TEXT_WIDTH, "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(tokenizer_2, TEXT_WIDTH_LARGE, "gelu")),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def build_sdxl(*, bare: bool = False) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL: three down blocks, two text encoders, size conditioning, Euler. Draws 128 by 128 pixels."""
    torch.manual_seed(SEED + 1)
    return _build_xl(_build_xl_unet(), _schedule(EulerDiscreteScheduler, XL_FIELDS, bare=bare))


def build_sdxl_turbo() -> StableDiffusionXLPipeline:
    """SDXL-Turbo: half the side of XL, Euler ancestral with trailing timesteps. Draws 64 by 64 pixels."""
    torch.manual_seed(SEED + 5)
    fields = {**XL_FIELDS, "timestep_spacing": "trailing"}
    scheduler = _schedule(EulerAncestralDiscreteScheduler, fields, bare=False)
    return _build_xl(_build_xl_unet(sample_size=8), scheduler)


def build_sdxl_refiner(*, bare: bool = False) -> StableDiffusionXLImg2ImgPipeline:
    """XL's refiner: the larger text encoder alone, aesthetic score, attention in the middle blocks; image to image."""
    torch.manual_seed(SEED + 6)
    tokenizer = build_tokenizer(pad_token="!")
    unet = _build_xl_unet(
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        attention_head_dim=(2, 4, 4, 4),
        cross_attention_dim=TEXT_WIDTH_LARGE,
        projection_class_embeddings_input_dim=TEXT_WIDTH_LARGE + REFINER_TIME_IDS * TIME_EMBEDDING_WIDTH,
    )
    return StableDiffusionXLImg2ImgPipeline(
        vae=build_vae(0.13025),
        text_encoder=None,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(tokenizer, TEXT_WIDTH_LARGE, "gelu")),
        tokenizer=None,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=_schedule(EulerDiscreteScheduler, XL_FIELDS, bare=bare),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def build_controlnet(denoiser: Any) -> Any:
    """For a UNet, or for the transformer of Stable Diffusion 3 or Flux.

    With weights at random where a fresh one has zeros: it has an effect.
    """
    if isinstance(denoiser, UNet2DConditionModel):
        controlnet: Any = ControlNetModel.from_unet(denoiser, conditioning_channels=3)
    elif isinstance(denoiser, SD3Transformer2DModel):
        controlnet = SD3ControlNetModel.from_transformer(denoiser, num_layers=2, num_extra_conditioning_channels=0)
    else:
        heads = {name: denoiser.config[name] for name in ("attention_head_dim", "num_attention_heads")}
        controlnet = FluxControlNetModel.from_transformer(
            denoiser, num_layers=1, num_single_layers=1, load_weights_from_transformer=False, **heads
        )
    return _fill(controlnet)


def build_union_controlnet(denoiser: Any, kinds: int = 8) -> Any:
    """Of one network for several kinds of control images: for Stable Diffusion XL's UNet, or for Flux's transformer."""
    if isinstance(denoiser, UNet2DConditionModel):
        config = ControlNetModel.from_unet(denoiser, conditioning_channels=3).config
        width = config["block_out_channels"][0]
        own = {"num_control_type": kinds, "num_trans_channel": width, "num_trans_head": 2, "num_proj_channel": width}
        return _fill(ControlNetUnionModel.from_config({**config, "_class_name": "ControlNetUnionModel", **own}))
    config = {key: value for key, value in build_controlnet(denoiser).config.items() if not key.startswith("_")}
    union: Any = _fill(FluxControlNetModel.from_config({**config, "num_mode": kinds}))
    with torch.no_grad():
        union.controlnet_mode_embedder.weight.mul_(50)  # of so small a network one token else changes no byte
    return union


def _fill(controlnet: Any) -> Any:
    """Weights at random where there are zeros."""
    for parameter in controlnet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return controlnet


def build_sd15_controlnet() -> StableDiffusionControlNetPipeline:
    """Stable Diffusion 1.5 with a ControlNet."""
    parts: dict[str, Any] = build_sd15().components  # type: ignore[attr-defined]  # diffusers' types don't know
    torch.manual_seed(SEED + 7)
    controlnet = build_controlnet(parts["unet"])
    return StableDiffusionControlNetPipeline(**parts, controlnet=controlnet, requires_safety_checker=False)


def build_sdxl_controlnet() -> StableDiffusionXLControlNetPipeline:
    """Stable Diffusion XL with a ControlNet."""
    parts: dict[str, Any] = build_sdxl().components  # type: ignore[attr-defined]  # diffusers' types don't know
    torch.manual_seed(SEED + 8)
    return StableDiffusionXLControlNetPipeline(
        **parts, controlnet=build_controlnet(parts["unet"]), add_watermarker=False
    )
