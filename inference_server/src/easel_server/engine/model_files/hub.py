"""Brings files of a repository of the Hugging Face Hub, downloaded or from its cache: what is loaded and nothing else.

The Hub client's errors become ModelFileError here and nowhere else. Where the Hub is (``HF_ENDPOINT``), whether it may
be asked (``HF_HUB_OFFLINE``) and where files are kept (``HF_HOME``) is the client's own to read.
"""

import errno
import glob
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from easel_contract.server_config import SourceConfig
from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from easel_server.engine.model_files.local import list_sizes
from easel_server.engine.model_files.selection import ModelFileError, Selection, choose_files, format_gib
from easel_server.generation.models import MODEL_INDEX

RETRY_DELAYS_SECONDS = (2.0, 5.0, 15.0)  # between attempts while the Hub can't be reached
ACCESS_REFUSED = frozenset({401, 403})
DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
SPARE_DISK_BYTES: Final = 64 << 20  # besides the files: the cache's own, and those of libraries
SHOWN_FILES: Final = 8

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Wording:
    """What messages call what is fetched, and the settings that say what."""

    subject: str = "the model"
    source: str = "model.source"
    revision: str = "model.source.huggingFace.revision"
    token: str = "model.source.huggingFace.tokenSecretName"  # noqa: S105  # a field's name


@dataclass(frozen=True)
class Hub:
    """How the Hub is asked."""

    token: str | None
    pause: Callable[[float], None] = time.sleep  # called with the seconds between attempts
    wording: Wording = Wording()
    directory: Path | None = None  # where files are kept; None: in the client's own place
    # Of a directory that was filled before, which commit stands for a source, by ``name_revision`` (for others, as its
    # refs say): nothing is asked of the Hub then.
    filled: Mapping[str, str] | None = None
    # Called with all files of a commit that are needed, here or not, before those that are missing are brought.
    on_needed: Callable[[SourceConfig, "Snapshot", tuple[str, ...]], None] = lambda _source, _snapshot, _files: None

    @property
    def cache(self) -> Path:
        """Where files are."""
        return Path(constants.HF_HUB_CACHE) if self.directory is None else self.directory


def name_revision(source: SourceConfig) -> str:
    """What a record calls a revision: ``REPOSITORY@REVISION``."""
    return f"{source.source}@{source.revision or constants.DEFAULT_REVISION}"


@dataclass(frozen=True)
class Snapshot:
    """A commit of a repository, as far as it is on this machine."""

    directory: Path
    sizes: Mapping[str, int]  # bytes of all files of the commit, here or not

    @property
    def commit(self) -> str:
        """The commit's hash."""
        return self.directory.name


def open_snapshot(source: SourceConfig, hub: Hub) -> Snapshot:
    """What a repository holds; its model_index.json is here, if it has one. Blocks. Raises ModelFileError."""

    def look() -> Snapshot:
        directory = Path(
            snapshot_download(
                source.source,
                revision=(hub.filled or {}).get(name_revision(source), source.revision),
                token=hub.token or False,
                allow_patterns=[MODEL_INDEX],
                cache_dir=hub.cache,
                local_files_only=hub.filled is not None,
            )
        )
        try:
            tree = get_cached_repo_tree(source.source, revision=directory.name, cache_dir=hub.cache)
        except CachedRepoTreeNotFoundError:  # filled by an older client: what is here is all that is known
            return Snapshot(directory, list_sizes(directory))
        return Snapshot(directory, {file.path: file.size for file in tree})

    return _persist(source, hub, look)


def download_pipeline(
    source: SourceConfig,
    snapshot: Snapshot,
    hub: Hub,
    *,
    dtype: str,
    allow_pickles: bool,
    skipped: frozenset[str] = frozenset(),
) -> Selection:
    """Bring what is loaded of a pipeline; arguments as of ``choose_files``. Raises ModelFileError."""
    if not (snapshot.directory / MODEL_INDEX).is_file():
        raise ModelFileError(_explain_no_index(source, snapshot))
    selection = choose_files(
        read_index(snapshot.directory),
        snapshot.sizes,
        variant=source.variant,
        dtype=dtype,
        allow_pickles=allow_pickles,
        skipped=skipped,
    )
    download_files(source, snapshot, hub, selection.files)
    return selection


def download_files(source: SourceConfig, snapshot: Snapshot, hub: Hub, files: Iterable[str]) -> None:
    """Bring files of a commit that aren't here yet; what an earlier attempt began is gone on with."""
    needed = tuple(files)
    hub.on_needed(source, snapshot, needed)
    missing = {file: snapshot.sizes[file] for file in needed if not (snapshot.directory / file).is_file()}
    if not missing:
        return
    if hub.filled is not None or constants.is_offline_mode():
        raise ModelFileError(_explain_offline(source, missing, hub))
    _check_disk(source, missing, snapshot.directory, hub)
    logger.info("%s: downloading %s in %d files", source.source, format_gib(sum(missing.values())), len(missing))
    # The patterns are the client's; these match nothing but the files themselves.
    patterns = [glob.escape(file) for file in missing]
    _persist(
        source,
        hub,
        lambda: snapshot_download(
            source.source,
            revision=snapshot.commit,
            token=hub.token or False,
            allow_patterns=patterns,
            cache_dir=hub.cache,
        ),
    )


def read_index(directory: Path) -> dict[str, Any]:
    """The content of a directory's model_index.json. Raises ModelFileError."""
    file = directory / MODEL_INDEX
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{file} can't be read ({error}); download the model again") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{file} is no JSON object; download the model again")
    return content


