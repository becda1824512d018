"""Loads a pipeline from a single file of weights, its configuration from a directory; diffusers converts the names.

Each component is built from what the file holds of it; what the file lacks comes from the directory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, pipelines
from diffusers.loaders.single_file import load_single_file_sub_model
from diffusers.loaders.single_file_utils import fetch_diffusers_config
from safetensors.torch import load_file

from easel_server.engine.model_files.gathering import GatheredModel, SingleFile
from easel_server.engine.model_files.hub import read_index
from easel_server.engine.model_files.layouts import rename
from easel_server.engine.model_files.selection import ModelFileError, list_components
from easel_server.engine.model_files.weight_files import TensorFacts, is_pickle

UNUSED: frozenset[str] = frozenset({"safety_checker", "image_encoder"})  # where no weights of theirs are there


def load_single_file(model: GatheredModel, dtype: torch.dtype, device: torch.device, shared: Mapping[str, Any]) -> Any:
    """The pipeline; what the file holds is on ``device``. Raises ModelFileError, and whatever diffusers does."""
    if model.single is None:
        raise ValueError("the model is no single file")
    components = list_components(read_index(model.directory))
    checkpoint = _read_weights(model.single)
    parts = model.single.layout.parts | ({"vae"} if model.single.autoencoder else frozenset())
    if unknown := sorted(part for part in parts if part in {"unet", "transformer"} and part not in components):
        raise ModelFileError(
            f"{model.single.path.name} holds a {unknown[0]}, and the pipeline in {model.directory} has none (it has "
            f"{', '.join(sorted(components))}); name the right one in model.configRepository"
        )
    given = list_unused(model)
    given |= shared
    for name in sorted((parts & components.keys()) - given.keys()):
        library, class_name = components[name]
        given[name] = load_single_file_sub_model(  # type: ignore[no-untyped-call]
            library_name=library,
            class_name=class_name,
            name=name,
            checkpoint=checkpoint,
            pipelines=pipelines,
            is_pipeline_module=hasattr(pipelines, library),
            cached_model_config_path=str(model.directory),
            torch_dtype=dtype,
            local_files_only=True,
        )
        _refuse_empty(given[name], name, model.single)
        given[name].to(device)
        given[name].eval()
    return DiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
        model.directory, dtype=dtype, local_files_only=True, variant=model.selection.variant, **given
    )


def list_unused(model: GatheredModel) -> dict[str, Any]:
    """Components of the pipeline that it is to be without, each as None, which is how diffusers is told so."""
    components = list_components(read_index(model.directory))
    return {name: None for name in UNUSED & components.keys() if name not in model.selection.weights}


def read_pickle(file: Path) -> dict[str, TensorFacts]:
    """Names and shapes of the tensors in a pickle; nothing in it is called. Raises ModelFileError."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
    return {
        key: TensorFacts(names.get(tensor.dtype, "I64"), tuple(tensor.shape)) for key, tensor in _unpickle(file).items()
    }


def find_repository(tensors: Mapping[str, TensorFacts]) -> str:
    """The Hub repository with the configuration of a file's family, by its tensors' shapes, as diffusers knows."""
    config: dict[str, str] = fetch_diffusers_config(tensors)  # type: ignore[no-untyped-call]
    return config["pretrained_model_name_or_path"]


def _read_weights(single: SingleFile) -> dict[str, torch.Tensor]:
    tensors = load_tensors(single.path)
    checkpoint = {name: tensors[key] for key, name in single.layout.names.items()}
    if single.autoencoder is not None:
        own = {key: tensor for key, tensor in checkpoint.items() if not key.startswith(("first_stage_model.", "vae."))}
        named = {rename(key) or key: tensor for key, tensor in load_tensors(single.autoencoder).items()}
        prefix = "" if any(key.startswith("first_stage_model.") for key in named) else "first_stage_model."
        return own | {f"{prefix}{key}": tensor for key, tensor in named.items()}
    return checkpoint


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All of a file of weights, on the host. Raises ModelFileError for a pickle that isn't tensors alone."""
    # Both map the file into memory: its pages are read when a tensor is copied to where it stays.
    return _unpickle(file) if is_pickle(file) else load_file(file)


def _unpickle(file: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_archive(file))
    except Exception as error:  # torch raises most kinds for what isn't tensors alone
        raise ModelFileError(
            f"{file} can't be read as tensors alone ({type(error).__name__}: {str(error).strip().splitlines()[0]}); "
            "other content of a pickle is never executed: convert the file to .safetensors where you trust its author"
        ) from error
    while isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ModelFileError(f"{file} holds a {type(content).__name__}, not tensors by their names")
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _is_archive(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == b"PK"


def _refuse_empty(module: Any, name: str, single: SingleFile) -> None:
    """A converter that doesn't know some tensor's name leaves it without numbers, and says nothing."""
    empty = [key for key, tensor in module.state_dict().items() if tensor.is_meta]
    if empty:
        raise ModelFileError(
            f"{single.path.name} lacks {len(empty)} tensors of component {name} (the first: {empty[0]}); the file is "
            "of another family than its configuration, or incomplete: name the right one in model.configRepository"
        )
