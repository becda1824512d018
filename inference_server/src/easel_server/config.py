"""What a process is configured with: command line, environment and configuration file, as one frozen value."""

import base64
import os
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from socket import gethostname

from easel_contract import names
from easel_contract.add_ons import AdapterConfig, ControlNetConfig, PreprocessorConfig, UpscalerConfig
from easel_contract.gateway_config import GatewayConfig
from easel_contract.keys import MAX_LINK_KEYS, MIN_LINK_KEY_CHARACTERS, parse_link_keys
from easel_contract.server_config import EngineKind, ModelConfig, ServerConfig
from pydantic import ValidationError

ENV_LOG_LEVEL = "EASEL_LOG_LEVEL"
LOG_LEVELS = ("debug", "info", "warning", "error")
SYNTHETIC_MODEL = "synthetic"  # its name if none is given: the synthetic engine has no files
LOOPBACK = "127.0.0.1"  # where everybody who can reach a process may use it
ALL_INTERFACES = "0.0.0.0"  # noqa: S104  # a pod is reached by its own address; the network policy says by whom


class Role(StrEnum):
    """What a process does."""

    ALL = "all"  # gateway and worker in one; without Redis the queue is in memory
    GATEWAY = "gateway"
    WORKER = "worker"
    MODEL_CACHE = "model-cache"  # brings what workers load onto a volume, and ends


class SettingsError(Exception):
    """The process can't start as it was configured; one line that says what to change."""


@dataclass(frozen=True)
class Settings:
    """Everything a process is configured with."""

    role: Role
    config: ServerConfig
    config_file: Path | None  # where it was read from
    host: str
    port: int
    metrics_port: int | None  # of metrics and probes; None: the one of the APIs
    log_level: str
    pod_name: str
    redis_url: str | None = field(repr=False)
    redis_url_file: Path | None  # whose user and password count for new connections
    webhook_secrets: tuple[str, ...] = field(repr=False)  # all sign; receivers may know any of them
    hub_token: str | None = field(repr=False)
    link_keys: str = field(default="", repr=False)  # separated by white space; the first signs


def read_settings(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the command line and the environment.

    Raises SettingsError, and SystemExit for a command line that argparse refuses.
    """
    parsed = _build_parser().parse_args(arguments)
    role = Role(parsed.role)
    redis_url = environment.get(names.ENV_REDIS_URL) or None
    if role in {Role.GATEWAY, Role.WORKER} and redis_url is None:
        raise SettingsError(
            f"role {role} needs a Redis that it shares with the other role: set {names.ENV_REDIS_URL}, such as "
            "redis://localhost:6379/0, or start with --role all, which needs none"
        )
    log_level = environment.get(ENV_LOG_LEVEL, "info").lower()
    if log_level not in LOG_LEVELS:
        raise SettingsError(f"{ENV_LOG_LEVEL}={log_level!r}: must be one of {', '.join(LOG_LEVELS)}")
    config = _read_config(parsed.config, parsed.model, parsed.engine)
    config = _add(
        config,
        adapters=parsed.adapter,
        control_nets=parsed.control_net,
        upscalers=parsed.upscaler,
        preprocessors=parsed.preprocessor,
    )
    config = _allow(config, hosts=parsed.allowed_host, origins=parsed.allowed_origin)
    return Settings(
        role=role,
        config=config,
        config_file=parsed.config,
        host=parsed.host or (LOOPBACK if config.gateway.api_keys_directory is None else ALL_INTERFACES),
        port=parsed.port,
        metrics_port=parsed.metrics_port,
        log_level=log_level,
        pod_name=environment.get(names.ENV_POD_NAME) or gethostname(),
        redis_url=redis_url,
        redis_url_file=Path(file) if (file := environment.get(names.ENV_REDIS_URL_FILE)) else None,
        webhook_secrets=_read_webhook_secrets(environment),
        hub_token=environment.get(names.ENV_HUB_TOKEN) or None,
        link_keys=_read_link_keys(environment),
    )


def _read_link_keys(environment: Mapping[str, str]) -> str:
    text = environment.get(names.ENV_LINK_KEYS, "")
    if text.strip() and len(parse_link_keys(text)) != len(text.split()):
        raise SettingsError(
            f"{names.ENV_LINK_KEYS} holds a key that is too short, or more than {MAX_LINK_KEYS} keys: each must have "
            f"{MIN_LINK_KEY_CHARACTERS} characters; make one with: openssl rand -hex 32"
        )
    return text


def _read_webhook_secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys, separated by white space: one, or two while receivers change from one to the other."""
    secrets = tuple((environment.get(names.ENV_WEBHOOK_SECRET) or "").split())
    try:
        is_valid = all(base64.b64decode(secret.removeprefix("whsec_"), validate=True) for secret in secrets)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise SettingsError(
            f"{names.ENV_WEBHOOK_SECRET} is not base64; make one with: echo whsec_$(openssl rand -base64 32)"
        )
    return secrets


def _build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="easel-server",
        description="Easel's inference server. On a laptop: easel-server --model DIRECTORY_OR_HUB_ID",
    )
    parser.add_argument("--role", choices=[role.value for role in Role], default=Role.ALL.value)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration file (JSON), as the operator writes it"
    )
    parser.add_argument("--model", metavar="SOURCE", help="a model's directory, or its id on the Hugging Face Hub")
    for option, kind in (
        ("adapter", "a LoRA"),
        ("control-net", "a ControlNet"),
        ("upscaler", "an upscaler"),
        ("preprocessor", "a network that makes control images"),
    ):
        parser.add_argument(
            f"--{option}",
            action="append",
            default=[],
            metavar="NAME=SOURCE[:FILE]",
            help=f"{kind} that requests may ask for by NAME; SOURCE as of --model, FILE below it; repeatable",
        )
    parser.add_argument(
        "--engine",
        choices=[kind.value.lower() for kind in EngineKind],
        help="what generates: diffusers (default), or synthetic, which makes labelled images without a model",
    )
    parser.add_argument(
        "--host", help=f"address to listen on (default: all where API keys are asked for, else {LOOPBACK})"
    )
    parser.add_argument("--port", type=int, default=names.HTTP_PORT, help="port to listen on; 0 takes a free one")
    parser.add_argument(
        "--metrics-port",
        type=int,
        help="port of its own for /metrics and the probes, which ask for no key; without it they are on --port, and "
        "where keys are asked for, /metrics is nowhere",
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that the service may be called by without API keys, besides localhost and addresses; repeatable",
    )
    parser.add_argument(
        "--allowed-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="another site whose pages may use the service, such as https://app.example.com; repeatable",
    )
    parser.add_argument("--version", action="version", version=f"easel-server {version(names.DISTRIBUTION)}")
    return parser


