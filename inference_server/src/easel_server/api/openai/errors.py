"""Errors as OpenAI's API gives them. https://platform.openai.com/docs/guides/error-codes"""

from typing import Any, Final

from pydantic import BaseModel

from easel_server.gateway.refusals import RefusalError

# OpenAI's words for kinds of errors; others are invalid_request_error below 500 and server_error from there.
# What the request itself is to blame for.
CLIENTS_OWN: Final = ("invalid_value", "content_policy_violation")
TYPES: Final = {401: "authentication_error", 429: "rate_limit_error"}


class OpenAIErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """An error, for the API's description."""

    error: OpenAIErrorDetail


def build_openai_error(refusal: RefusalError) -> tuple[int, dict[str, Any]]:
    """Status and body."""
    status = 400 if refusal.code in CLIENTS_OWN else refusal.status
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    parameter = refusal.faults[0].field if refusal.faults else None
    return status, {"error": {"message": refusal.message, "type": kind, "param": parameter, "code": refusal.code}}
