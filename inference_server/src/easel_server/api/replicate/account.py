"""What Replicate's clients ask for besides predictions: whose key it is, how webhooks are verified, which models."""

from enum import Enum
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel

from easel_server.api.context import ApiContext
from easel_server.api.links import ACCOUNT_PATH, MODELS_PATH, WEBHOOKS_PATH
from easel_server.api.openapi import Responses, describe_answer, describe_errors
from easel_server.api.replicate.errors import PredictionError
from easel_server.gateway.refusals import refuse_unknown_model, refuse_unoffered
from easel_server.generation.request import derive_webhook_secret

TAGS: Final[list[str | Enum]] = ["Replicate account"]
UNSIGNED: Final = (
    "this service has no signing secret, and so sends no webhooks; whoever runs it sets "
    "gateway.webhook.signingSecretName (EASEL_WEBHOOK_SECRET outside Kubernetes)"
)


class Account(BaseModel):
    """The customer whose key was sent."""

    type: str
    username: str
    name: str


class WebhookSecret(BaseModel):
    """What webhooks of this customer verify with."""

    key: str


class ModelVersion(BaseModel):
    """A version of a model: its name, as this service keeps no older ones."""

    id: str
    created_at: AwareDatetime  # of no meaning: Replicate's clients want one
    cog_version: str
    openapi_schema: dict[str, Any]


class ModelVersions(BaseModel):
    """All of them."""

    previous: str | None
    next: str | None
    results: list[ModelVersion]


def add_account_routes(router: APIRouter, context: ApiContext) -> None:
    """All routes."""
    handlers = AccountHandlers(context)
    versions = f"{MODELS_PATH}/{{name:path}}/versions"
    for path, handler, model, errors in (
        (ACCOUNT_PATH, handlers.get_account, Account, ()),
        (f"{WEBHOOKS_PATH}/default/secret", handlers.get_webhook_secret, WebhookSecret, (404,)),
        (versions, handlers.list_versions, ModelVersions, (404,)),
        (f"{versions}/{{version:path}}", handlers.get_version, ModelVersion, (404,)),
    ):
        router.add_api_route(path, handler, tags=TAGS, responses=_describe(model, *errors))


def _describe(model: Any, *errors: int) -> Responses:
    return {200: describe_answer(model, "What there is"), **describe_errors(PredictionError, *errors)}


class AccountHandlers:
    """The routes' handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def get_account(self, request: Request) -> JSONResponse:
        """Whose key it is."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        return JSONResponse({"type": "user", "username": customer.name, "name": customer.name})

    async def get_webhook_secret(self, request: Request) -> JSONResponse:
        """What the caller's webhooks verify with: theirs alone, it verifies nobody else's."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        if not self._context.webhook_secrets:
            raise refuse_unoffered(UNSIGNED)
        key = derive_webhook_secret(self._context.webhook_secrets[0], customer.name)
        return JSONResponse({"key": key}, headers={"Cache-Control": "no-store"})

    async def list_versions(self, request: Request, name: str) -> JSONResponse:
        """The versions of a model: one."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        self._context.check_model(name)
        version = self._context.build_model_version(await self._context.model_facts())
        return JSONResponse({"previous": None, "next": None, "results": [version]})

    async def get_version(self, request: Request, name: str, version: str) -> JSONResponse:
        """A version of a model."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        self._context.check_model(name)
        if version != name:
            raise refuse_unknown_model(version, name)
        return JSONResponse(self._context.build_model_version(await self._context.model_facts()))
