"""Where a model's weights are kept and in which format: 8 bits, or the host's memory, for models that don't fit.

what is configured           weights on the device                    what it costs
------------------           ---------------------                    -------------
neither                      all, in the model's dtype                nothing
quantization Float8          denoiser and text encoders as e4m3       casts of each layer; slightly other images
offload Group                the block at work and the next one       copies of each block, beside the work
both                         the block at work, as e4m3               both, and half of the copies

Casts and copies are diffusers' own hooks on each layer, so there is no dependency, and pipelines stay as they are.
"""

from collections.abc import Iterable
from typing import Any, Final

import torch
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN, apply_layerwise_casting
from easel_contract.server_config import EngineConfig, ModelConfig, Offload

from easel_server.engine.interface import ModelLoadError

STORAGE: Final = torch.float8_e4m3fn
DENOISERS: Final = ("unet", "transformer")
TEXT_ENCODERS: Final = ("text_encoder", "text_encoder_2", "text_encoder_3")
KEPT_AT_HAND: Final = ("vae",)  # small, and needed whole: it is never offloaded
# T5 asks this layer's weight for its dtype before the layer is called, which is before it is cast.
T5_OUTPUT: Final = r"\.wo$"


def is_placed_late(model: ModelConfig, engine: EngineConfig) -> bool:
    """Whether the weights must be read into the host's memory first: as they are, they may not fit on the device."""
    return model.quantization is not None or engine.offload is not Offload.NONE


def place(pipeline: Any, device: torch.device, model: ModelConfig, engine: EngineConfig) -> None:
    """Bring the pipeline's weights to where they are to be, in the format that they are to have.

    Raises ModelLoadError for what this device can't do.
    """
    if model.quantization is not None:
        if device.type not in {"cpu", "cuda", "xpu"}:
            raise ModelLoadError(
                f"model {model.name}: quantization {model.quantization} is not known to work on {device.type}; leave "
                "model.quantization out, or run on a CUDA GPU"
            )
        quantize(pipeline)
    if engine.offload is Offload.NONE:
        _move(pipeline, device, model)
        return
    if device.type == "cpu":
        raise ModelLoadError(
            f"model {model.name}: offload {engine.offload} needs an accelerator, and torch sees none, only the CPU, "
            "where the weights are in the host's memory anyway; set worker.engine.offload to None"
        )
    offload(pipeline, device)


def _move(pipeline: Any, device: torch.device, model: ModelConfig) -> None:
    try:
        pipeline.to(device)
    except torch.OutOfMemoryError as error:
        total_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        raise ModelLoadError(
            f"model {model.name}: out of memory on {device} ({total_gib:.1f} GiB) as its weights were brought there; "
            "use a GPU with more memory, or set model.quantization to Float8, worker.engine.offload to Group, or both"
        ) from error


def quantize(pipeline: Any) -> None:
    """Keep the linear and convolution layers of denoiser and text encoders as float8 e4m3, but for delicate ones.

    Delicate are norms, embeddings and what diffusers names for the model; the autoencoder stays as it is. Each layer is
    computed in the dtype that it had.
    """
    for name in DENOISERS:
        module = getattr(pipeline, name, None)
        if module is not None and not _is_quantized(module):
            module.enable_layerwise_casting(storage_dtype=STORAGE, compute_dtype=module.dtype)
    for name in TEXT_ENCODERS:
        module = getattr(pipeline, name, None)
        if module is not None and not _is_quantized(module):  # a refiner shares one
            apply_layerwise_casting(
                module,
                STORAGE,
                module.dtype,
                skip_modules_pattern=(*DEFAULT_SKIP_MODULES_PATTERN, T5_OUTPUT),
                # Pipelines take the format of the first weight, an embedding, for that of all they hand on.
                skip_modules_classes=(torch.nn.Embedding,),
            )


def _is_quantized(module: torch.nn.Module) -> bool:
    return any(each.dtype is STORAGE for each in module.parameters())


def offload(pipeline: Any, device: torch.device) -> None:
    """Keep the weights in the host's memory, and bring each block to the device when it is its turn.

    On CUDA the next block is copied on a stream of its own while one is at work.
    """
    pipeline.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
        exclude_modules=[name for name in KEPT_AT_HAND if getattr(pipeline, name, None) is not None],
    )


def count_weights_on(device: torch.device, pipelines: Iterable[Any]) -> int:
    """Bytes of what pipelines consist of and have on a device, each part once. None among them has nothing."""
    parts = [each for pipeline in pipelines if pipeline is not None for each in pipeline.components.values()]
    modules = {id(each): each for each in parts if isinstance(each, torch.nn.Module)}
    weights = [each for module in modules.values() for each in (*module.parameters(), *module.buffers())]
    return sum(each.numel() * each.element_size() for each in weights if each.device.type == device.type)


def count_weight_bytes(module: torch.nn.Module) -> int:
    """Of parameters and buffers, as they are kept."""
    return sum(each.numel() * each.element_size() for each in (*module.parameters(), *module.buffers()))
