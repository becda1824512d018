"""The operator's configuration, read once from the environment. Nothing else reads environment variables."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from easel_contract.redis_url import URL_PATTERN
from easel_contract.resource import ServiceDefaults
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, ValidationInfo, field_validator

ENVIRONMENT_PREFIX = "EASEL_"
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
LOGIN = re.compile(r"//[^/\s]*@")  # of a URL: passwords don't go into logs
LISTS = frozenset({"watch_namespaces", "redis_servers", "redis_sentinels"})  # comma-separated in the environment
Places = tuple[Annotated[str, Field(pattern=r"^[^:/@\s]+:[0-9]+$")], ...]  # host:port


class ConfigurationError(Exception):
    """The environment doesn't make a valid configuration; says which variables, and what they must hold."""

    def __init__(self, error: ValidationError) -> None:
        lines = [
            f"{ENVIRONMENT_PREFIX}{str(issue['loc'][0]).upper()}: {_name_place(issue['loc'][1:])}{issue['msg']} "
            f"(value seen: {LOGIN.sub('//…@', repr(issue.get('input')))})"
            for issue in error.errors()
            if issue["loc"]
        ]
        super().__init__("the operator's environment is not valid; set these variables:\n" + "\n".join(lines))


class InstallationConfig(BaseModel):
    """What everything that runs of an installation is told; a subclass has one field per variable of its own."""

    model_config = ConfigDict(frozen=True)

    operator_namespace: str = Field(min_length=1)  # where the operator itself runs: its Lease and certificate
    pod_name: str = "easel-operator"  # identity in the leader election and in Events
    metrics_service: str = "easel-operator"  # name of the Service in front of the external metrics API
    deployment: str = ""  # the operator's own; where it is gone or wants no pods, services are told at the end
    watch_namespaces: tuple[str, ...] = ()  # empty: the whole cluster
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables that are set and not empty.

        Raises:
            ConfigurationError: a required variable is missing or a value is out of bounds.
        """
        values: dict[str, object] = {}
        for field in cls.model_fields:
            text = environment.get(ENVIRONMENT_PREFIX + field.upper(), "").strip()
            if text:
                values[field] = _split(text) if field in LISTS else text
        if "log_level" in values:
            values["log_level"] = str(values["log_level"]).upper()
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigurationError(error) from error


class FarewellConfig(InstallationConfig):
    """Of ``easel-operator farewell``, the Job before an uninstallation."""

    farewell_job: str = Field(min_length=1)  # its own name


class OperatorConfig(InstallationConfig):
    """One field per variable: ``gateway_image`` is read from ``EASEL_GATEWAY_IMAGE``."""

    gateway_image: str = Field(min_length=1)  # image of gateways that name none
    gateway_image_pull_policy: PullPolicy | None = None
    worker_image: str = Field(min_length=1)  # image of workers that name none
    worker_image_pull_policy: PullPolicy | None = None
    service_defaults: Json[ServiceDefaults] = ServiceDefaults()  # JSON: the chart's value defaults
    # Where services keep their queues; goes into a Secret per service. Either the URL, or a Secret of the operator's
    # namespace that has it under "url" and is read again and again.
    redis_url: str = Field(default="", pattern=URL_PATTERN)
    redis_secret: str = Field(default="", validate_default=True)
    redis_ca_file: str = ""  # of authorities in PEM, by which servers are believed that speak TLS; services get it, too
    # Of the installation's own Redis, whose password we keep there: one, or several with a Sentinel beside each.
    redis_servers: Places = ()
    redis_sentinels: Places = ()
    redis_stateful_set: str = ""  # of its pods, that are restarted where they let nobody in
    redis_password_secret: str = ""  # of users, in the same namespace, whose password that one is to have
    redis_password_key: str = "password"  # noqa: S105 - a key of that Secret
    metrics_certificate_secret: str = ""  # of cert-manager, with its certificate; empty: the operator makes one
    external_metrics: Literal["Auto", "Disabled"] = "Auto"  # whether to register that API where nobody has
    cluster_role: str = ""  # the installation's, with which what the operator registers is deleted
    service_account: str = ""  # the operator's own
    secrets_role: str = ""  # a ClusterRole that it binds itself to where services live; empty: its rights are enough
    metrics_port: int = Field(default=6443, ge=0, le=65535)
    health_port: int = Field(default=8081, ge=0, le=65535)
    scrape_interval_seconds: float = Field(default=2.0, gt=0, le=60)
    # Of which the past of the services is read after a restart; not at all if empty.
    prometheus_url: str = Field(default="", pattern=r"^$|^https?://")
    prometheus_token: str = Field(default="", repr=False)  # sent to it as a bearer token
    resync_interval_seconds: float = Field(default=120.0, ge=1)  # every service is looked at anew this often
    reconcile_concurrency: int = Field(default=8, ge=1, le=64)  # services that are reconciled at the same time
    # Services whose workers a newer release of the installation replaces at the same time; 0: none.
    rollout_max_services_at_once: int = Field(default=5, ge=0)
    lease_duration_seconds: float = Field(default=10.0, ge=3)

    @field_validator("redis_secret")
    @classmethod
    def _require_one_of_both(cls, secret: str, info: ValidationInfo) -> str:
        if bool(secret) == bool(info.data.get("redis_url")):
            raise ValueError("set either this or EASEL_REDIS_URL")
        return secret


def _name_place(path: tuple[int | str, ...]) -> str:
    """Where in a variable that holds JSON."""
    return f"{'.'.join(map(str, path))}: " if path else ""


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
