"""Weights that requests may ask for beside the model, and where they come from."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from easel_contract.add_ons import DEFAULT_ADD_ON_FILE_BYTES, MAX_WEIGHT
from easel_contract.gateway_config import MAX_NETWORKS, NETWORK_RULES, Network
from easel_contract.resource.egress import EgressSpec
from easel_contract.resource.model import PATH_PATTERN, REPOSITORY_PATTERN
from easel_contract.schema import (
    AddOnName,
    BucketKey,
    DownloadHost,
    HttpOrigin,
    HttpsUrl,
    Model,
    ObjectName,
    Word,
    cel,
    validations,
)

MAX_LISTED: Final = 256  # of a kind; with more, the API server would refuse the rules as too costly
MAX_PREPROCESSORS: Final = 16
MAX_ALLOWED_HOSTS: Final = 32
ONE_SOURCE: Final = "exactly one of huggingFace, persistentVolumeClaim, s3 and url must be set"
HOST_NOT_ALLOWED: Final = "the host of a source's url must be in downloads.allowedHosts, by its name or as *.DOMAIN"


class HubAddOn(Model):
    """A file or a directory of a repository on the Hugging Face Hub."""

    repository: str = Field(
        min_length=1,
        max_length=200,
        pattern=REPOSITORY_PATTERN,
        description="Repository id, such as someone/ink.",
    )
    revision: Word | None = Field(
        default=None,
        description="Branch, tag or commit; the repository's default if unset. What a branch holds is looked up again "
        "after some minutes.",
    )
    file: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        pattern=f"^{PATH_PATTERN}$",
        description="File of the repository. Unset: the one that a repository of this kind has; where there are "
        "several, requests are refused with their names.",
    )


class VolumeAddOn(Model):
    """A file, or a directory in diffusers' layout, on a PersistentVolumeClaim of the same namespace."""

    claim_name: ObjectName = Field(description="Name of the PersistentVolumeClaim; mounted read-only in workers.")
    path: str = Field(
        min_length=1,
        max_length=1024,
        pattern=f"^{PATH_PATTERN}$",
        description="Where it is on the volume; nothing outside of it is read. A file that changes is read anew.",
    )


class BucketAddOn(Model):
    """An object of an S3-compatible bucket."""

    uri: BucketKey = Field(description="s3://BUCKET/KEY.")
    endpoint: HttpOrigin | None = Field(default=None, description="Of the bucket's server; AWS if unset.")
    region: Word | None = Field(default=None, description="Of the bucket; us-east-1 if unset.")
    credentials_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with `access-key-id` and `secret-access-key`, mounted in workers. Unset: the pods' own "
        "identity.",
    )


class UrlAddOn(Model):
    """A file that is fetched by HTTPS, once."""

    address: HttpsUrl = Field(description="Where it is; its host must be in downloads.allowedHosts.")
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        max_length=64,
        description="Digest that the file must have. Unset: whatever comes is taken.",
    )


