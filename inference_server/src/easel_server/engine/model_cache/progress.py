"""How far a model's cache is: in bytes, measured when somebody asks, and served to the operator as metrics."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from easel_contract import metrics
from easel_contract.server_config import SourceConfig
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from easel_server.engine.model_cache.record import CacheRecord
from easel_server.engine.model_files.hub import Snapshot, name_revision

PARTIAL: Final = "*/*/*.incomplete"  # of the Hub client's layout: blobs that are being received


@dataclass
class Needed:
    """All that a model was found to need; it grows while its parts are looked at. Other threads may read it."""

    root: Path  # of the Hub client's layout
    commits: dict[str, str] = field(default_factory=dict)
    sizes: dict[Path, int] = field(default_factory=dict)  # of files in snapshots
    copies: dict[Path, int] = field(default_factory=dict)  # of objects of buckets
    are_copied: bool = False  # all of these, in their whole length

    def add(self, source: SourceConfig, snapshot: Snapshot, files: tuple[str, ...]) -> None:
        """As the Hub's ``on_needed``."""
        self.commits[name_revision(source)] = snapshot.commit
        # Another dictionary, since a thread that measures may be walking over this one.
        self.sizes = self.sizes | {snapshot.directory / file: snapshot.sizes[file] for file in files}

    def add_copies(self, sizes: dict[Path, int]) -> None:
        """Of another bucket."""
        self.copies = self.copies | sizes

    def to_record(self) -> CacheRecord:
        """What workers read."""
        files = {str(file.relative_to(self.root)): size for file, size in self.sizes.items()}
        copies = {str(file.relative_to(self.root.parent)): size for file, size in self.copies.items()}
        return CacheRecord(commits=dict(self.commits), files=files, copies=copies)


@dataclass
class Progress:
    """Of one filling. The thread that fills writes it, others measure."""

    needed: Needed | None = None  # None: nothing was looked at yet
    verified_bytes: int = 0

    def begin(self, root: Path) -> Needed:
        """Another attempt, of which nothing is known yet."""
        self.verified_bytes = 0
        self.needed = Needed(root)
        return self.needed

    def measure(self) -> dict[str, int]:
        """Bytes by state: needed as far as is known, of them here, of these compared with the Hub's hashes."""
        if self.needed is None or not (self.needed.sizes or self.needed.copies):
            return {}
        sizes, copies, root = self.needed.sizes, self.needed.copies, self.needed.root
        total = sum(sizes.values()) + sum(copies.values())
        here = sum(size for file, size in (sizes | copies).items() if file.is_file())
        repositories = {file.relative_to(root).parts[0] for file in sizes}
        parts = [part for part in root.glob(PARTIAL) if part.relative_to(root).parts[0] in repositories]
        parts += [part for file in copies for part in file.parent.glob(f".{glob.escape(file.name)}.*.part")]
        fetched = min(total, here + sum(map(_read_size, parts)))
        verified = self.verified_bytes + (sum(copies.values()) if self.needed.are_copied else 0)
        return {
            metrics.STATE_NEEDED: total,
            metrics.STATE_FETCHED: fetched,
            metrics.STATE_VERIFIED: min(verified, fetched),
        }


def _read_size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # it is whole since, and has another name
        return 0


class _Figures(Collector):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            metrics.MODEL_CACHE_BYTES,
            "Bytes of the model: that it needs, that are in its cache, and that were compared with the Hub's hashes.",
            labels=[metrics.LABEL_STATE],
        )
        for state, size in self._progress.measure().items():
            family.add_metric([state], size)
        yield family


def build_registry(progress: Progress | None = None) -> CollectorRegistry:
    """With the metrics of it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(progress or Progress()))
    return registry


def serve_progress(progress: Progress, *, host: str, port: int) -> int:
    """Serve it under /metrics by threads that end with the process; the port. Raises OSError where it is taken."""
    server, _ = start_http_server(port, addr=host, registry=build_registry(progress))
    return int(server.server_port)
