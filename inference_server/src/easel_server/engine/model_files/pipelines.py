"""From gathered files to pipelines on their device. Whatever goes wrong for good becomes a ModelFileError."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)
from easel_contract.server_config import ModelConfig, SourceConfig

from easel_server.engine.model_files import gathering
from easel_server.engine.model_files.content_hash import hash_content
from easel_server.engine.model_files.gathering import (
    SHARED_WITH_REFINER,
    VAE,
    GatheredModel,
    Gathering,
    gather_refiner,
)
from easel_server.engine.model_files.hub import Hub, read_index
from easel_server.engine.model_files.layouts import rename
from easel_server.engine.model_files.memory import read_free_host_bytes
from easel_server.engine.model_files.selection import ModelFileError, describe_sizes, format_gib, list_components
from easel_server.engine.model_files.single_file import (
    find_repository,
    list_unused,
    load_single_file,
    load_tensors,
    read_pickle,
)
from easel_server.engine.model_files.vae import (
    ADVICE,
    GatheredVae,
    digest_files,
    explain_misfit,
    find_bare_name,
    name_source,
    read_config,
)
from easel_server.generation.models import MODEL_INDEX

REFINER_CLASS: Final = "StableDiffusionXLImg2ImgPipeline"
# Weights are read straight to these, and summed up there. Others have no 64-bit integers for sums, or load by copies.
DIRECT_DEVICES: Final = frozenset({"cpu", "cuda", "xpu"})


class LoadedPipeline(NamedTuple):
    """A pipeline on its device."""

    pipeline: Any
    weights: str  # which ones: the Hub's commit, or the hash of what was loaded from a path
    vae: str = ""  # the digest of the autoencoder that stands for the model's own


class LoadedVae(NamedTuple):
    """On its device."""

    module: Any
    digest: str


def build_gathering(config: ModelConfig, dtype: torch.dtype, hub: Hub) -> Gathering:
    """How the model's and its refiner's files are looked for."""
    name = str(dtype).removeprefix("torch.")
    return gathering.build_gathering(config, name, hub, read_pickle=read_pickle, find_repository=find_repository)


def load_pipeline(
    config: ModelConfig,
    model: GatheredModel,
    device: torch.device,
    dtype: torch.dtype,
    vae: GatheredVae | None = None,
) -> LoadedPipeline:
    """The model, on a device: the host, where something else is to be done with the weights before they go further.

    ``vae`` is what was gathered of ``config.vae``.
    Raises ModelFileError for one that generates nothing from text alone, and for what can't be loaded.
    """
    class_name = read_index(model.directory).get("_class_name")
    if (refusal := explain_class(str(class_name), model.directory)) is not None:
        raise ModelFileError(refusal)
    if vae is None or config.vae is None:
        return _load(config.source, model, device, dtype, {}, allow_pickles=config.allow_pickles)
    model = replace(model, loaded_bytes={**(model.loaded_bytes or {}), VAE: vae.loaded_bytes})
    first = device if device.type in DIRECT_DEVICES else torch.device("cpu")
    own = _load_vae(config.vae, vae, model.directory / VAE, first, dtype)
    loaded = _load(config.source, model, device, dtype, {VAE: own.module}, allow_pickles=config.allow_pickles)
    return loaded._replace(vae=own.digest)


def _load_vae(
    source: SourceConfig, vae: GatheredVae, own_folder: Path, device: torch.device, dtype: torch.dtype
) -> LoadedVae:
    """The module and which it is. ``own_folder`` has the configuration of the model's own.

    Raises ModelFileError, and torch.OutOfMemoryError.
    """
    own = read_config(own_folder)
    try:
        if not own:
            raise ModelFileError("the model has no autoencoder that it could stand for; leave model.vae unset")
        if (refusal := explain_misfit(vae.config or own, own, vae.tensors)) is not None:
            raise ModelFileError(refusal)
        module = _load_module(vae, own_folder, own, dtype)
    except ModelFileError as error:
        raise ModelFileError(name_source(source, error)) from error
    except Exception as error:  # the libraries raise most kinds for files that don't fit
        first = (str(error).strip().splitlines() or ["no detail"])[0]
        raise ModelFileError(
            name_source(
                source, f"its weights don't fit their configuration ({type(error).__name__}: {first}); {ADVICE}"
            )
        ) from error
    return LoadedVae(module.to(device).eval(), digest_files(vae))


def _load_module(vae: GatheredVae, own_folder: Path, own: Mapping[str, Any], dtype: torch.dtype) -> Any:
    if vae.is_single:
        folder, config = (vae.folder, vae.config) if vae.config else (own_folder, own)
        return _load_single_vae(vae, folder, str(config["_class_name"]), dtype)
    maker = getattr(diffusers, str(vae.config["_class_name"]))
    is_safe = all(not name.endswith(".bin") for name in vae.files)
    return maker.from_pretrained(
        vae.folder, torch_dtype=dtype, variant=vae.variant, use_safetensors=is_safe, local_files_only=True
    )


def _load_single_vae(vae: GatheredVae, config_folder: Path, kind: str, dtype: torch.dtype) -> Any:
    """As diffusers loads one from a single file, which it converts where the names aren't its own."""
    tensors = {
        find_bare_name(key): tensor for key, tensor in load_tensors(vae.folder / vae.files[0]).items() if rename(key)
    }
    maker = getattr(diffusers, kind)
    module = maker.from_single_file(tensors, config=str(config_folder), torch_dtype=dtype, local_files_only=True)
    if empty := [key for key, tensor in module.state_dict().items() if tensor.is_meta]:
        raise ModelFileError(f"it lacks {len(empty)} tensors (the first: {empty[0]}); {ADVICE}")
    return module


