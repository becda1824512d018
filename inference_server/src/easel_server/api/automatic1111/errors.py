"""Errors as AUTOMATIC1111's API gives them."""

from typing import Any

from pydantic import BaseModel

from easel_server.gateway.refusals import RefusalError


class Automatic1111Error(BaseModel):
    """An error, for the API's description."""

    error: str
    detail: str
    body: str
    errors: str


def build_automatic1111_error(refusal: RefusalError) -> tuple[int, dict[str, Any]]:
    """Status and body."""
    faults = "; ".join(fault.field for fault in refusal.faults)
    return refusal.status, {"error": refusal.code, "detail": refusal.message, "body": "", "errors": faults}
