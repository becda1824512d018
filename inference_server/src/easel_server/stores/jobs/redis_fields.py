"""A job as fields of a Redis hash, and back. Times are integers in microseconds since the epoch.

What the submitter determined is one JSON document, ``content``; beside it stand what the store determines and what
scripts read.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from easel_server.generation.images import MEDIA_TYPES, REFERENCES, ImageReference
from easel_server.generation.job import Job, JobState, job_fingerprint
from easel_server.stores.images.interface import MAX_KEPT_JOBS, StoredImages
from easel_server.stores.jobs.fair_queue import PRIORITIES
from easel_server.stores.jobs.interface import MAX_FOLLOWERS, JobBounds
from easel_server.stores.outbox.interface import Delivery
from easel_server.stores.redis.connection import MICROSECONDS

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return (moment - EPOCH) // MICROSECOND


def build_submit_arguments(
    job: Job,
    bounds: JobBounds,
    *,
    answer: StoredImages | None,
    inputs: Mapping[str, bytes],
    stored_inputs: StoredImages,
    needed_bytes: int,
    flight_key: str | None,
) -> list[str | bytes | int]:
    """Arguments of ``lua/submit.lua``. Of input images that are in a bucket the script gets references."""
    parameters = job.parameters
    is_in_bucket = bool(stored_inputs.object_keys)
    words = zip(inputs, _to_words(stored_inputs) if is_in_bucket else stored_inputs.inline, strict=True)
    return [
        job.id,
        job_fingerprint(job),
        job.model_dump_json(by_alias=True),
        job.owner,
        to_microseconds(job.submitted_at),
        to_microseconds(job.deadline_at) if job.deadline_at else "",
        round(bounds.result_ttl_seconds * 1000),
        job.webhook.model_dump_json(by_alias=True) if job.webhook else "",
        PRIORITIES.index(job.priority),
        max(1, round(job.predicted_gpu_seconds * MICROSECONDS)),
        job.weight,
        parameters.batch_key,
        parameters.images,
        parameters.steps,
        flight_key or "",
        bounds.max_queue_depth,
        MAX_FOLLOWERS,
        needed_bytes,
        bounds.max_image_bytes,
        MAX_KEPT_JOBS,
        stored_inputs.entry,
        "" if answer is None else parameters.steps,
        len(inputs),
        *(word for item in words for word in item),
        *build_image_arguments(answer or StoredImages()),
    ]


def build_image_arguments(images: StoredImages) -> list[str | bytes | int]:
    """The last arguments of ``lua/submit.lua`` and ``lua/finish.lua``."""
    references = REFERENCES.dump_json(images.references, by_alias=True, exclude_none=True)
    return [references, images.size_bytes, images.entry, " ".join(images.object_keys), *images.inline]


def _to_words(images: StoredImages) -> list[bytes]:
    return [reference.to_json() for reference in images.references]


def to_values(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    """A flat list of names and values, as HGETALL gives it inside a script."""
    return dict(zip(fields[::2], fields[1::2], strict=True))


def to_job(fields: Sequence[bytes]) -> Job:
    """The job of ``view`` in ``lua/fields.lua``."""
    return _to_job(to_values(fields))


def to_queued_job(job: Job, submitted_us: int) -> Job:
    """The job as it is stored: moved to the store's time."""
    offset = (submitted_us - to_microseconds(job.submitted_at)) * MICROSECOND
    deadline_at = job.deadline_at + offset if job.deadline_at else None
    return job.model_copy(update={"submitted_at": job.submitted_at + offset, "deadline_at": deadline_at})


def to_delivery(name: bytes, fields: Sequence[bytes]) -> Delivery:
    """The delivery of the reply of ``outbox/lua/claim.lua``."""
    values = to_values(fields)
    snapshot = [word.encode() for word in json.loads(values[b"job"])]
    return Delivery(
        id=name.decode(),
        event=values[b"event"].decode(),
        url=values[b"url"].decode(),
        job=to_job(snapshot),
        attempt=int(values[b"attempt"]),
    )


def _to_job(values: Mapping[bytes, bytes]) -> Job:
    job = Job.model_validate_json(values[b"content"])
    changes: dict[str, Any] = {
        "submitted_at": _to_moment(values[b"submitted_us"]),
        "state": JobState(values[b"state"].decode()),
        "attempts": int(values[b"attempts"]),
        "steps_done": int(values[b"steps_done"]),
        "previews": int(values[b"previews"]),
        "cancel_requested": b"cancel_requested" in values,
        "data_removed": b"data_removed" in values,
        "images": _to_references(job, values),
        "deadline_at": None,
    }
    for name, field in (
        (b"started_us", "started_at"),
        (b"finished_us", "finished_at"),
        (b"deadline_us", "deadline_at"),
    ):
        if name in values:
            changes[field] = _to_moment(values[name])
    for name, field in ((b"worker", "worker"), (b"error", "error")):
        if name in values:
            changes[field] = values[name].decode()
    return job.model_copy(update=changes)


def _to_references(job: Job, values: Mapping[bytes, bytes]) -> tuple[ImageReference, ...]:
    """Those of a Succeeded job. A key that is left out stands for an image's place in the list of its run."""
    if values[b"state"] != JobState.SUCCEEDED.encode() or b"data_removed" in values:
        return ()
    run, parameters = values[b"run"].decode(), job.parameters
    if b"images" not in values:  # finished by an earlier version
        one = ImageReference(key="", size_bytes=0, media_type=MEDIA_TYPES[parameters.image_format])
        references: tuple[ImageReference, ...] = (one,) * parameters.images
    else:
        references = REFERENCES.validate_json(values[b"images"])
    return tuple(
        reference if reference.key else reference.model_copy(update={"key": f"{run}/{index}"})
        for index, reference in enumerate(references)
    )


def _to_moment(microseconds: bytes) -> datetime:
    return EPOCH + int(microseconds) * MICROSECOND
