"""AUTOMATIC1111's API, as far as one served model can keep it: what can't be done is refused, never ignored."""

from fastapi import APIRouter

from easel_server.api.automatic1111.catalog import Automatic1111Catalog
from easel_server.api.automatic1111.routes import Automatic1111, LatestJobs
from easel_server.api.context import Gateway


def build_automatic1111_router(gateway: Gateway) -> APIRouter:
    """All its routes."""
    latest = LatestJobs(gateway.generation.fact_store, ttl_seconds=gateway.config.gateway.result_ttl_seconds)
    router = Automatic1111(gateway, latest).build_router()
    router.include_router(Automatic1111Catalog(gateway).build_router())
    return router
