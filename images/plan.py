"""What is built, and with which arguments: pure functions of the source, the base and the engine."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

REGISTRY: Final = "ghcr.io/easel-dev"
SOURCE_URL: Final = "https://github.com/easel-dev/easel"
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
CERTIFICATES: Final = "/run/secrets/certificates"  # where a build stage finds the builder's authorities


@dataclass(frozen=True)
class Image:
    """One image: a target of the Dockerfile."""

    name: str
    requirements: str  # of requirements/NAME.txt
    description: str


IMAGES: Final = (
    Image("operator", "operator", "Easel's operator: keeps services as their resources say, and scales them"),
    Image("gateway", "gateway", "Easel's gateway: the APIs, the queue's front, results; no torch"),
    Image("worker", "server", "Easel's worker: torch and diffusers, with CUDA's libraries"),
)


class PlanError(Exception):
    """What is asked for can't be built; the message says why, and what may be."""


@dataclass(frozen=True)
class Base:
    """The image that all are built on."""

    reference: str  # repository:tag
    digest: str  # sha256:…; empty: the tag decides

    @property
    def pulled(self) -> str:
        """As the engine is asked for it."""
        return f"{self.reference.rpartition(':')[0]}@{self.digest}" if self.digest else self.reference


@dataclass(frozen=True)
class Source:
    """The tree that images are built from."""

    version: str  # the chart's appVersion, also the tag
    revision: str  # commit; with -dirty where the tree differs from it
    created: int  # seconds since 1970: of the commit, so that two builds of one commit agree


def choose_images(names: str) -> tuple[Image, ...]:
    """Those of a list with spaces between; all if it is empty. Raises PlanError."""
    known = {image.name: image for image in IMAGES}
    if unknown := [name for name in names.split() if name not in known]:
        raise PlanError(f"there is no image {', '.join(unknown)}: may be {', '.join(known)}")
    return tuple(image for image in IMAGES if not names.split() or image.name in names.split())


def read_base(text: str) -> Base:
    """The base of a base.env. Raises PlanError for one that can't be read."""
    lines = (line.strip() for line in text.splitlines())
    parts = (line.partition("=") for line in lines if not line.startswith("#"))
    said = {name: value for name, found, value in parts if found}
    digest = said.get("BASE_DIGEST", "")
    if not said.get("BASE_IMAGE"):
        raise PlanError("images/base.env names no BASE_IMAGE, such as docker.io/library/python:3.13-slim")
    if digest and DIGEST.fullmatch(digest) is None:
        raise PlanError(
            f"BASE_DIGEST of images/base.env is {digest!r}: write sha256: and 64 hexadecimal digits, or nothing"
        )
    return Base(said["BASE_IMAGE"], digest)


def write_base(text: str, digest: str) -> str:
    """A base.env with another digest."""
    return re.sub(r"^BASE_DIGEST=.*$", f"BASE_DIGEST={digest}", text, flags=re.MULTILINE)


def read_version(chart: str) -> str:
    """The appVersion of a Chart.yaml. Raises PlanError."""
    found = re.search(r"^appVersion: *[\"']?([^\s\"']+)", chart, re.MULTILINE)
    if found is None:
        raise PlanError("helm/easel/Chart.yaml has no appVersion: it is the images' tag")
    return found[1]


def name_image(image: Image, tag: str) -> str:
    """Repository and tag; the chart's values have the version for the tag."""
    return f"{REGISTRY}/easel-{image.name}:{tag}"


def build_labels(image: Image, source: Source, base: Base) -> dict[str, str]:
    """Annotations of https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md, as labels."""
    labels = {
        "title": f"easel-{image.name}",
        "description": image.description,
        "version": source.version,
        "revision": source.revision,
        "created": datetime.fromtimestamp(source.created, UTC).isoformat().replace("+00:00", "Z"),
        "source": SOURCE_URL,
        "documentation": f"{SOURCE_URL}/blob/main/docs/platform/images.md",
        "licenses": "Apache-2.0",
        "vendor": "easel-dev",
        "base.name": base.reference,
        **({"base.digest": base.digest} if base.digest else {}),
    }
    return {f"org.opencontainers.image.{name}": text for name, text in labels.items()}


@dataclass(frozen=True)
class Options:
    """What a build is told beside what it is of."""

    tag: str
    program: str = "docker"  # or podman
    certificates: Path | None = None  # bundle of the authorities that the builder believes
    index_url: str = ""  # of a package index; empty: pip's own
    platform: str = ""  # such as linux/arm64; empty: the engine's own
    has_cache: bool = True  # whether steps of earlier builds are taken


def build_arguments(image: Image, source: Source, base: Base, options: Options) -> list[str]:
    """Arguments of the engine's ``build``, in the repository's root."""
    arguments = {
        "BASE": base.pulled,
        "IMAGE": image.name,
        "REQUIREMENTS": image.requirements,
        "SOURCE_DATE_EPOCH": str(source.created),
        "REVISION": source.revision,
        **({} if options.certificates is None else {"PIP_CERT": CERTIFICATES}),
        **({"PIP_INDEX_URL": options.index_url} if options.index_url else {}),
    }
    labels = build_labels(image, source, base)
    return [
        *("build", "--file", "images/Dockerfile", "--target", image.name, "--tag", name_image(image, options.tag)),
        *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
        *(word for name, value in labels.items() for word in ("--label", f"{name}={value}")),
        *([] if options.certificates is None else ["--secret", f"id=certificates,src={options.certificates}"]),
        *(["--platform", options.platform] if options.platform else []),
        *([] if options.has_cache else ["--no-cache"]),
        # What docker's BuildKit takes from SOURCE_DATE_EPOCH; here it is also the time of every file.
        *(["--timestamp", str(source.created), "--layers"] if options.program == "podman" else []),
        ".",
    ]
