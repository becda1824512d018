"""Single files of weights as other front ends write them: a diffusers pipeline's, under their original names.

The names are those of CompVis' latent-diffusion, Stability's generative-models and OpenCLIP, written down from their
modules' structure; what diffusers' own converters do is its reverse.
"""

import re
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE_OF_BLOCKS = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
AUTOENCODER = (
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)\.", r"encoder.down.\1.block.\2."),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"mid_block\.resnets\.0\.", "mid.block_1."),
    (r"mid_block\.resnets\.1\.", "mid.block_2."),
    (r"mid_block\.attentions\.0\.", "mid.attn_1."),
    (r"attn_1\.group_norm\.", "attn_1.norm."),
    (r"attn_1\.to_([qkv])\.", r"attn_1.\1."),
    (r"attn_1\.to_out\.0\.", "attn_1.proj_out."),
    (r"conv_norm_out\.", "norm_out."),
    (r"conv_shortcut\.", "nin_shortcut."),
)
SD3 = (
    (r"pos_embed\.pos_embed", "pos_embed"),
    (r"pos_embed\.proj\.", "x_embedder.proj."),
    (r"time_text_embed\.timestep_embedder\.linear_1\.", "t_embedder.mlp.0."),
    (r"time_text_embed\.timestep_embedder\.linear_2\.", "t_embedder.mlp.2."),
    (r"time_text_embed\.text_embedder\.linear_1\.", "y_embedder.mlp.0."),
    (r"time_text_embed\.text_embedder\.linear_2\.", "y_embedder.mlp.2."),
    (r"norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^transformer_blocks\.", "joint_blocks."),
    (r"\.norm1_context\.linear\.", ".context_block.adaLN_modulation.1."),
    (r"\.norm1\.linear\.", ".x_block.adaLN_modulation.1."),
    (r"\.attn\.norm_added_([qk])\.", r".context_block.attn.ln_\1."),
    (r"\.(attn2?)\.norm_([qk])\.", r".x_block.\1.ln_\2."),
    (r"\.attn\.to_add_out\.", ".context_block.attn.proj."),
    (r"\.(attn2?)\.to_out\.0\.", r".x_block.\1.proj."),
    (r"\.attn\.add_q_proj\.", ".context_block.attn.qkv."),
    (r"(?<!block)\.(attn2?)\.to_q\.", r".x_block.\1.qkv."),
    (r"\.ff_context\.net\.0\.proj\.", ".context_block.mlp.fc1."),
    (r"\.ff_context\.net\.2\.", ".context_block.mlp.fc2."),
    (r"\.ff\.net\.0\.proj\.", ".x_block.mlp.fc1."),
    (r"\.ff\.net\.2\.", ".x_block.mlp.fc2."),
)
OPEN_CLIP = (
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("self_attn.out_proj.", "attn.out_proj."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
    ("final_layer_norm.", "ln_final."),
    ("embeddings.token_embedding.", "token_embedding."),
    ("embeddings.position_embedding.weight", "positional_embedding"),
)


def name_unet(unet: Any) -> Tensors:
    """``input_blocks``, ``middle_block``, ``output_blocks``: three layers a block, as in all Stable Diffusion."""
    return {_name_of_unet(key, unet): tensor for key, tensor in unet.state_dict().items()}


def _name_of_unet(key: str, unet: Any) -> str:
    for old, new in OUTSIDE_OF_BLOCKS.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    match = re.match(r"(down_blocks|up_blocks)\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", key)
    if match is None:
        _, part, number, rest = key.split(".", 3)
        if part == "attentions":
            return f"middle_block.1.{rest}"
        return f"middle_block.{2 * int(number)}.{_name_of_resnet(rest)}"
    side, block, part, number, rest = match.groups()
    side_name = "input_blocks" if side == "down_blocks" else "output_blocks"
    first = 3 * int(block) + (1 if side == "down_blocks" else 0)
    if part == "downsamplers":
        return f"input_blocks.{first + 2}.0.op.{rest.removeprefix('conv.')}"
    if part == "upsamplers":
        has_attention = hasattr(unet.up_blocks[int(block)], "attentions")
        return f"output_blocks.{first + 2}.{2 if has_attention else 1}.{rest}"
    place = f"{side_name}.{first + int(number)}.{0 if part == 'resnets' else 1}."
    return place + (_name_of_resnet(rest) if part == "resnets" else rest)


def _name_of_resnet(rest: str) -> str:
    layer, _, leaf = rest.partition(".")
    return f"{RESNET[layer]}.{leaf}"


def name_autoencoder(vae: Any) -> Tensors:
    """``encoder.down``, ``decoder.up`` (numbered from the image's side), attention as convolutions of one pixel."""
    last = len(vae.config.up_block_types) - 1

    def turn(match: re.Match[str]) -> str:
        layer = f"block.{match[3]}" if match[2] == "resnets" else "upsample"
        return f"decoder.up.{last - int(match[1])}.{layer}."

    tensors = {}
    for key, tensor in vae.state_dict().items():
        name = re.sub(r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)\.", turn, key)
        for pattern, replacement in AUTOENCODER:
            name = re.sub(pattern, replacement, name)
        is_linear = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        tensors[name] = tensor[:, :, None, None].contiguous() if is_linear else tensor
    return tensors


def name_clip(encoder: Any) -> Tensors:
    """OpenAI's CLIP as transformers names it, inside of ``text_model``."""
    return {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in encoder.state_dict().items()}


def name_open_clip(encoder: Any) -> Tensors:
    """OpenCLIP: query, key and value in one tensor, the projection transposed."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in encoder.state_dict().items()}
    tensors = {}
    for key, tensor in state.items():
        if key == "text_projection.weight":
            tensors["text_projection"] = tensor.T.contiguous()
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", key):
            three = [state[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            tensors[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(three)
        elif not re.search(r"[kv]_proj", key):
            name = key
            for old, new in OPEN_CLIP:
                name = name.replace(old, new)
            tensors[name] = tensor
    return tensors


def add_prefix(prefix: str, tensors: Tensors) -> Tensors:
    """All under a prefix."""
    return {prefix + key: tensor for key, tensor in tensors.items()}


def build_sd15_checkpoint(pipeline: Any) -> Tensors:
    """Stable Diffusion 1.x in one file, with what training left in it."""
    unet = name_unet(pipeline.unet)
    return {
        **add_prefix("model.diffusion_model.", unet),
        **add_prefix("first_stage_model.", name_autoencoder(pipeline.vae)),
        **add_prefix("cond_stage_model.transformer.", name_clip(pipeline.text_encoder)),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "alphas_cumprod": torch.rand(1000),
        "betas": torch.rand(1000),
    }


def build_sd2_checkpoint(pipeline: Any) -> Tensors:
    """Stable Diffusion 2.x: OpenCLIP as the text encoder."""
    return {
        **add_prefix("model.diffusion_model.", name_unet(pipeline.unet)),
        **add_prefix("first_stage_model.", name_autoencoder(pipeline.vae)),
        **add_prefix("cond_stage_model.model.", name_open_clip(pipeline.text_encoder)),
    }


def build_sdxl_checkpoint(pipeline: Any) -> Tensors:
    """Stable Diffusion XL: both text encoders."""
    return {
        **add_prefix("model.diffusion_model.", name_unet(pipeline.unet)),
        **add_prefix("first_stage_model.", name_autoencoder(pipeline.vae)),
        **add_prefix("conditioner.embedders.0.transformer.", name_clip(pipeline.text_encoder)),
        **add_prefix("conditioner.embedders.1.model.", name_open_clip(pipeline.text_encoder_2)),
        "denoiser.sigmas": torch.rand(1000),
    }


def name_sd3(transformer: Any) -> Tensors:
    """Stable Diffusion 3's ``joint_blocks``: query, key and value in one tensor, shift before scale at the ends."""
    state = transformer.state_dict()
    last = transformer.config.num_layers - 1
    tensors = {}
    for key, tensor in state.items():
        name = key
        for old, new in SD3:
            name = re.sub(old, new, name)
        if re.search(r"\.(to_k|to_v|add_k_proj|add_v_proj)\.", key):
            continue
        if match := re.search(r"\.(to_|add_)q(_proj)?\.", key):
            others = [key.replace(match[0], match[0].replace("q", letter, 1)) for letter in "kv"]
            tensors[name] = torch.cat([tensor, *(state[other] for other in others)])
        elif key.startswith(("norm_out.", f"transformer_blocks.{last}.norm1_context.")):
            tensors[name] = torch.cat([*reversed(tensor.chunk(2))])
        else:
            tensors[name] = tensor
    return tensors


def build_sd3_checkpoint(pipeline: Any) -> Tensors:
    """Stable Diffusion 3 with its three text encoders, as ComfyUI and Stability's release have them."""
    encoders = {"clip_l": name_clip(pipeline.text_encoder), "clip_g": name_clip(pipeline.text_encoder_2)}
    encoders["clip_g"]["text_projection.weight"] = encoders["clip_g"].pop("text_model.text_projection.weight")
    del encoders["clip_l"]["text_model.text_projection.weight"]  # the identity, so that files leave it out
    encoders["t5xxl"] = dict(pipeline.text_encoder_3.state_dict())
    prefixed = [add_prefix(f"text_encoders.{name}.transformer.", each) for name, each in encoders.items()]
    return {
        **add_prefix("model.diffusion_model.", name_sd3(pipeline.transformer)),
        **add_prefix("first_stage_model.", name_autoencoder(pipeline.vae)),
        **prefixed[0],
        **prefixed[1],
        **prefixed[2],
        "text_encoders.t5xxl.logit_scale": torch.tensor(1.0),
    }


def build_averages(unet: Tensors) -> Tensors:
    """What a trainer keeps beside the weights: moving averages, their names without dots."""
    return {
        "model_ema.decay": torch.tensor(0.999),
        "model_ema.num_updates": torch.tensor(1),
        **{f"model_ema.diffusion_model{key.replace('.', '')}": torch.rand_like(each) for key, each in unet.items()},
    }


def name_control_net(net: Any) -> Tensors:
    """As the original training writes a ControlNet: the UNet's encoder, its hint block and zero convolutions."""
    named: Tensors = {}
    for key, tensor in net.state_dict().items():
        if key.startswith("controlnet_cond_embedding."):
            part = key.removeprefix("controlnet_cond_embedding.")
            place, _, leaf = part.rpartition(".")
            last = 2 * (len(net.controlnet_cond_embedding.blocks) + 1)
            number = {"conv_in": 0, "conv_out": last}.get(place)
            named[f"input_hint_block.{2 * (int(place.split('.')[1]) + 1) if number is None else number}.{leaf}"] = (
                tensor
            )
        elif key.startswith("controlnet_down_blocks."):
            _, number_text, leaf = key.split(".")
            named[f"zero_convs.{number_text}.0.{leaf}"] = tensor
        elif key.startswith("controlnet_mid_block."):
            named[f"middle_block_out.0.{key.rpartition('.')[2]}"] = tensor
        else:
            named[_name_of_unet(key, net)] = tensor
    return named
