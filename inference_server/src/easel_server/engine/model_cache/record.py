"""What a cache of models was filled with: read by workers, which download nothing beside it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from easel_contract.schema import Model
from easel_contract.server_config import ModelCacheConfig
from pydantic import Field, ValidationError, model_validator

from easel_server.engine.model_files.hub import Hub
from easel_server.engine.model_files.selection import ModelFileError

HUB: Final = "hub"
RECORDS: Final = "easel"


class CacheRecord(Model):
    """A model that is whole."""

    commits: Mapping[str, str] = Field(default_factory=dict)  # by REPOSITORY@REVISION
    files: Mapping[str, int] = Field(default_factory=dict)  # bytes, by the path below hub/
    copies: Mapping[str, int] = Field(default_factory=dict)  # of objects of buckets: bytes, by the path below the cache

    @model_validator(mode="after")
    def _has_some(self) -> Self:
        if not self.files and not self.copies:
            raise ValueError("a record without files")
        return self

    def list_sizes(self, directory: Path) -> dict[Path, int]:
        """Of all files of a cache in ``directory``."""
        files = {directory / HUB / name: size for name, size in self.files.items()}
        return files | {directory / name: size for name, size in self.copies.items()}


def record_path(cache: ModelCacheConfig, record: str) -> Path:
    """Where a record is."""
    return Path(cache.directory) / RECORDS / f"{record}.json"


def read_record(cache: ModelCacheConfig, record: str) -> CacheRecord | None:
    """The record, if the model is whole: None where there is none, or a file isn't there in its whole length."""
    try:
        found = CacheRecord.model_validate_json(record_path(cache, record).read_bytes())
        wanted = found.list_sizes(Path(cache.directory))
        sizes = {file: file.stat().st_size for file in wanted}
    except (OSError, ValidationError):
        return None
    return found if sizes == wanted else None


def write_record(cache: ModelCacheConfig, record: str, content: CacheRecord) -> None:
    """All of it or nothing, and on the disk. Raises OSError."""
    path = record_path(cache, record)
    written = path.with_suffix(f".{os.getpid()}.tmp")
    with written.open("w", encoding="utf-8") as file:
        json.dump({name: each for name, each in content.to_wire().items() if each}, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


def open_cache(cache: ModelCacheConfig | None, token: str | None) -> Hub:
    """How a worker's model is looked for: in the cache alone, where it has one. Raises ModelFileError."""
    if cache is None:
        return Hub(token)
    directory = Path(cache.directory) / HUB
    if cache.record is None:
        return Hub(None, directory=directory, filled={})
    record = read_record(cache, cache.record)
    if record is None:
        raise ModelFileError(
            f"the model cache in {cache.directory} isn't whole: {record_path(cache, cache.record)} is missing, or "
            "files that it lists are; delete the Job that filled it, and the operator makes another"
        )
    return Hub(None, directory=directory, filled=record.commits)
