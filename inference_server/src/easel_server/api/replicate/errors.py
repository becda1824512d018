"""Errors as Replicate's API gives them. https://replicate.com/docs/reference/http"""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field

from easel_server.gateway.refusals import RefusalError


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
        "title": HTTPStatus(refusal.status).phrase,
        "detail": refusal.message,
        "status": refusal.status,
        "code": refusal.code,
    }
    if refusal.faults:
        body["invalid_fields"] = [{"field": fault.field, "description": fault.message} for fault in refusal.faults]
    return refusal.status, body
