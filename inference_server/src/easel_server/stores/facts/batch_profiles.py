"""What workers of a model have measured of batches, so that only the first one of a kind of device measures.

A worker's directory for such files may be its pod's own; without this, each cold start would pay for measuring.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from easel_server.stores.facts.interface import FactStore

KEPT_SECONDS: Final = 30 * 86400.0
MAX_PROFILES: Final = 16  # of a model: kinds of devices times versions of libraries; the newest stay
MAX_PROFILE_BYTES: Final = 4096
NAME: Final = re.compile(
    r"[0-9a-f]{64}\.json"
)  # as the engine calls them; what comes from a store becomes a file's name


async def take_profiles(store: FactStore, model_key: str, directory: Path) -> None:
    """Put those that other workers have shared into the directory, beside those that are there. Raises StoreError."""
    for name, content in _read(await store.get(_fact(model_key))).items():
        file = directory / name
        if not file.exists():
            file.write_text(content, encoding="utf-8")


async def share_profiles(store: FactStore, model_key: str, directory: Path) -> None:
    """Share those of the directory with workers that start later. Raises StoreError."""
    shared = _read(await store.get(_fact(model_key)))
    known = shared | _read_directory(directory)
    if known != shared:
        newest = dict(list(known.items())[-MAX_PROFILES:])
        await store.put(_fact(model_key), json.dumps(newest).encode(), ttl_seconds=KEPT_SECONDS)


def _fact(model_key: str) -> str:
    return f"batch-profiles/{model_key}"


def _read_directory(directory: Path) -> dict[str, str]:
    files = sorted(directory.glob("*.json"), key=lambda file: file.stat().st_mtime)
    return _keep_whole({file.name: file.read_text(encoding="utf-8", errors="replace") for file in files})


def _read(document: bytes | None) -> dict[str, str]:
    try:
        profiles: Any = json.loads(document or b"{}")
    except ValueError:
        return {}
    return _keep_whole(profiles) if isinstance(profiles, dict) else {}


def _keep_whole(profiles: dict[Any, Any]) -> dict[str, str]:
    return {
        name: content
        for name, content in profiles.items()
        if NAME.fullmatch(name) and isinstance(content, str) and len(content) <= MAX_PROFILE_BYTES
    }
