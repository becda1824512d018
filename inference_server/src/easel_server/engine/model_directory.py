"""Checks of a model's directory that need no library: a wrong path is told at once, not after importing torch."""

from pathlib import Path

from easel_contract.server_config import ModelConfig

from easel_server.engine.interface import ModelLoadError

MODEL_INDEX = "model_index.json"
SHOWN_ENTRIES = 8


def is_directory(config: ModelConfig) -> bool:
    """Whether the source names a directory, not a repository on the Hub."""
    return Path(config.source).is_absolute()


def check_directory(config: ModelConfig) -> Path:
    """The directory of the model. Raises ModelLoadError if it holds no pipeline."""
    directory = Path(config.source)
    if not directory.is_dir():
        raise ModelLoadError(
            f"model {config.name}: directory {directory} does not exist; "
            "check model.source and that the volume which holds the model is mounted there"
        )
    if not (directory / MODEL_INDEX).is_file():
        entries = sorted(entry.name for entry in directory.iterdir())
        found = ", ".join(entries[:SHOWN_ENTRIES]) or "nothing"
        raise ModelLoadError(
            f"model {config.name}: directory {directory} has no {MODEL_INDEX} (found: {found}); model.source must "
            "name a pipeline in diffusers' layout, such as `hf download REPOSITORY --local-dir DIRECTORY` writes"
        )
    return directory
