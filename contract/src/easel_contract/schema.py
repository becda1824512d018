"""Base class and field types of everything that travels as JSON: camelCase on the wire, frozen in memory.

A type with a form of its own has a CEL rule with a sentence, so that ``kubectl apply`` refuses what can't work and says
what to write instead; a bare pattern would only be quoted. The same check holds in Python.
"""

import re
from ipaddress import ip_interface
from typing import Annotated, Any, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A frozen value; unknown fields are errors, so a typo is reported, not ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Itself: nobody changes it, and pydantic would copy each default that holds a dict at each validation."""
        return self

    def to_wire(self) -> dict[str, Any]:
        """This value as JSON-ready data with the names used on the wire; unset optional fields are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


# A Kubernetes resource.Quantity such as "500m", "2Gi", "1e3" or 1, in every form of
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/ that isn't negative.
QUANTITY_PATTERN: Final = r"^[+]?([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"
Quantity = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, Field(max_length=64, pattern=QUANTITY_PATTERN)],
    Field(union_mode="left_to_right"),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 64, "pattern": QUANTITY_PATTERN, "minimum": 0}),
]

# A DNS-1123 name of another object in the same namespace.
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


PORT_PATTERN: Final = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
HOST_PATTERN: Final = r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"


def cel(rule: str, message: str) -> dict[str, Any]:
    """One CEL validation rule of a structural schema."""
    return {"rule": rule, "message": message}


def validations(*rules: dict[str, Any]) -> dict[str, Any]:
    """Schema extension that carries CEL rules."""
    return {"x-kubernetes-validations": list(rules)}


def build_text_type(pattern: str, sentence: str, *, max_length: int) -> Any:
    """The type of a text of a certain form; what doesn't have it is refused with the sentence, which says what does.

    The pattern must mean the same in Python and in RE2, which the API server uses: no ``\\w``, no look-around.
    """
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(sentence)
        return value

    escaped = pattern.replace("\\", "\\\\")
    rule = cel(f"self.matches('^({escaped})$')", sentence)
    return Annotated[str, Field(max_length=max_length, json_schema_extra=validations(rule)), AfterValidator(check)]


HostAndPort = build_text_type(
    f"{HOST_PATTERN}:{PORT_PATTERN}",
    "must be HOST:PORT with a port of 1 to 65535, such as memcached:11211",
    max_length=300,
)
HttpOrigin = build_text_type(
    f"https?://{HOST_PATTERN}(:{PORT_PATTERN})?",
    "must be http:// or https:// and a host, with a port of 1 to 65535 where it needs one, and nothing else: user "
    "names and passwords belong in a Secret",
    max_length=500,
)
WebOrigin = build_text_type(
    f"[*]|null|https?://{HOST_PATTERN}(:{PORT_PATTERN})?",
    "must be a page's origin, such as https://app.example.com with a port where it needs one, or * for any",
    max_length=300,
)
HostName = build_text_type(
    r"[*]|([*][.])?[A-Za-z0-9][A-Za-z0-9._-]*",
    "must be a host's name without scheme and port, such as images.example.com, *.example.com, or * for any",
    max_length=253,
)
ServedHost = build_text_type(
    r"([*][.])?[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*",
    "must be a host's name in lower case, such as images.example.com or *.example.com",
    max_length=253,
)
HttpUrl = build_text_type(
    f"https?://{HOST_PATTERN}(:{PORT_PATTERN})?(/[^\\s?#]*)?",
    "must be http:// or https://, a host, a port of 1 to 65535 where it needs one, and perhaps a path: no user name, "
    "no password, no query",
    max_length=500,
)
HttpBase = build_text_type(
    f"https?://{HOST_PATTERN}(:{PORT_PATTERN})?(/[^\\s?#]*[^\\s?#/])?",
    "must be http:// or https://, a host, a port of 1 to 65535 where it needs one, and perhaps a path that doesn't end "
    "in a slash: no user name, no password, no query",
    max_length=500,
)
# For a container image, a branch, and the like.
Word = build_text_type(r"[^\s]+", "must not be empty or hold white space", max_length=512)

