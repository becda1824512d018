"""What the handlers of all APIs work with, whichever API it is. One a process; the wiring is in ``app``."""

from dataclasses import dataclass

from easel_contract.server_config import LimitsConfig, ServerConfig
from fastapi import Request

from easel_server.api.links import Links
from easel_server.gateway.api_keys import Customer, KeyRing
from easel_server.gateway.input_images import Decoders
from easel_server.gateway.refusals import refuse_unknown_model
from easel_server.gateway.submit import Generation
from easel_server.transport.streams import Streams


@dataclass(frozen=True)
class Gateway:
    """The service as it is served, and who does the work."""

    config: ServerConfig
    generation: Generation
    keys: KeyRing
    decoders: Decoders
    streams: Streams

    @property
    def model_name(self) -> str:
        """Of the one model that is served."""
        return self.config.model.name

    @property
    def limits(self) -> LimitsConfig:
        """What requests may ask for."""
        return self.config.gateway.limits

    def find_customer(self, request: Request) -> Customer:
        """Whose key the request carries. Raises RefusalError (401)."""
        return self.keys.find_customer(request.headers.get("authorization"))

    def check_model(self, name: str | None) -> None:
        """Raise RefusalError (404) if a model is named that isn't the one that is served."""
        if name is not None and name != self.model_name:
            raise refuse_unknown_model(name, self.model_name)

    def links(self, request: Request) -> Links:
        """Links by the configured address, else by the host that this client called."""
        return Links(self.config.gateway.public_url or str(request.base_url).rstrip("/"))