def _read_config(file: Path | None, model: str | None, engine: str | None) -> ServerConfig:
    """The file, with what the command line says in its place."""
    kind = None if engine is None else EngineKind(engine.capitalize())
    if file is not None:
        config = _read_file(file)
    elif model is not None or kind is EngineKind.SYNTHETIC:
        config = ServerConfig(model=build_model_config(model or SYNTHETIC_MODEL))
    else:
        raise SettingsError("say which model to serve: --model DIRECTORY_OR_HUB_ID, or --config FILE")
    if model is not None:
        config = config.model_copy(update={"model": build_model_config(model)})
    if kind is not None:
        config = config.model_copy(update={"engine": config.engine.model_copy(update={"kind": kind})})
    return config


def _add(
    config: ServerConfig,
    *,
    adapters: Sequence[str],
    control_nets: Sequence[str],
    upscalers: Sequence[str],
    preprocessors: Sequence[str],
) -> ServerConfig:
    """The configuration with add-ons of the command line besides. Raises SettingsError for what can't be read."""
    if not (adapters or control_nets or upscalers or preprocessors):
        return config
    known = config.add_ons
    given = {
        "adapters": (
            *known.adapters,
            *(AdapterConfig.model_validate(_read_add_on("--adapter", each)) for each in adapters),
        ),
        "control_nets": (
            *known.control_nets,
            *(ControlNetConfig.model_validate(_read_add_on("--control-net", each)) for each in control_nets),
        ),
        "upscalers": (
            *known.upscalers,
            *(UpscalerConfig.model_validate(_read_add_on("--upscaler", each)) for each in upscalers),
        ),
        "preprocessors": (
            *known.preprocessors,
            *(PreprocessorConfig.model_validate(_read_add_on("--preprocessor", each)) for each in preprocessors),
        ),
    }
    for kind, each in given.items():
        names_of_kind = [one.name for one in each]
        if twice := next((name for name in names_of_kind if names_of_kind.count(name) > 1), None):
            raise SettingsError(f"{kind}: {twice!r} is given twice; give each its own name")
    return config.model_copy(update={"add_ons": known.model_copy(update=given)})


def _read_add_on(option: str, text: str) -> dict[str, str]:
    """``NAME=SOURCE[:FILE]``. A path is taken as it is, whatever colons it has."""
    name, _, source = text.partition("=")
    if not name.strip() or not source.strip():
        raise SettingsError(
            f"{option} {text!r}: must be NAME=SOURCE or NAME=SOURCE:FILE, such as ink=./ink.safetensors or "
            "ink=someone/loras:ink.safetensors"
        )
    path = Path(source).expanduser()
    if path.exists() or source.startswith((".", "~", "/")):
        return {"name": name.strip(), "source": str(path.resolve())}
    before, colon, file = source.rpartition(":")
    if not colon or file.startswith("//"):  # of an address
        return {"name": name.strip(), "source": source.strip()}
    return {"name": name.strip(), "source": before.strip(), "file": file.strip()}


def _allow(config: ServerConfig, *, hosts: Sequence[str], origins: Sequence[str]) -> ServerConfig:
    """The configuration with what the command line allows besides. Raises SettingsError for what can't be meant."""
    gateway = config.gateway
    changes = {
        "allowed_hosts": (*gateway.allowed_hosts, *hosts),
        "allowed_origins": (*gateway.allowed_origins, *origins),
    }
    try:
        gateway = GatewayConfig.model_validate(gateway.model_dump() | changes)
    except ValidationError as error:
        words = "; ".join(
            f"{fault['input']!r}: {fault['msg'].removeprefix('Value error, ')}" for fault in error.errors()
        )
        raise SettingsError(f"--allowed-host or --allowed-origin can't be understood: {words}") from None
    return config.model_copy(update={"gateway": gateway})


def build_model_config(source: str) -> ModelConfig:
    """A model named for the last part of its directory, or for its id on the Hub."""
    directory = Path(source).expanduser()
    if directory.is_dir():
        directory = directory.resolve()
        return ModelConfig(name=directory.name, source=str(directory))
    if directory.is_absolute() or source.startswith((".", "~")):
        return ModelConfig(name=directory.name or source, source=str(directory.resolve()))
    return ModelConfig(name=source, source=source)


def _read_file(file: Path) -> ServerConfig:
    try:
        return ServerConfig.model_validate_json(file.read_bytes())
    except OSError as error:
        raise SettingsError(f"configuration file {file} can't be read: {error.strerror}") from None
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}" for fault in error.errors())
        raise SettingsError(f"configuration file {file} is not valid: {'; '.join(faults)}") from None
