"""Brings the files of add-ons to this machine: from the Hub, a volume, a bucket or a URL to a path and its digest.

What is downloaded from buckets and URLs is kept below ``EASEL_CACHE_DIR``, which workers may share: each file has a
lock beside it, so that one of them downloads it and the others wait; it is written under another name and renamed. What
was used last stays within a bound on bytes. The Hub's client keeps its own files in its own cache.

A failure is a sentence with the add-on, its source, what was seen and what to change: GenerationError where only a
change helps, which is remembered for a while, and OSError where trying again may.
"""

import asyncio
import fcntl
import hashlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from easel_contract.add_ons import DEFAULT_ADD_ON_FILE_BYTES, AddOnConfig
from easel_contract.server_config import SourceConfig

from easel_server.engine.add_ons.buckets import SMALLER_OR_MORE, download_object
from easel_server.engine.interface import GatheredAddOn, GatheringError, GenerationError
from easel_server.engine.model_files.hub import DISK_FULL, Hub, Snapshot, Wording, download_files, open_snapshot
from easel_server.engine.model_files.selection import ModelFileError, format_gib
from easel_server.engine.volumes import SHOWN_FILES, find_on_volume, is_on_volume
from easel_server.outbound.fetch import Fetcher, FetchError, FetchFailure

MAX_CACHE_BYTES: Final = 64 << 30  # of all that were downloaded from buckets and URLs
DOWNLOAD_SECONDS: Final = 1800.0
LOOK_AGAIN_SECONDS: Final = 300.0  # what a branch of the Hub or a bucket's key holds now
REMEMBER_FAILURE_SECONDS: Final = 60.0
# That a source is in trouble: less than a job's pause between two attempts, so that each of these is one, and those of
# many jobs are one together.
REMEMBER_TROUBLE_SECONDS: Final = 3.0
KEEP_SECONDS: Final = 3600.0  # a file that a job asked for so lately isn't deleted for room
MAX_REMEMBERED: Final = 2048  # digests, failures, places
MAX_DIRECTORY_FILES: Final = 64
WEIGHTS_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin")
# Of the Hub's failures. All is fetched with one token: the model's, where that has one.
WORDING: Final = Wording("it", "its source", "its revision", "spec.downloads.tokenSecretName")
DIFFUSERS_CONFIG: Final = "config.json"
DIFFUSERS_WEIGHTS: Final = "diffusion_pytorch_model"
TRANSFORMERS_LAYOUT: Final = ("config.json", "preprocessor_config.json", "model.safetensors")  # a network for images
LORA_WEIGHTS: Final = "pytorch_lora_weights.safetensors"
# Of a fetch: nothing but time helps.
TRANSIENT_FAILURES: Final = frozenset({FetchFailure.UNREACHABLE, FetchFailure.TOO_SLOW})

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalAddOn:
    """Where an add-on is on this machine, and what it is."""

    path: Path  # a file, or a directory in diffusers' layout
    digest: str  # "sha256:…" of its content


@dataclass(frozen=True)
class Bounds:
    """Of what is downloaded; times in seconds."""

    max_file_bytes: int = DEFAULT_ADD_ON_FILE_BYTES
    max_cache_bytes: int = MAX_CACHE_BYTES
    download_seconds: float = DOWNLOAD_SECONDS
    look_again_seconds: float = LOOK_AGAIN_SECONDS
    remember_failure_seconds: float = REMEMBER_FAILURE_SECONDS
    remember_trouble_seconds: float = REMEMBER_TROUBLE_SECONDS
    keep_seconds: float = KEEP_SECONDS


Failure = type[GenerationError] | type[OSError]