def _persist(source: SourceConfig, hub: Hub, ask: Callable[[], Result]) -> Result:
    """The answer, asked for again while the Hub can't be reached. Raises ModelFileError."""
    for delay_seconds in (*RETRY_DELAYS_SECONDS, None):
        try:
            # token=False keeps the client from picking up a login of whoever runs this process.
            return ask()
        # The client lets the errors of its HTTP library through, and changes that library between versions.
        except Exception as error:
            permanent = _explain(source, error, hub)
            if permanent is not None:
                raise ModelFileError(permanent) from error
            if delay_seconds is None:
                raise ModelFileError(_explain_unreachable(source, error, hub)) from error
            logger.warning("%s: Hub not reached, trying again in %g s", source.source, delay_seconds)
            hub.pause(delay_seconds)
    raise AssertionError("the loop returns or raises")


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _explain(source: SourceConfig, error: Exception, hub: Hub) -> str | None:
    """What the user must change, or None if trying again may help."""
    access, words = _token_advice(hub), hub.wording
    # The first class that fits speaks: subclasses come before their bases.
    sentences: dict[type[Exception], str] = {
        GatedRepoError: f"is gated: accept its licence on its page, then {access}",
        RevisionNotFoundError: f"has no revision {source.revision!r}; check {words.revision}",
        RepositoryNotFoundError: f"does not exist or is private: check {words.source}, or {access}",
        HFValidationError: f"is no repository id; {words.source} must be OWNER/NAME or an absolute path",
        RemoteEntryNotFoundError: "doesn't have a file that its own list names; try another revision",
    }
    for cause in _causes(error):
        sentence = next((text for kind, text in sentences.items() if isinstance(cause, kind)), None)
        if sentence is None and isinstance(cause, HfHubHTTPError) and cause.response.status_code in ACCESS_REFUSED:
            sentence = f"refused access (HTTP {cause.response.status_code}): {access}"
        if sentence is not None:
            return f"{source.source} on the Hugging Face Hub {sentence}"
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return (
                f"the disk with the Hub's cache ({hub.cache}) became full while {source.source} was "
                f"downloaded; {_advise_on_room(hub)}"
            )
    is_offline = hub.filled is not None or constants.is_offline_mode()
    if is_offline and isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return _explain_offline(source, {}, hub)
    return None


def _explain_offline(source: SourceConfig, missing: Mapping[str, int], hub: Hub) -> str:
    what = f"revision {source.revision or 'main'}"
    if missing:
        shown = ", ".join(list(missing)[:SHOWN_FILES])
        what = f"{len(missing)} files ({format_gib(sum(missing.values()))}: {shown})"
    if hub.filled is not None:
        return (
            f"of {source.source} the model cache {hub.cache} lacks {what}; fill it with `hf download --cache-dir`, or "
            "let Easel's Job do it (model.cache.fill: Job)"
        )
    return (
        f"HF_HUB_OFFLINE is set, and of {source.source} the cache {hub.cache} lacks {what}; fill it "
        f"with `hf download` where there is network, unset HF_HUB_OFFLINE (downloads.offline), or put "
        f"{hub.wording.subject} on a volume"
    )


def _explain_no_index(source: SourceConfig, snapshot: Snapshot) -> str:
    single = [file for file in sorted(snapshot.sizes) if file.endswith((".safetensors", ".ckpt"))]
    files = ", ".join(f"{file} ({format_gib(snapshot.sizes[file])})" for file in single[:SHOWN_FILES])
    advice = f"; it has single files, name one in model.source.huggingFace.file: {files}" if single else ""
    return (
        f"{source.source} on the Hugging Face Hub has no {MODEL_INDEX}: model.source must name a pipeline in "
        f"diffusers' layout{advice}"
    )


def _check_disk(source: SourceConfig, missing: Mapping[str, int], directory: Path, hub: Hub) -> None:
    needed = sum(missing.values()) + SPARE_DISK_BYTES
    # Nothing of a repository without model_index.json is here yet, not even the directory.
    free = shutil.disk_usage(next(each for each in (directory, *directory.parents) if each.exists())).free
    if needed > free:
        raise ModelFileError(
            f"{source.source} needs {format_gib(needed)} on the disk with the Hub's cache ({hub.cache}), "
            f"and {format_gib(free)} are free; {_advise_on_room(hub)}"
        )


def _advise_on_room(hub: Hub) -> str:
    if hub.directory is not None:
        return "make the claim of model.cache larger"
    return f"give the pod more ephemeral storage, or put {hub.wording.subject} on a volume"


def _token_advice(hub: Hub) -> str:
    if hub.token:
        return f"give the token in the Secret named by {hub.wording.token} read access to it"
    return f"set {hub.wording.token} to a Secret with a Hub token that may read it"


def _explain_unreachable(source: SourceConfig, error: Exception, hub: Hub) -> str:
    last = list(_causes(error))[-1]
    attempts = len(RETRY_DELAYS_SECONDS) + 1
    endpoint = os.environ.get("HF_ENDPOINT")
    where = f" at {endpoint} (HF_ENDPOINT)" if endpoint else ""
    return (
        f"the Hugging Face Hub{where} was not reached for {source.source} in {attempts} attempts "
        f"(last: {type(last).__name__}: {str(last).splitlines()[0] if str(last) else 'no detail'}); "
        f"check the pods' network egress and proxy, or put {hub.wording.subject} on a volume and name its path in "
        f"{hub.wording.source}"
    )
