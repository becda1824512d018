"""What a cache of models was filled with: read by workers, which download nothing beside it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from easel_contract.schema import Model
from easel_contract.server_config import ModelCacheConfig
from pydantic import Field, ValidationError

from easel_server.engine.model_files.hub import Hub
from easel_server.engine.model_files.selection import ModelFileError

HUB: Final = "hub"
RECORDS: Final = "easel"


class CacheRecord(Model):
    """A model that is whole."""

    commits: Mapping[str, str]  # by REPOSITORY@REVISION
    files: Mapping[str, int] = Field(min_length=1)  # bytes, by the path below hub/


def record_path(cache: ModelCacheConfig, record: str) -> Path:
    """Where a record is."""
    return Path(cache.directory) / RECORDS / f"{record}.json"


def read_record(cache: ModelCacheConfig, record: str) -> CacheRecord | None:
    """The record, if the model is whole: None where there is none, or a file isn't there in its whole length."""
    try:
        found = CacheRecord.model_validate_json(record_path(cache, record).read_bytes())
        sizes = {name: (Path(cache.directory) / HUB / name).stat().st_size for name in found.files}
    except (OSError, ValidationError):
        return None
    return found if sizes == found.files else None


def write_record(cache: ModelCacheConfig, record: str, content: CacheRecord) -> None:
    """All of it or nothing, and on the disk. Raises OSError."""
    path = record_path(cache, record)
    written = path.with_suffix(f".{os.getpid()}.tmp")
    with written.open("w", encoding="utf-8") as file:
        json.dump(content.to_wire(), file, indent=1, sort_keys=True)
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