# What <lora:NAME:1> can carry.
AddOnName = build_text_type(
    r"[^<>:\s]([^<>:\n\r\t]*[^<>:\s])?",
    "must be a name that <lora:NAME:1> can carry: without <, > and :, and without white space around it",
    max_length=100,
)
BucketKey = build_text_type(
    r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^\s/][^\s]*",
    "must be s3://BUCKET/KEY, such as s3://studio-weights/loras/ink.safetensors",
    max_length=1024,
)
BucketPrefix = build_text_type(
    r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^\s/][^\s]*[^\s/]",
    "must be s3://BUCKET/PREFIX without a slash at its end, such as s3://studio-models/sdxl-1.0",
    max_length=1024,
)
HttpsUrl = build_text_type(
    r"https://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?/[^\s#]*",
    "must be https://, a host and a path, such as https://weights.example.com/ink.safetensors: no user name, no "
    "password",
    max_length=1024,
)
DownloadHost = build_text_type(
    r"([*][.])?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?",
    "must be a host's name without scheme and port, such as weights.example.com or *.example.com",
    max_length=253,
)

NETWORK_SENTENCE: Final = (
    "must be networks such as 10.0.0.0/8 or fd00::/8, without bits beyond the prefix length, or single addresses"
)


def _check_network(value: object) -> object:
    """ipaddress' own words for 10.0.0.1/8 don't say what to write."""
    try:
        interface = ip_interface(str(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is no network: {NETWORK_SENTENCE}") from error
    if "/" in str(value) and interface.ip != interface.network.network_address:
        raise ValueError(f"{value} has bits beyond its prefix length: write {interface.network} for the network")
    return value


NetworkText = BeforeValidator(_check_network)

# Files that some systems keep beside the IANA database's, and that say nothing, or another thing on each machine.
NO_TIME_ZONES: Final = ("localtime", "posixrules", "Factory")
TIME_ZONE_RULE: Final = cel(
    f"!(self in {list(NO_TIME_ZONES)}) && !self.startsWith('posix/') && !self.startsWith('right/')",
    "must be a time zone of the IANA database, such as Europe/Berlin or UTC",
)


def _check_time_zone(value: str) -> str:
    try:
        if value in NO_TIME_ZONES or value.startswith(("posix/", "right/")):
            raise ValueError("a file beside the database")
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{value!r} is no time zone of the IANA database, such as Europe/Berlin or UTC") from error
    return value


TimeZone = Annotated[
    str,
    Field(min_length=1, max_length=64, json_schema_extra=validations(TIME_ZONE_RULE)),
    AfterValidator(_check_time_zone),
]


# Names of samplers, as AUTOMATIC1111's web UI gave them. What carries each out is the server's to say.
SCHEDULES: Final = ("Karras", "Exponential", "Beta", "SGM Uniform")  # behind a sampler's name
WITH_SCHEDULES: Final = ("Euler", "Heun", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE")
SOLVERS: Final = (
    *("Euler", "Euler a", "Heun", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE"),
    *("DDIM", "PNDM", "UniPC", "LCM"),
)
SAMPLER_NAMES: Final = tuple(
    name
    for solver in SOLVERS
    for name in (solver, *(f"{solver} {schedule}" for schedule in SCHEDULES if solver in WITH_SCHEDULES))
)


def _check_sampler(value: str) -> str:
    if value not in SAMPLER_NAMES:
        raise ValueError(f"{value!r} is no sampler; there are: {', '.join(SAMPLER_NAMES)}")
    return value


SamplerName = Annotated[str, Field(json_schema_extra={"enum": list(SAMPLER_NAMES)}), AfterValidator(_check_sampler)]
