"""/usage: what customers' jobs took, for whoever bills them. Beside the metrics, on a port that no Service leads to."""

from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from easel_contract import names
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from easel_server.gateway.refusals import refuse_private_path
from easel_server.gateway.usage_report import UsageReport, read_period
from easel_server.stores.errors import StoreError


def add_usage_route(
    router: APIRouter, report: UsageReport | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> None:
    """Without a report it says where there is one."""

    async def usage(request: Request) -> JSONResponse:
        """Jobs, images and GPU-seconds of each customer by day of UTC: ?since=YYYY-MM-DD&until=YYYY-MM-DD."""
        if report is None:
            raise refuse_private_path(request.url.path)
        asked = request.query_params
        try:
            period = read_period(asked.get("since"), asked.get("until"), now().date())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        try:
            return JSONResponse(await report.build(period))
        except StoreError as error:
            return JSONResponse({"error": str(error)}, status_code=503, headers={"Retry-After": "5"})

    tags: list[str | Enum] = ["Probes"]
    answers: dict[int | str, dict[str, Any]] = {400: {"description": "A day that is none, or too many days."}}
    router.add_api_route(names.PATH_USAGE, usage, tags=tags, responses=answers, include_in_schema=report is not None)