@dataclass
class _Known:
    """What this process has seen so far. Guarded by a lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    places: dict[str, tuple[Path, float]] = field(default_factory=dict)  # by key; and when it was looked at
    failures: dict[str, tuple[Failure, str, float]] = field(default_factory=dict)  # by key: a sentence, until when
    digests: dict[tuple[str, int, int, int], str] = field(default_factory=dict)  # by path, size, times and inode
    under_way: dict[str, threading.Lock] = field(default_factory=dict)  # by key


class AddOnFiles:
    """Those of one engine. ``bring`` and ``gather`` in any thread, ``find`` in the engine's."""

    def __init__(
        self,
        directory: Path | None,
        hub: Hub,
        bounds: Bounds | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``directory``: where downloads are kept; None: among the machine's temporary files."""
        self._directory = directory if directory is not None else Path(tempfile.gettempdir()) / "easel-add-ons"
        self._hub = replace(hub, wording=WORDING)
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._known = _Known()

    def gather(self, add_ons: Sequence[AddOnConfig]) -> tuple[GatheredAddOn, ...]:
        """All of a job's, brought here if need be. Blocks. Raises GenerationError and OSError."""
        return tuple(self.bring(each) for each in add_ons)

    def find(self, add_on: AddOnConfig) -> LocalAddOn:
        """One that was gathered, as it is now. Raises GenerationError, and GatheringError where it is gone by now."""
        place = self._known.places.get(add_on.key)
        try:
            path = place[0] if place is not None else self._bring(add_on)
            return LocalAddOn(path, self._digest(add_on, path))
        except OSError as error:
            raise GatheringError(str(error)) from error

    def bring(self, add_on: AddOnConfig) -> GatheredAddOn:
        """One, brought here if need be. Blocks. Raises GenerationError and OSError."""
        key = add_on.key
        with self._known.lock:
            lock = self._known.under_way.setdefault(key, threading.Lock())
        with lock:  # one at a time; those who waited find it here
            self._raise_remembered(add_on)
            seen_before = {key[0] for key in self._known.digests}
            try:
                path = self._bring(add_on)
                digest = self._digest(add_on, path)
            except (GenerationError, OSError) as error:
                self._remember_failure(key, error)
                raise
            is_new = not is_on_volume(add_on) and str(path) not in seen_before
            return GatheredAddOn(add_on.name, key, digest, _count_bytes(path) if is_new else 0)

    def _raise_remembered(self, add_on: AddOnConfig) -> None:
        kind, message, until = self._known.failures.get(add_on.key, (GenerationError, "", 0.0))
        if message and self._clock() < until:
            raise kind(message)

    def _remember_failure(self, key: str, error: GenerationError | OSError) -> None:
        bounds, is_trouble = self._bounds, isinstance(error, OSError)
        seconds = bounds.remember_trouble_seconds if is_trouble else bounds.remember_failure_seconds
        with self._known.lock:
            self._known.failures.pop(key, None)
            self._known.failures[key] = (
                OSError if is_trouble else GenerationError,
                str(error),
                self._clock() + seconds,
            )
            if len(self._known.failures) > MAX_REMEMBERED:
                del self._known.failures[next(iter(self._known.failures))]

    # Where it is

    def _bring(self, add_on: AddOnConfig) -> Path:
        if is_on_volume(add_on):
            path = find_on_volume(add_on)
        elif "://" in add_on.source:
            path = self._download(add_on)
        else:
            path = self._bring_from_hub(add_on)
        with self._known.lock:
            _, looked_at = self._known.places.pop(add_on.key, (path, self._clock()))
            self._known.places[add_on.key] = (path, looked_at)
            if len(self._known.places) > MAX_REMEMBERED:
                del self._known.places[next(iter(self._known.places))]
        return path

    def _is_fresh(self, add_on: AddOnConfig) -> Path | None:
        """Where it is, if there is no need to ask its source again."""
        path, looked_at = self._known.places.get(add_on.key, (None, 0.0))
        if path is None or not path.exists() or self._clock() - looked_at >= self._bounds.look_again_seconds:
            return None
        return path

    def _bring_from_hub(self, add_on: AddOnConfig) -> Path:
        if (path := self._is_fresh(add_on)) is not None:
            return path
        former = self._known.places.pop(add_on.key, None)
        source = SourceConfig(source=add_on.source, revision=add_on.revision)
        try:
            snapshot = open_snapshot(source, self._hub)
            chosen = _choose_files(add_on, snapshot)
            if (needed := sum(snapshot.sizes[file] for file in chosen)) > self._bounds.max_file_bytes:
                raise GenerationError(_explain_size(add_on, needed, self._bounds.max_file_bytes))
            download_files(source, snapshot, self._hub, chosen)
        except ModelFileError as error:
            message = f"{add_on.describe()}: {error}"
            if "was not reached" in str(error) and former is not None and former[0].exists():
                logger.warning("%s: the Hub isn't reached, what it held before is used", add_on.describe())
                return former[0]
            if "was not reached" in str(error) or "became full" in str(error):
                raise OSError(message) from error
            raise GenerationError(message) from error
        if len(chosen) == 1:
            return snapshot.directory / chosen[0]
        return (snapshot.directory / chosen[0]).parent

    # Downloads

    def _download(self, add_on: AddOnConfig) -> Path:
        """From a bucket or a URL."""
        name = hashlib.sha256(add_on.key.encode()).hexdigest()[:16] + (Path(add_on.source).suffix[:12] or ".weights")
        path = self._directory / name
        if self._is_fresh(add_on) == path or (path.is_file() and not add_on.source.startswith("s3://")):
            os.utime(path, (time.time(), path.stat().st_mtime))  # when it was used last
            return path
        self._known.places.pop(add_on.key, None)
        self._directory.mkdir(parents=True, exist_ok=True)
        with _locked(path), self._explained_disk(add_on):
            if path.is_file() and not add_on.source.startswith("s3://"):  # another process brought it meanwhile
                return path
            part = path.with_name(f"{path.name}.part")
            logger.info("%s: downloading", add_on.describe())
            try:
                if not self._fill(add_on, part, path):
                    return path
            finally:
                part.unlink(missing_ok=True)  # of what failed nothing stays on the disk
        self._make_room(path)
        return path

    def _fill(self, add_on: AddOnConfig, part: Path, path: Path) -> bool:
        """Download to ``part``, which becomes ``path``; False where that is what the source still holds."""
        if not add_on.source.startswith("s3://"):
            asyncio.run(self._fetch(add_on, part))
            _check_digest(add_on, _hash_file(part))
            part.replace(path)
            return True
        tag = path.with_name(f"{path.name}.etag")
        known = tag.read_text() if tag.is_file() and path.is_file() else None
        found = download_object(add_on, part, self._bounds.max_file_bytes, known_tag=known)
        if found is None:
            return False
        _check_digest(add_on, _hash_file(part))
        part.replace(path)
        tag.write_text(found)  # behind what it is of: who dies in between fetches it once more
        return True

    @contextmanager
    def _explained_disk(self, add_on: AddOnConfig) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise OSError(
                f"{add_on.describe()}: the disk with {self._directory} became full; give the pod more ephemeral "
                "storage, or a larger volume for its caches"
            ) from error

    async def _fetch(self, add_on: AddOnConfig, part: Path) -> None:
        setting = "spec.downloads.allowedHosts"
        async with Fetcher(
            add_on.allowed_hosts,
            add_on.allowed_networks,
            timeout_seconds=self._bounds.download_seconds,
            setting=setting,
        ) as fetcher:
            try:
                await fetcher.fetch_to_file(add_on.source, part, max_bytes=self._bounds.max_file_bytes)
            except FetchError as error:
                message = f"{add_on.describe()} {error}"
                if error.failure is FetchFailure.TOO_LARGE:
                    message = f"{message}; {SMALLER_OR_MORE}"
                is_transient = error.failure in TRANSIENT_FAILURES or "answered 5" in message or "broke off" in message
                if is_transient:
                    raise OSError(message) from error
                raise GenerationError(message) from error

    def _make_room(self, kept: Path) -> None:
        """Delete what was used least lately, beyond the bound; never what a job may be about to use."""
        files = [file for file in self._directory.iterdir() if file.is_file() and not _is_beside(file)]
        used = {file: file.stat().st_atime for file in files}
        total = sum(file.stat().st_size for file in files)
        for file in sorted(files, key=lambda each: used[each]):
            if total <= self._bounds.max_cache_bytes:
                return
            if file == kept or time.time() - used[file] < self._bounds.keep_seconds:
                continue
            total -= file.stat().st_size
            logger.info("%s is deleted, to make room for other add-ons", file)
            file.unlink(missing_ok=True)
            file.with_name(f"{file.name}.etag").unlink(missing_ok=True)

    # What it is

    def _digest(self, add_on: AddOnConfig, path: Path) -> str:
        """``sha256:`` and the digest of a file, or of a directory's files and names; anew where one has changed."""
        try:
            if path.is_file():
                digest = self._digest_file(path)
            else:
                whole = hashlib.sha256()
                for file in _list_directory(path):
                    whole.update(f"{file.relative_to(path)} {self._digest_file(file)}\n".encode())
                digest = whole.hexdigest()
        except OSError as error:
            self._known.places.pop(add_on.key, None)
            raise OSError(f"{add_on.describe()}: {path} can't be read ({error.strerror})") from error
        _check_digest(add_on, digest)
        return f"sha256:{digest}"

    def _digest_file(self, file: Path) -> str:
        status = file.stat()
        known = (str(file), status.st_size, status.st_mtime_ns, status.st_ino)
        if (digest := self._known.digests.get(known)) is None:
            digest = _hash_file(file)
            with self._known.lock:
                self._known.digests[known] = digest
                if len(self._known.digests) > MAX_REMEMBERED:
                    del self._known.digests[next(iter(self._known.digests))]
        return digest


def _check_digest(add_on: AddOnConfig, digest: str) -> None:
    """Raises GenerationError."""
    if add_on.sha256 not in {None, digest}:
        raise GenerationError(
            f"{add_on.describe()} has the SHA-256 digest {digest}, and {add_on.sha256} is asked for: correct "
            "sha256, or the file"
        )


def _choose_files(add_on: AddOnConfig, snapshot: Snapshot) -> list[str]:
    """What to bring of a repository. Raises GenerationError."""
    sizes = snapshot.sizes
    if add_on.file is not None:
        if add_on.file in sizes:
            return [add_on.file]
        below = [name for name in sizes if name.startswith(f"{add_on.file}/")]
        if f"{add_on.file}/{DIFFUSERS_CONFIG}" in below:
            return _choose_layout(add_on, below, f"{add_on.file}/")
        raise GenerationError(
            f"{add_on.describe()} has no file {add_on.file}; correct file, it has {_name_weights(list(sizes))}"
        )
    if DIFFUSERS_CONFIG in sizes and any(name.startswith(DIFFUSERS_WEIGHTS) for name in sizes):
        return _choose_layout(add_on, list(sizes), "")
    if LORA_WEIGHTS in sizes:
        return [LORA_WEIGHTS]
    if all(name in sizes for name in TRANSFORMERS_LAYOUT):
        return list(TRANSFORMERS_LAYOUT)
    weights = [name for name in sizes if name.endswith(WEIGHTS_SUFFIXES)]
    safe = [name for name in weights if name.endswith(".safetensors")] or weights
    if len(safe) != 1:
        raise GenerationError(
            f"{add_on.describe()} has {len(safe)} files of weights; name one in its file: {_name_weights(list(sizes))}"
        )
    return safe


def _choose_layout(add_on: AddOnConfig, names: list[str], folder: str) -> list[str]:
    """Configuration and weights of diffusers' layout: half as wide ones where there are some."""
    stems = [f"{folder}{DIFFUSERS_WEIGHTS}{end}" for end in (".fp16.safetensors", ".safetensors")]
    found = next((name for name in stems if name in names), None)
    if found is None:
        raise GenerationError(f"{add_on.describe()} has no {stems[1]}; name another repository")
    return [f"{folder}{DIFFUSERS_CONFIG}", found]


def _name_weights(names: list[str]) -> str:
    weights = sorted(name for name in names if name.endswith(WEIGHTS_SUFFIXES))
    return (", ".join(weights[:SHOWN_FILES]) or "none") + (" and more" if len(weights) > SHOWN_FILES else "")


def _list_directory(path: Path) -> list[Path]:
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    return files[:MAX_DIRECTORY_FILES]


def _explain_size(add_on: AddOnConfig, size: int, most: int) -> str:
    return f"{add_on.describe()} has {format_gib(size)}, allowed are {format_gib(most)}; {SMALLER_OR_MORE}"


def _count_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in _list_directory(path))


def _hash_file(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _is_beside(file: Path) -> bool:
    return file.suffix in {".lock", ".etag", ".part"}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among all processes that share the directory."""
    with path.with_name(f"{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
