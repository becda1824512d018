"""AUTOMATIC1111's API, as far as one served model can keep it: what can't be done is refused, never ignored."""

from easel_contract.server_config import ServerConfig
from fastapi import APIRouter

from easel_server.http.api_keys import KeyRing
from easel_server.http.automatic1111.catalog_routes import Automatic1111Catalog
from easel_server.http.automatic1111.latest_jobs import LatestJobs
from easel_server.http.automatic1111.routes import Automatic1111
from easel_server.http.generation import Generation
from easel_server.http.input_images import Decoders


def build_automatic1111_router(
    generation: Generation, keys: KeyRing, config: ServerConfig, decoders: Decoders
) -> APIRouter:
    """All its routes."""
    latest = LatestJobs(generation.fact_store, ttl_seconds=config.gateway.result_ttl_seconds)
    drawing = Automatic1111(generation, keys, config.model, config.gateway, decoders, latest)
    catalog = Automatic1111Catalog(generation, keys, config.model, config.gateway.limits, decoders)
    router = drawing.build_router()
    router.include_router(catalog.build_router())
    return router
