"""Hashes that say whether two requests are the same. Pure."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from easel_contract.server_config import ModelConfig

from easel_server.job import GenerationParameters, Job


def job_fingerprint(job: Job) -> str:
    """Equal for jobs that ask for the same: owner, parameters and webhook. Times and progress don't count."""
    parts = [job.parameters, *([job.webhook] if job.webhook else [])]
    documents = [part.model_dump_json(by_alias=True, exclude_none=True) for part in parts]
    # JSON has no raw NUL, so that no two jobs give the same bytes.
    return hashlib.sha256("\0".join([*documents, job.owner]).encode()).hexdigest()


def result_cache_key(parameters: GenerationParameters, model: ModelConfig, versions: Mapping[str, str]) -> str:
    """Equal for requests that give the same images.

    ``versions`` maps library names to versions: an upgrade may change pixels, so it empties the cache.
    """
    return _digest({"parameters": parameters.to_wire(), "model": model.to_wire(), "versions": dict(versions)})


def _digest(value: dict[str, Any]) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
