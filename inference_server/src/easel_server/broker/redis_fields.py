"""A job as fields of a Redis hash, and back. Times are integers in microseconds since the epoch."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from easel_server.broker.interface import Delivery
from easel_server.job import GenerationParameters, Job, WebhookTarget

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return (moment - EPOCH) // MICROSECOND


def build_content_fields(job: Job, result_ttl_seconds: float, *, answered: bool) -> list[str | bytes]:
    """Names and values of what a client determines; state, times and progress are the broker's to write."""
    fields: list[str | bytes] = [
        *("owner", job.owner),
        *("parameters", job.parameters.model_dump_json(by_alias=True)),
        *("steps_done", str(job.parameters.steps if answered else 0)),
        *("result_ttl_ms", str(round(result_ttl_seconds * 1000))),
    ]
    if job.webhook is not None:
        fields += ["webhook", job.webhook.model_dump_json(by_alias=True)]
    return fields


def to_job(fields: Sequence[bytes]) -> Job:
    """The job of a flat list of names and values, as HGETALL gives it inside a script."""
    values = {fields[index].decode(): fields[index + 1].decode() for index in range(0, len(fields), 2)}
    return _to_job(values)


def to_delivery(name: bytes, fields: Sequence[bytes]) -> Delivery:
    """The delivery of the claim_delivery script's reply."""
    values = {fields[index]: fields[index + 1] for index in range(0, len(fields), 2)}
    snapshot: list[str] = json.loads(values[b"job"])
    return Delivery(
        id=name.decode(),
        event=values[b"event"].decode(),
        url=values[b"url"].decode(),
        job=_to_job(dict(zip(snapshot[::2], snapshot[1::2], strict=True))),
        attempt=int(values[b"attempt"]),
    )


def _to_job(values: dict[str, str]) -> Job:
    webhook = values.get("webhook")
    optional: dict[str, Any] = {
        name: EPOCH + int(values[field]) * MICROSECOND
        for name, field in (
            ("started_at", "started_us"),
            ("finished_at", "finished_us"),
            ("deadline_at", "deadline_us"),
        )
        if field in values
    }
    return Job(
        id=values["id"],
        owner=values["owner"],
        parameters=GenerationParameters.model_validate_json(values["parameters"]),
        submitted_at=EPOCH + int(values["submitted_us"]) * MICROSECOND,
        state=values["state"],
        attempts=int(values["attempts"]),
        steps_done=int(values["steps_done"]),
        worker=values.get("worker"),
        error=values.get("error"),
        cancel_requested="cancel_requested" in values,
        webhook=WebhookTarget.model_validate_json(webhook) if webhook is not None else None,
        **optional,
    )
