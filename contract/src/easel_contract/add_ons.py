"""Add-ons: weights that requests may ask for beside the model, as the server's configuration has them."""

import hashlib
from typing import Final
from urllib.parse import urlsplit

from pydantic import Field, IPvAnyNetwork

from easel_contract.schema import Model

MAX_ADD_ONS: Final = 512  # of a kind, in a service
KEY_CHARACTERS: Final = 16  # 64 bits tell apart the few sources of a service
DEFAULT_ADD_ON_FILE_BYTES: Final = 8 << 30  # Flux' ControlNets have 6.6 GB
MAX_WEIGHT: Final = 10.0  # of an adapter, and of a ControlNet, above 0 or below


class AddOnConfig(Model):
    """Where the weights of one come from. A job carries those that it uses, so that workers need no list."""

    name: str = Field(min_length=1, max_length=200)  # as clients say it
    # A Hugging Face Hub id, the absolute path of a file or of a directory that isn't left, s3://BUCKET/KEY or https://…
    source: str = Field(min_length=1)
    revision: str | None = None  # of the Hub
    file: str | None = None  # below the source, where that is a repository or a directory
    sha256: str | None = None  # that the file must have
    endpoint: str | None = None  # of s3://…, where it isn't AWS
    region: str | None = None  # likewise
    credentials_directory: str | None = None  # on workers; None: the pod's own identity
    # Of https://…: where it and what it redirects to may lead. They travel along: workers have no list of those.
    allowed_hosts: tuple[str, ...] = ()
    allowed_networks: tuple[IPvAnyNetwork, ...] = ()  # though they are no public ones

    @property
    def key(self) -> str:
        """Equal where the weights come from the same place; part of what says which images are the same."""
        parts = (self.source, self.revision, self.file, self.sha256, self.endpoint)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:KEY_CHARACTERS]

    def describe(self) -> str:
        """Such as ``ink (someone/ink)``, for messages and logs: of a URL without what may be a secret in it."""
        return f"{self.name} ({_hide_secrets(self.source)})"


def _hide_secrets(source: str) -> str:
    """A source without the user's name, the password and the query that a URL may have: signed ones have a token."""
    if "://" not in source:
        return source
    scheme, _, _ = source.partition("://")
    try:
        parts = urlsplit(source)
    except ValueError:
        return f"{scheme}://…"
    hidden = "?…" if parts.query or parts.fragment else ""
    return f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{hidden}"


class AdapterConfig(AddOnConfig):
    """A LoRA."""

    default_weight: float = Field(default=1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT)  # where a request names none
    models: tuple[str, ...] = ()  # names of those that it is for; empty: any


class ControlNetConfig(AddOnConfig):
    """A network that holds an image to the edges, depth, pose, … of another."""


class UpscalerConfig(AddOnConfig):
    """A network that enlarges images."""


class PreprocessorConfig(AddOnConfig):
    """A network that makes control images: of an image how far each of its points is away."""


class AddOnsConfig(Model):
    """All of a service."""

    adapters: tuple[AdapterConfig, ...] = Field(default=(), max_length=MAX_ADD_ONS)
    control_nets: tuple[ControlNetConfig, ...] = Field(default=(), max_length=MAX_ADD_ONS)
    upscalers: tuple[UpscalerConfig, ...] = Field(default=(), max_length=MAX_ADD_ONS)
    # Left out where there are none: processes of the version before refuse what they don't know
    preprocessors: tuple[PreprocessorConfig, ...] = Field(
        default=(), max_length=MAX_ADD_ONS, exclude_if=lambda value: not value
    )

    def list_adapters(self, model: str) -> tuple[AdapterConfig, ...]:
        """Those that are for a model of this name."""
        return tuple(each for each in self.adapters if not each.models or model in each.models)
