"""Images of Easel's pods: put on a cluster's nodes under names of their content, so that each is loaded once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from kindcluster.command import run_aloud
from kindcluster.engine import FOLDER, Engine

ID_CHARACTERS = 12


@dataclass(frozen=True)
class PodImage:
    """An image of the engine, and which of the chart's values names it."""

    value: str  # such as operator.image
    reference: str  # repository:tag, in the engine
    id: str

    @property
    def repository(self) -> str:
        """Without the tag."""
        return self.reference.rpartition(":")[0]

    @property
    def tag(self) -> str:
        """As the nodes have it. It follows the content: a changed image is loaded, and its pods are replaced."""
        return f"{self.reference.rpartition(':')[2]}-{self.id[:ID_CHARACTERS]}"

    @property
    def name_on_nodes(self) -> str:
        """repository:tag, on the nodes."""
        return f"{self.repository}:{self.tag}"


def list_references(engine: Engine, chart: Path, images: Mapping[str, str]) -> dict[str, str]:
    """The chart's value → repository:tag in the engine, of what runs and of Redis.

    ``images``: which image what runs has, such as worker → worker. Redis has the chart's own, or where no registry
    gives it a stand-in from Debian's package, said aloud.
    """
    values = yaml.safe_load((chart / "values.yaml").read_text())
    version = yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"]  # as scripts/images.sh tags
    redis = values["redis"]["image"]
    redis_image = run_aloud(FOLDER / "redis_image.sh", f"{redis['repository']}:{redis['tag']}", env=engine.environment)
    own = {f"{part}.image": f"{values[image]['image']['repository']}:{version}" for part, image in images.items()}
    return {**own, "redis.image": redis_image}


def read_images(engine: Engine, references: Mapping[str, str]) -> tuple[PodImage, ...]:
    """Images that the engine has; ``references``: the chart's value → repository:tag. Raises ClusterError."""
    return tuple(PodImage(value, each, engine.read_id(each)) for value, each in references.items())


def list_values(images: Iterable[PodImage]) -> list[str]:
    """Helm's arguments by which the chart uses what the nodes have."""
    values: list[str] = []
    for image in images:
        for key, text in (("repository", image.repository), ("tag", image.tag)):
            values += ["--set-string", f"{image.value}.{key}={text}"]
    return values


def find_missing(images: Iterable[PodImage], present: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Name on the nodes → nodes that lack it. ``present``: node → names of its images."""
    wanted = {image.name_on_nodes for image in images}
    lacking = {name: [node for node, names in present.items() if name not in names] for name in sorted(wanted)}
    return {name: nodes for name, nodes in lacking.items() if nodes}


def load_images(
    engine: Engine, cluster: str, nodes: Iterable[str], images: Iterable[PodImage], folder: Path
) -> list[str]:
    """Load what nodes lack; returns its names. ``folder`` holds one archive at a time. Raises ClusterError."""
    images = tuple(images)
    names = {image.name_on_nodes: image for image in images}
    missing = find_missing(images, {node: _list_names(engine, node) for node in nodes})
    archive = folder / "image.tar"
    for name, lacking in missing.items():
        engine.call("tag", names[name].reference, name)
        try:
            engine.save(name, archive)
            engine.kind("load", "image-archive", "--name", cluster, "--nodes", ",".join(lacking), archive)
        finally:
            archive.unlink(missing_ok=True)
            engine.call("rmi", name)  # the name alone: the image has another
    return list(missing)


def _list_names(engine: Engine, node: str) -> set[str]:
    return set(engine.call("exec", node, "ctr", "--namespace=k8s.io", "images", "ls", "-q").split())
