"""What tiny models consist of: tokenizers made in memory, text encoders, autoencoders, noise schedules."""

from typing import Any

from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

SEED = 20240229
TEXT_WIDTH = 32
TEXT_WIDTH_LARGE = 64
NORM_GROUPS = 8  # 32 in the real ones, which the small widths don't divide by
PROMPT_TOKENS = 77
START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
T5_RELATIVE_BUCKETS = 8  # 32 in the real ones

# The noise schedule of all Stable Diffusion models up to XL.
NOISE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
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


def build_t5_tokenizer(*, max_tokens: int = 512) -> T5Tokenizer:
    """A T5 tokenizer whose tokens are single printable ASCII characters, without sentinels."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    characters = [(chr(code), -3.0) for code in range(ord("!"), ord("~") + 1)]
    return T5Tokenizer(vocab=[*special, *characters], extra_ids=0, model_max_length=max_tokens)


def clip_config(tokenizer: CLIPTokenizer, width: int, activation: str) -> CLIPTextConfig:
    """Of a CLIP text encoder with so many hidden units."""
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


def build_t5_encoder(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    """A T5 encoder like T5 1.1 XXL's (gated activation) with so many hidden units; it has dropout while it trains."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_ff=2 * width,
        d_kv=width // 4,
        num_heads=4,
        num_layers=2,
        relative_attention_num_buckets=T5_RELATIVE_BUCKETS,
        feed_forward_proj="gated-gelu",
    )
    config.tie_word_embeddings = False
    encoder: T5EncoderModel = T5EncoderModel(config).eval()
    return encoder


def build_vae(scaling_factor: float, *, latent_channels: int = 4, shift_factor: float | None = None) -> AutoencoderKL:
    """An autoencoder whose latents are an eighth of the image; those with 16 channels have no quantizing layers."""
    return AutoencoderKL(
        block_out_channels=(16, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=latent_channels,
        norm_num_groups=NORM_GROUPS,
        sample_size=64,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=shift_factor is None,
        use_post_quant_conv=shift_factor is None,
    )
