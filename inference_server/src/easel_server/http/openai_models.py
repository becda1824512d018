"""OpenAI's list of models: the one that is served, and what draws with it."""

from typing import Any

from fastapi import APIRouter, Request

from easel_server.http.gateway import Gateway
from easel_server.http.openai_answers import ModelAnswer, ModelsAnswer, describe_models

CREATED_AT = 1704067200  # clients want a creation time of models; this one means nothing: 2024-01-01


class OpenAIModels:
    """The routes' handlers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def build_router(self) -> APIRouter:
        """All routes."""
        router = APIRouter(tags=["OpenAI models"])
        all_models, one = describe_models(ModelsAnswer), describe_models(ModelAnswer)
        router.add_api_route("/v1/models", self.list_models, methods=["GET"], responses=all_models)
        # A Hub id holds a slash, hence the path converter.
        router.add_api_route("/v1/models/{name:path}", self.get_model, methods=["GET"], responses=one)
        return router

    async def list_models(self, request: Request) -> dict[str, Any]:
        """The models that are served: one."""
        self._gateway.find_customer(request)
        return {"object": "list", "data": [await self._build_model()]}

    async def get_model(self, request: Request, name: str) -> dict[str, Any]:
        """One model."""
        self._gateway.find_customer(request)
        self._gateway.check_model(name)
        return await self._build_model()

    async def _build_model(self) -> dict[str, Any]:
        model = {"id": self._gateway.model_name, "object": "model", "created": CREATED_AT, "owned_by": "easel"}
        facts = await self._gateway.generation.facts()
        # Extensions; what draws isn't known until a worker has loaded the model.
        return model | {"engine": facts.engine, "tasks": facts.tasks, "samplers": facts.samplers}
