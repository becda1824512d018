"""What lies where a model's source points on this machine: a pipeline, a single file, or something else to be named.

Imports no torch: a wrong path is reported before libraries are loaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from easel_server.engine.model_files.selection import ModelFileError, format_gib
from easel_server.engine.model_files.weight_files import WEIGHT_SUFFIXES, explain_unreadable, is_pickle
from easel_server.generation.models import MODEL_INDEX

SHOWN_ENTRIES: Final = 8  # of a directory that is no model
MAX_LISTED_FILES: Final = 65536  # of a directory
VAE_MARK: Final = ".vae"  # A1111 keeps a model's own autoencoder beside it: NAME.vae.safetensors
MODEL_FOLDERS: Final = ("Stable-diffusion", "checkpoints", "diffusion_models", "unet")  # of A1111 and ComfyUI


@dataclass(frozen=True)
class ModelFiles:
    """Where a model's files are."""

    directory: Path | None  # in diffusers' layout; of a single file: configuration and what it lacks, if known
    file: Path | None = None  # a single file
    commit: str | None = None  # of a repository on the Hub


def find_model(source: Path, *, allow_pickles: bool) -> ModelFiles:
    """The model that a path names. Raises ModelFileError if it names none, or more than one."""
    try:
        if source.is_file():
            return _from_file(source, allow_pickles=allow_pickles)
        if not source.is_dir():
            raise ModelFileError(
                f"directory {source} does not exist; "
                "check model.source and that the volume which holds the model is mounted there"
            )
        if (source / MODEL_INDEX).is_file():
            return ModelFiles(source)
        weights = [file for file in _list_weights(source) if not file.stem.endswith(VAE_MARK)]
        if len(weights) == 1:
            return _from_file(weights[0], allow_pickles=allow_pickles)
    except OSError as error:
        raise ModelFileError(explain_unreadable(source, error)) from error
    if weights:
        raise ModelFileError(_explain_many(source, weights))
    raise ModelFileError(_explain_none(source))


def list_sizes(directory: Path) -> dict[str, int]:
    """Bytes of the files in a directory and in the directories right below it, by their paths relative to it."""
    sizes: dict[str, int] = {}
    try:
        for pattern in ("*", "*/*"):
            for file in directory.glob(pattern):
                if file.is_file() and len(sizes) < MAX_LISTED_FILES:
                    sizes[file.relative_to(directory).as_posix()] = file.stat().st_size
    except OSError as error:
        raise ModelFileError(explain_unreadable(directory, error)) from error
    return sizes


def refuse_pickle(file: Path, *, allow_pickles: bool) -> None:
    """Raises ModelFileError for a pickle that the service doesn't allow."""
    if is_pickle(file) and not allow_pickles:
        raise ModelFileError(
            f"{file} is a pickle, which can hold code, and is not loaded; take the model's .safetensors, convert it, "
            "or set model.allowPickles where you trust its author"
        )


def _from_file(file: Path, *, allow_pickles: bool) -> ModelFiles:
    if file.suffix.lower() not in WEIGHT_SUFFIXES:
        raise ModelFileError(
            f"{file} is no file of weights (allowed: {', '.join(sorted(WEIGHT_SUFFIXES))}); name the model's file, or "
            f"the directory that holds its {MODEL_INDEX}"
        )
    refuse_pickle(file, allow_pickles=allow_pickles)
    beside = (file.with_suffix(""), file.parent)
    return ModelFiles(next((each for each in beside if (each / MODEL_INDEX).is_file()), None), file)


def find_autoencoder(file: Path) -> Path | None:
    """The autoencoder that lies beside a single file for it, as A1111 finds one."""
    found = [file.with_suffix(f"{VAE_MARK}{suffix}") for suffix in sorted(WEIGHT_SUFFIXES)]
    return next((each for each in found if each.is_file()), None)


def _list_weights(directory: Path) -> Iterator[Path]:
    for file in sorted(directory.iterdir()):
        if file.suffix.lower() in WEIGHT_SUFFIXES and file.is_file():
            yield file


def _explain_many(directory: Path, weights: list[Path]) -> str:
    shown = ", ".join(f"{file.name} ({format_gib(file.stat().st_size)})" for file in weights[:SHOWN_ENTRIES])
    rest = f", and {len(weights) - SHOWN_ENTRIES} more" if len(weights) > SHOWN_ENTRIES else ""
    return (
        f"directory {directory} has {len(weights)} models ({shown}{rest}) and no {MODEL_INDEX}; "
        "name one of the files in model.source"
    )


def _explain_none(directory: Path) -> str:
    entries = sorted(entry.name for entry in directory.iterdir())
    found = ", ".join(entries[:SHOWN_ENTRIES]) or "nothing"
    below = [
        name for name in (*entries, *(f"models/{each}" for each in MODEL_FOLDERS)) if _holds_models(directory / name)
    ]
    if below:
        return (
            f"directory {directory} has no {MODEL_INDEX} (found: {found}); models are in "
            f"{', '.join(below[:SHOWN_ENTRIES])}: name one of those in model.source"
        )
    return (
        f"directory {directory} has no {MODEL_INDEX} (found: {found}); model.source must name a pipeline in diffusers' "
        "layout, such as `hf download REPOSITORY --local-dir DIRECTORY` writes, or a single file of weights"
    )


def _holds_models(directory: Path) -> bool:
    return directory.is_dir() and (
        (directory / MODEL_INDEX).is_file() or next(_list_weights(directory), None) is not None
    )
