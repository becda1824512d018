"""What a single file of weights is, by the names of its tensors, and what diffusers calls them: pure.

Front ends write the same weights under many names: Stability's and CompVis' trainers with prefixes for each part
(``model.diffusion_model.``, ``first_stage_model.``, ``cond_stage_model.``, ``conditioner.embedders.``), ComfyUI also
the denoiser alone without one, SD 3's and Flux's with ``text_encoders.``; training leaves averages and optimizers.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from easel_server.engine.model_files.selection import ModelFileError
from easel_server.engine.model_files.weight_files import TensorFacts

DENOISER: Final = "model.diffusion_model."
AUTOENCODER: Final = "first_stage_model."
DENOISERS: Final = frozenset({"unet", "transformer"})

# Not weights of what generates: averages and states of training, noise schedules, positions that libraries count.
_DROPPED: Final = re.compile(
    r"(model_ema|optimizer\w*|lr_scheduler\w*|loss|callbacks|denoiser)\.|global_step$|epoch$|state_dict$|pytorch-lightning"
    r"|(alphas_cumprod|betas|sqrt_|log_one_minus|posterior_|logvar|model_ema)|edm_|v_pred$|ztsnr$"
    r"|.*\.(position_ids|logit_scale)$|.*scaled_fp8$"
)
# Prefixes that files have instead of those that diffusers' converters know; the first that fits.
_RENAMED: Final = (
    (re.compile(r"(?:module|_orig_mod)\.(?=model\.diffusion_model\.)"), ""),
    (re.compile(r"diffusion_model\."), DENOISER),
    (re.compile(r"(?=(?:input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\.)"), DENOISER),
    (re.compile(r"(?=(?:joint_blocks|double_blocks|single_blocks|context_embedder|x_embedder)\.)"), DENOISER),
    (re.compile(r"(?=(?:img_in|txt_in|time_in|vector_in|guidance_in|final_layer|y_embedder|t_embedder)\.)"), DENOISER),
    (re.compile(r"(?=pos_embed$)"), DENOISER),
    (
        re.compile(r"cond_stage_model\.transformer\.(?=(?:embeddings|encoder|final_layer_norm)\.)"),
        "cond_stage_model.transformer.text_model.",
    ),
    (
        re.compile(r"conditioner\.embedders\.0\.transformer\.(?=(?:embeddings|encoder|final_layer_norm)\.)"),
        "conditioner.embedders.0.transformer.text_model.",
    ),
)
_TEXT_PARTS: Final = (  # by prefix: of which component, where several have the same prefix by the file's other parts
    ("cond_stage_model.", "text_encoder"),
    ("conditioner.embedders.1.", "text_encoder_2"),
    ("text_encoders.clip_l.", "text_encoder"),
    ("text_encoders.clip_g.", "text_encoder_2"),
)
_T5: Final = "text_encoders.t5xxl."


class FileKind(StrEnum):
    """What somebody may have in a folder of models; the values are for sentences."""

    MODEL = "a model"
    LORA = "a LoRA"
    CONTROLNET = "a ControlNet"
    AUTOENCODER = "an autoencoder (VAE)"
    EMBEDDING = "a textual inversion"
    TEXT_ENCODER = "a text encoder"
    IP_ADAPTER = "an IP-Adapter"
    MOTION_MODULE = "a motion module"
    UPSCALER = "an upscaler"
    UNKNOWN = "no kind of weights that is known"


class Layout(NamedTuple):
    """How a file's tensors are to be taken."""

    names: Mapping[str, str]  # of those that are used: as the file has them, as diffusers' converters know them
    parts: frozenset[str]  # components of a pipeline that the file holds: "unet", "vae", "text_encoder", …