def load_refiner(
    source: SourceConfig, how: Gathering, base: LoadedPipeline, device: torch.device, dtype: torch.dtype
) -> LoadedPipeline:
    """The pipeline that takes over the base model's last steps; what both have alike is the base model's."""
    shared = {name: part for name in SHARED_WITH_REFINER if (part := getattr(base.pipeline, name, None)) is not None}
    if len(shared) < len(SHARED_WITH_REFINER):
        raise ModelFileError(
            f"a refiner goes with Stable Diffusion XL, and the model is a {type(base.pipeline).__name__} (without "
            f"{', '.join(sorted(set(SHARED_WITH_REFINER) - shared.keys()))}); leave model.refiner unset"
        )
    try:
        model = gather_refiner(source, how)
        class_name = read_index(model.directory).get("_class_name")
        if class_name != REFINER_CLASS:
            raise ModelFileError(
                f"it is a {class_name}, and a refiner is a {REFINER_CLASS}; correct model.refiner.source"
            )
        return _load(source.source, model, device, dtype, shared, allow_pickles=how.allow_pickles)
    except ModelFileError as error:
        raise ModelFileError(f"refiner {source.source}: {error}") from error


def explain_class(class_name: str, directory: Path) -> str | None:
    """Why a pipeline class can't serve text to image; None if it can, as far as its name says."""
    if not isinstance(getattr(diffusers, class_name, None), type):
        return (
            f"{directory / MODEL_INDEX} names the pipeline class {class_name}, which diffusers {diffusers.__version__} "
            "doesn't have; use a release of Easel with a newer diffusers, or another model"
        )
    of_text = {cls.__name__ for cls in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    others = {
        cls.__name__
        for mapping in (AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, AUTO_INPAINT_PIPELINES_MAPPING)
        for cls in mapping.values()
    }
    if class_name not in others - of_text:
        return None
    if class_name == REFINER_CLASS and "text_encoder" not in list_components(read_index(directory)):
        return (
            "it is a refiner, which only goes on with another model's images; name it in model.refiner, and Stable "
            "Diffusion XL's base in model.source"
        )
    return (
        f"it is a {class_name}, which generates from an image that is given alone; name the same family's model for "
        "text to image in model.source: it does image to image and inpainting too"
    )


def _load(
    source: str,
    model: GatheredModel,
    device: torch.device,
    dtype: torch.dtype,
    shared: Mapping[str, Any],
    *,
    allow_pickles: bool,
) -> LoadedPipeline:
    _check_memory(model, device, dtype)
    is_direct = device.type in DIRECT_DEVICES
    target = device if is_direct else torch.device("cpu")
    try:
        if model.single is not None:
            pipeline = load_single_file(model, dtype, target, shared)
        else:
            pipeline = DiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
                model.directory,
                dtype=dtype,
                local_files_only=True,
                variant=model.selection.variant,
                use_safetensors=None if allow_pickles else True,
                device_map=target.type,  # each tensor is read to where it stays: no second copy of the weights
                **list_unused(model),
                **shared,
            )
        weights = model.commit or hash_content(pipeline, model.directory, without=frozenset({VAE} & shared.keys()))
        # Once more for what has no weights of its own and for devices that can't be read to.
        return LoadedPipeline(pipeline.to(device), weights)
    except ModelFileError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelFileError(
            f"out of memory on {device} while loading {source} as {dtype} ({_describe(model)}; "
            f"{_describe_free(device)}); {_advise_memory(device)}"
        ) from error
    # The libraries raise most kinds of error for broken files; whichever it is, the files won't change by a restart.
    except Exception as error:
        raise ModelFileError(_explain_broken(model, f"{type(error).__name__}: {_first_line(error)}")) from error


def _explain_broken(model: GatheredModel, what: str) -> str:
    if model.single is not None:
        return (
            f"{model.single.path.name} doesn't fit its configuration in {model.directory} ({what}; "
            f"{_describe(model)}): it is of another family; put that family's configuration beside it, or name its "
            "repository in model.configRepository"
        )
    return (
        f"the files in {model.directory} can't be read as a diffusers pipeline ({what}; {_describe(model)}); download "
        "the model again and check model.source"
    )


def _check_memory(model: GatheredModel, device: torch.device, dtype: torch.dtype) -> None:
    """Raises ModelFileError where the weights alone are more than what is free; what comes besides isn't known yet."""
    needed = sum((model.loaded_bytes or {}).values())
    free = _read_free_bytes(device)
    if free is not None and needed > free:
        raise ModelFileError(
            f"the weights take {format_gib(needed)} as {str(dtype).removeprefix('torch.')} "
            f"({describe_sizes(model.loaded_bytes or {})}), and {_describe_free(device)}; {_advise_memory(device)}"
        )


def _read_free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return read_free_host_bytes() if device.type == "cpu" else None


def _describe_free(device: torch.device) -> str:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return f"{format_gib(free)} of {format_gib(total)} are free on {device}"
    free_host = read_free_host_bytes()
    return f"{format_gib(free_host)} of memory are free" if free_host is not None else "free memory isn't known"


def _advise_memory(device: torch.device) -> str:
    if device.type == "cpu":
        return "raise worker.resources.limits.memory, or use a smaller model"
    return "use a GPU with more memory or a smaller model, or set model.dtype to BFloat16 or Float16"


def _describe(model: GatheredModel) -> str:
    return f"weights: {describe_sizes(model.loaded_bytes or {})}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no detail"