class AddOnSource(Model):
    """Where the weights come from: exactly one member."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "[has(self.huggingFace), has(self.persistentVolumeClaim), has(self.s3), has(self.url)]"
                ".filter(each, each).size() == 1",
                ONE_SOURCE,
            )
        )
    )

    hugging_face: HubAddOn | None = None
    persistent_volume_claim: VolumeAddOn | None = None
    s3: BucketAddOn | None = None
    url: UrlAddOn | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(each is not None for each in (self.hugging_face, self.persistent_volume_claim, self.s3, self.url)) != 1:
            raise ValueError(ONE_SOURCE)
        return self


class AddOnSpec(Model):
    """Weights that requests may ask for by name."""

    name: AddOnName = Field(min_length=1, description="What requests call it.")
    source: AddOnSource


class AdapterSpec(AddOnSpec):
    """A LoRA."""

    default_weight: float = Field(
        default=1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT, description="Where a request names no weight."
    )
    models: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=(), max_length=16, description="Names of the models that it is for, as /v1/models has them; empty: any."
    )


class ControlNetSpec(AddOnSpec):
    """A ControlNet."""


class UpscalerSpec(AddOnSpec):
    """A network that enlarges images."""


class PreprocessorSpec(AddOnSpec):
    """A network that makes control images."""


def _check_names(listed: tuple[AddOnSpec, ...]) -> tuple[AddOnSpec, ...]:
    names = [each.name for each in listed]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the names must differ, got {twice!r} twice")
    return listed


BY_NAME: Final = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
ADAPTERS_DESCRIPTION: Final = (
    "LoRAs that requests may use; a new one replaces no pod, unless its volume isn't mounted yet."
)
Adapters = Annotated[
    tuple[AdapterSpec, ...],
    Field(default=(), max_length=MAX_LISTED, description=ADAPTERS_DESCRIPTION, json_schema_extra=BY_NAME),
    AfterValidator(_check_names),
]
ControlNets = Annotated[
    tuple[ControlNetSpec, ...],
    Field(
        default=(),
        max_length=MAX_LISTED,
        description="ControlNets that requests may use.",
        json_schema_extra=BY_NAME,
    ),
    AfterValidator(_check_names),
]
Upscalers = Annotated[
    tuple[UpscalerSpec, ...],
    Field(
        default=(),
        max_length=MAX_LISTED,
        description="Upscalers that requests may use beside those that need no weights.",
        json_schema_extra=BY_NAME,
    ),
    AfterValidator(_check_names),
]


Preprocessors = Annotated[
    tuple[PreprocessorSpec, ...],
    Field(
        default=(),
        max_length=MAX_PREPROCESSORS,
        description="Networks that make control images for ControlNets: depth, in the layout of transformers.",
        json_schema_extra=BY_NAME,
    ),
    AfterValidator(_check_names),
]


class DownloadsSpec(EgressSpec):
    """How workers get to the Hub, and what they may fetch of adapters, ControlNets, upscalers and preprocessors."""

    allowed_hosts: tuple[DownloadHost, ...] = Field(
        default=(),
        max_length=MAX_ALLOWED_HOSTS,
        description="Hosts that sources by url may be on and redirect to, by name or as `*.DOMAIN` for all below one.",
    )
    allowed_networks: tuple[Network, ...] = Field(
        default=(),
        max_length=MAX_NETWORKS,
        description="Networks in CIDR form that those hosts may be in although they are private.",
        json_schema_extra=NETWORK_RULES,
    )
    token_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with a Hub token under the key `token`, for gated or private repositories; all are fetched "
        "with the model's own, where that has one. Must be the same then.",
    )
    max_file_bytes: int = Field(
        default=DEFAULT_ADD_ON_FILE_BYTES,
        ge=1 << 20,
        le=64 << 30,
        description="Size of the largest file that is downloaded for one; of several in a repository, of all together.",
    )


def find_stranger(listed: Iterable[AddOnSpec], hosts: Sequence[str]) -> str | None:
    """The host of the first source by url that isn't allowed."""
    for each in listed:
        if each.source.url is not None:
            host = (urlsplit(each.source.url.address).hostname or "").lower()
            if not any(host == one.lower() or (one[:2] == "*." and host.endswith(one[1:].lower())) for one in hosts):
                return host
    return None


def _hosts_rule(member: str) -> dict[str, str]:
    return cel(
        f"!has(self.{member}) || self.{member}.all(each, !has(each.source.url) || (has(self.downloads) "
        "&& has(self.downloads.allowedHosts) && self.downloads.allowedHosts.exists(host, "
        "host.startsWith('*.') ? url(each.source.url.address).getHostname().endsWith(host.substring(1)) "
        ": url(each.source.url.address).getHostname() == host)))",
        HOST_NOT_ALLOWED,
    )


ADD_ON_RULES: Final = tuple(_hosts_rule(member) for member in ("adapters", "controlNets", "upscalers", "preprocessors"))
