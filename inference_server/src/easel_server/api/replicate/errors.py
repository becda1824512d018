"""Errors as Replicate's API gives them. https://replicate.com/docs/reference/http"""

from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, Field

from easel_server.gateway.refusals import CLIENT_LEFT_STATUS, RefusalError

CLIENT_LEFT: Final = "Client Closed Request"  # that status isn't registered


class InvalidField(BaseModel):
    """A field that can't be accepted."""

    field: str
    description: str


class PredictionError(BaseModel):
    """An error, for the API's description."""

    title: str
    detail: str
    status: int
    code: str
    invalid_fields: list[InvalidField] = Field(default_factory=list)


def build_prediction_error(refusal: RefusalError) -> tuple[int, dict[str, Any]]:
    """Status and body."""
    body: dict[str, Any] = {
        "title": CLIENT_LEFT if refusal.status == CLIENT_LEFT_STATUS else HTTPStatus(refusal.status).phrase,
        "detail": refusal.message,
        "status": refusal.status,
        "code": refusal.code,
    }
    if refusal.faults:
        body["invalid_fields"] = [{"field": fault.field, "description": fault.message} for fault in refusal.faults]
    return refusal.status, body
