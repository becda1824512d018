"""Tiny models with a transformer: Stable Diffusion 3 and 3.5, Flux (dev and schnell), PixArt (alpha and sigma)."""

from typing import Any

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.support.tiny_models.parts import (
    SEED,
    TEXT_WIDTH,
    TEXT_WIDTH_LARGE,
    build_t5_encoder,
    build_t5_tokenizer,
    build_tokenizer,
    build_vae,
    clip_config,
)

T5_WIDTH = TEXT_WIDTH + TEXT_WIDTH_LARGE  # in Stable Diffusion 3, CLIP's widths fill T5's
HEADS = 4
PIXART_LATENT_SIDE = 32  # the smallest for which diffusers knows sizes


def build_sd3(*, bare: bool = False) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3.5: two CLIP encoders and a T5, normed queries, double attention. Draws 64 by 64 pixels."""
    torch.manual_seed(SEED + 20)
    tokenizer, tokenizer_2, tokenizer_3 = build_tokenizer(), build_tokenizer(pad_token="!"), build_t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=HEADS,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=8 * HEADS,
        pooled_projection_dim=TEXT_WIDTH + TEXT_WIDTH_LARGE,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**({} if bare else {"shift": 3.0})),
        vae=build_vae(1.5305, latent_channels=16, shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(clip_config(tokenizer, TEXT_WIDTH, "quick_gelu")),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(tokenizer_2, TEXT_WIDTH_LARGE, "gelu")),
        tokenizer_2=tokenizer_2,
        text_encoder_3=build_t5_encoder(tokenizer_3, T5_WIDTH),
        tokenizer_3=tokenizer_3,
    )


def _build_flux(seed: int, *, guidance_embeds: bool, shift: dict[str, Any]) -> FluxPipeline:
    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = build_tokenizer(), build_t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,  # two by two latents of 16 channels
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH_LARGE,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**shift),
        vae=build_vae(0.3611, latent_channels=16, shift_factor=0.1159),
        text_encoder=CLIPTextModel(clip_config(tokenizer, TEXT_WIDTH, "quick_gelu")),
        tokenizer=tokenizer,
        text_encoder_2=build_t5_encoder(tokenizer_2, TEXT_WIDTH_LARGE),
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )


def build_flux(*, bare: bool = False) -> FluxPipeline:
    """Flux dev: a CLIP encoder and a T5, latents as tokens, the guidance scale as an embedding, shifted timesteps."""
    sizes = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
    shift = {"shift": 3.0, "use_dynamic_shifting": True, **sizes}
    return _build_flux(SEED + 21, guidance_embeds=True, shift={} if bare else shift)


def build_flux_schnell() -> FluxPipeline:
    """Flux schnell: distilled to 1 to 4 steps, without guidance."""
    return _build_flux(SEED + 22, guidance_embeds=False, shift={"shift": 1.0, "use_dynamic_shifting": False})


def _build_pixart(kind: Any, seed: int, scaling_factor: float, *, bare: bool, tokens: int) -> Any:
    torch.manual_seed(seed)
    tokenizer = build_t5_tokenizer(max_tokens=tokens)
    transformer = PixArtTransformer2DModel(
        sample_size=PIXART_LATENT_SIDE,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=HEADS,
        cross_attention_dim=8 * HEADS,
        caption_channels=TEXT_WIDTH,
        in_channels=4,
        out_channels=8,  # with the variance, which the pipelines drop
        use_additional_conditions=False,
    )
    fields = {} if bare else {"solver_order": 2, "algorithm_type": "dpmsolver++", "prediction_type": "epsilon"}
    return kind(
        tokenizer=tokenizer,
        text_encoder=build_t5_encoder(tokenizer, TEXT_WIDTH),
        vae=build_vae(scaling_factor),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.0001, beta_end=0.02, beta_schedule="linear", num_train_timesteps=1000, **fields
        ),
    )


def build_pixart_alpha(*, bare: bool = False) -> PixArtAlphaPipeline:
    """PixArt alpha: a T5 alone, cross attention. Draws 256 by 256 pixels, and other sizes by way of those it knows."""
    pipeline: PixArtAlphaPipeline = _build_pixart(PixArtAlphaPipeline, SEED + 23, 0.18215, bare=bare, tokens=120)
    return pipeline


def build_pixart_sigma(*, bare: bool = False) -> PixArtSigmaPipeline:
    """PixArt sigma: as alpha, with XL's autoencoder and longer prompts."""
    pipeline: PixArtSigmaPipeline = _build_pixart(PixArtSigmaPipeline, SEED + 24, 0.13025, bare=bare, tokens=300)
    return pipeline