def find_kind(keys: Iterable[str]) -> FileKind:
    """By the names of a file's tensors."""
    keys = set(keys)

    def has(pattern: str) -> bool:
        compiled = re.compile(pattern)
        return any(compiled.match(key) for key in keys)

    # The first that fits: adapters have names of what they adapt in theirs.
    kinds = (
        (FileKind.LORA, r".*(lora_down|lora_up|lora_A|lora_B|lora\.down|lora\.up|hada_w1|lokr_w|\.dora_scale)"),
        (FileKind.IP_ADAPTER, r"(image_proj|ip_adapter)\."),
        (FileKind.MOTION_MODULE, r".*motion_modules\."),
        (FileKind.CONTROLNET, r"(control_model|controlnet\w*|controlnet_blocks|zero_convs|input_hint_block)\."),
        (FileKind.MODEL, rf"({re.escape(DENOISER)}|diffusion_model\.|input_blocks\.|joint_blocks\.|double_blocks\.)"),
        (FileKind.MODEL, r"(module|_orig_mod)\.model\.diffusion_model\."),
        (FileKind.MODEL, r"(time_embedding\.linear_1|transformer_blocks\.0)\."),
        (FileKind.AUTOENCODER, r"((first_stage_model|vae)\.)?(decoder\.(conv_in|mid)|post_quant_conv)"),
        (FileKind.TEXT_ENCODER, r"((text_model|cond_stage_model|text_encoders)\.|shared\.weight|encoder\.block\.)"),
        (FileKind.EMBEDDING, r"(emb_params|string_to_param|clip_[lg]$|<)"),
        (FileKind.UPSCALER, r"(model\.\d+\.(sub|weight)|conv_first\.|body\.0\.)"),
    )
    return next((kind for kind, pattern in kinds if has(pattern)), FileKind.UNKNOWN)


def find_layout(tensors: Mapping[str, TensorFacts]) -> Layout:
    """Of a file that is a model. Raises ModelFileError for what isn't, and says what it is."""
    kind = find_kind(tensors)
    if kind is not FileKind.MODEL:
        raise ModelFileError(_explain_kind(kind, tensors))
    names = {key: name for key in tensors if (name := rename(key)) is not None}
    return Layout(names, find_parts(names.values()))


def rename(key: str) -> str | None:
    """A tensor's name as diffusers' converters know it; None for one that is of no use."""
    if _DROPPED.match(key):
        return None
    for pattern, replacement in _RENAMED:
        if pattern.match(key):
            return pattern.sub(replacement, key, count=1)
    return key


def find_parts(names: Iterable[str]) -> frozenset[str]:
    """Components of a pipeline among renamed tensors."""
    names = set(names)
    prefixes = {prefix for name in names for prefix in _prefixes(name)}
    parts = set()
    if DENOISER in prefixes:
        is_unet = any(name.startswith(f"{DENOISER}input_blocks.") for name in names)
        parts.add("unet" if is_unet else "transformer")
    elif "down_blocks" in prefixes:  # as diffusers writes a component
        parts.add("unet")
    elif prefixes & {"transformer_blocks", "single_transformer_blocks"}:
        parts.add("transformer")
    if prefixes & {AUTOENCODER, "vae."}:
        parts.add("vae")
    # SDXL has two text encoders; its refiner has the second alone, at the first one's place.
    if any(name.startswith("conditioner.embedders.0.transformer.") for name in names):
        parts.add("text_encoder")
    elif any(name.startswith("conditioner.embedders.0.model.") for name in names):
        parts.add("text_encoder_2")
    parts |= {part for prefix, part in _TEXT_PARTS if any(name.startswith(prefix) for name in names)}
    if any(name.startswith(_T5) for name in names):
        # Behind the other encoders: the third of SD 3, the second of Flux, which has one CLIP.
        parts.add(
            "text_encoder_3" if f"{DENOISER}joint_blocks.0.x_block.attn.qkv.weight" in names else "text_encoder_2"
        )
    return frozenset(parts)


def _prefixes(name: str) -> tuple[str, str, str]:
    first, _, rest = name.partition(".")
    return first, f"{first}.", f"{first}.{rest.partition('.')[0]}."


def _explain_kind(kind: FileKind, tensors: Mapping[str, TensorFacts]) -> str:
    some = ", ".join(sorted(tensors)[:3]) or "none"
    if kind is FileKind.UNKNOWN:
        return f"has none of the tensors of an image model (its first: {some}); name a checkpoint of a model"
    return (
        f"is {kind.value}, not a model (its first tensors: {some}); name the model's own file or directory in "
        "model.source: such a file only works together with one"
    )
