"""What the handlers of all APIs work with, and what an API is to the app that serves it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from easel_contract.add_ons import AdapterConfig, ControlNetConfig, UpscalerConfig
from easel_contract.gateway_config import LimitsConfig
from easel_contract.server_config import ServerConfig
from fastapi import APIRouter, Request

from easel_server.api.links import HOST_PATTERN, Links
from easel_server.gateway.api_keys import KeyRing
from easel_server.gateway.ending import Ending
from easel_server.gateway.input_images import Decoders
from easel_server.gateway.link_signer import LinkSigner
from easel_server.gateway.live_config import LiveConfig
from easel_server.gateway.queue_estimate import QueueEstimates
from easel_server.gateway.refusals import RefusalError, refuse_unknown_model
from easel_server.gateway.results import Results
from easel_server.gateway.submit import Submitter
from easel_server.generation.add_ons import Feature
from easel_server.generation.models import ModelFacts, name_vae
from easel_server.stores.opening import Stores
from easel_server.transport.streams import Streams

# Clients want a creation time of models; this one means nothing.
MODEL_CREATED_AT: Final = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ApiContext:
    """The service as it is served, and who does the work. One a process."""

    config: ServerConfig  # but for the model, which changes while a gateway runs:
    live: LiveConfig
    limits: LimitsConfig  # what requests may ask for
    submitter: Submitter
    results: Results
    estimates: QueueEstimates
    stores: Stores
    model_facts: Callable[[], Awaitable[ModelFacts]]  # what is known of the model now
    keys: KeyRing
    signer: LinkSigner | None  # of links; None where no keys are asked for
    decoders: Decoders
    streams: Streams
    ending: Ending
    input_schema: Mapping[str, Any]  # of a prediction's input, as JSON Schema
    webhook_secrets: tuple[str, ...]  # that sign webhooks, the first for good; without any, none are sent

    @property
    def model_name(self) -> str:
        """Of the one model that is served."""
        return self.live.name

    @property
    def vae_name(self) -> str | None:
        """Of the autoencoder in place of the model's own; None without one."""
        return name_vae(self.live.model)

    @property
    def is_signing_configured(self) -> bool:
        """Whether webhooks can be signed, and so be sent."""
        return bool(self.webhook_secrets)

    def list_adapters(self, facts: ModelFacts) -> tuple[AdapterConfig, ...]:
        """Those that requests may ask for, of a model that takes any."""
        return self.live.add_ons.list_adapters(self.model_name) if Feature.ADAPTERS in facts.features else ()

    def list_control_nets(self, facts: ModelFacts) -> tuple[ControlNetConfig, ...]:
        """Likewise."""
        return self.live.add_ons.control_nets if Feature.CONTROL_NETS in facts.features else ()

    def list_upscalers(self, facts: ModelFacts) -> tuple[UpscalerConfig, ...]:
        """Likewise."""
        return self.live.add_ons.upscalers if Feature.UPSCALE in facts.features else ()

    def build_model_version(self, facts: ModelFacts) -> dict[str, Any]:
        """The served model's version as Replicate's clients read it: its name, since a service keeps no older ones.

        ``openapi_schema`` says what an input may hold, with the names of the adapters that there are.
        """
        schema = {**self.input_schema, "properties": dict(self.input_schema.get("properties", {}))}
        if adapters := [each.name for each in self.list_adapters(facts)]:
            for name in ("lora_weights", "extra_lora"):
                schema["properties"][name] = {**schema["properties"].get(name, {}), "examples": adapters}
        output = {"type": "array", "items": {"type": "string", "format": "uri"}}
        return {
            "id": self.model_name,
            "created_at": MODEL_CREATED_AT.isoformat(),
            "cog_version": "",
            "openapi_schema": {"components": {"schemas": {"Input": schema, "Output": output}}},
        }

    def check_model(self, name: str | None) -> None:
        """Raise RefusalError (404) if a model is named that isn't the one that is served."""
        if name is not None and name != self.model_name:
            raise refuse_unknown_model(name, self.model_name)

    def links(self, request: Request) -> Links:
        """Links by the configured address, else by the host that this client called."""
        return Links(self.config.gateway.public_url or self.base_url(request) or "", self.signer)

    def base_url(self, request: Request) -> str | None:
        """What this client called, such as http://localhost:8080; None where its Host header is no host."""
        is_known = HOST_PATTERN.fullmatch(request.headers.get("host", "")) is not None
        return f"{request.base_url.scheme}://{request.headers['host']}" if is_known else None


@dataclass(frozen=True)
class Api:
    """One API: its routes, where they are, and the shape of its errors."""

    add_routes: Callable[[APIRouter, ApiContext], None]
    is_spoken_at: Callable[[str], bool]  # a path
    build_error: Callable[[RefusalError], tuple[int, dict[str, Any]]]  # status and body
