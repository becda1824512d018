"""A job as fields of a Redis hash, and back; what scripts are told and reply. Times are microseconds since the epoch.

What the submitter determined is one JSON document, ``content``; beside it stand what the store determines and what
scripts read, and what processes of the earlier version don't know: they refuse a document with unknown fields.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from easel_server.generation.images import MEDIA_TYPES, ImageReference
from easel_server.generation.job import Job, JobState, job_fingerprint
from easel_server.generation.models import ModelIdentity, RequestedModel
from easel_server.stores.images.interface import FullReason, ImageUsage, Reservation, StoredImages, StoreFullError
from easel_server.stores.jobs.fair_queue import PRIORITIES
from easel_server.stores.jobs.interface import (
    MAX_FOLLOWERS,
    Canceled,
    Failed,
    JobBounds,
    JobConflictError,
    Outcome,
    QueueDepth,
    QueueFullError,
    QueueTerms,
    ServiceClosingError,
    Succeeded,
)
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
    reservation: Reservation,
    flight_key: str | None,
    target_seconds: float | None,
    terms: QueueTerms | None,
) -> list[str | bytes | int]:
    """Arguments of ``lua/submit.lua``. Of input images that are in a bucket the script gets references."""
    parameters = job.parameters
    origin = (job.client_id, job.base_url, parameters.quality_percent)
    words: Mapping[str, str | bytes] = inputs
    if stored_inputs.object_keys:
        references = stored_inputs.references
        words = {digest: write_references([each]) for digest, each in zip(inputs, references, strict=True)}
    return [
        job.id,
        job_fingerprint(job),
        job.model_dump_json(by_alias=True, exclude={"parameters": {"quality_percent"}}),
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
        *((job.model.key, job.model.name) if job.model else ("", "")),
        reservation.size_bytes,
        bounds.max_image_bytes,
        "" if bounds.max_bucket_jobs is None else bounds.max_bucket_jobs,
        "1" if bounds.is_shared else "",
        reservation.input_bytes,
        "" if bounds.max_input_bytes is None else bounds.max_input_bytes,
        stored_inputs.entry,
        "" if answer is None else parameters.steps,
        job.generated_by.model_dump_json(by_alias=True) if job.generated_by else "",
        write_warnings(job.request_warnings),
        write_warnings(job.generation_warnings),
        json.dumps(origin) if any(part is not None for part in origin) else "",
        parameters.family,
        "" if target_seconds is None else max(1, round(target_seconds * MICROSECONDS)),
        *write_terms(terms),
        len(inputs),
        *(word for item in words.items() for word in item),
        *(build_image_arguments(answer) if answer else ()),
    ]


def write_terms(terms: QueueTerms | None) -> tuple[int | str, int | str]:
    """Microseconds within which a job may start, and be overtaken; empty for none."""
    if terms is None:
        return "", ""
    return round(terms.start_within_seconds * MICROSECONDS), round(terms.overtaken_within_seconds * MICROSECONDS)


def build_image_arguments(images: StoredImages) -> list[str | bytes]:
    """A succeeded job's images as arguments of scripts: see ``set_images`` in ``lua/runs.lua``.

    What the job says of them are their bytes in the budget, and then references to objects in a bucket, or else media
    type and sizes of what is in the list of the job's run.
    """
    if images.object_keys:
        text = f"{images.size_bytes} {write_references(images.references)}"
        return [text, images.entry, " ".join(images.object_keys)]
    sizes = " ".join(str(reference.size_bytes) for reference in images.references)
    media_type = images.references[0].media_type if images.references else ""
    return [f"{images.size_bytes} {media_type} {sizes}", "", "", *images.inline]


def write_references(references: Sequence[ImageReference]) -> str:
    """Objects in a bucket as JSON."""
    return json.dumps([dataclasses.astuple(reference) for reference in references])


def read_references(text: bytes) -> tuple[ImageReference, ...]:
    """What ``write_references`` wrote."""
    return tuple(ImageReference(*fields) for fields in json.loads(text))


def write_warnings(warnings: Sequence[str]) -> str:
    """As JSON; empty if there are none."""
    return json.dumps(warnings) if warnings else ""


def raise_refusal(status: bytes, rest: Sequence[Any], job: Job, reservation: Reservation, bounds: JobBounds) -> None:
    """If ``lua/submit.lua`` refused the job. Raises what ``JobStore.submit`` raises."""
    match status:
        case b"conflict":
            raise JobConflictError(job.client_id or job.id)
        case b"closing":
            raise ServiceClosingError(rest[0].decode())
        case b"full":
            depth, held, owners = rest
            raise QueueFullError(depth, held, owners, bounds)
        case b"no_room":
            raise _build_full_error(reservation, bounds, rest)


def _build_full_error(reservation: Reservation, bounds: JobBounds, figures: Sequence[bytes]) -> StoreFullError:
    reason, used, reserved, expiry_us, inputs, held = figures
    usage = ImageUsage(
        int(used),
        int(reserved),
        bounds.max_image_bytes,
        next_expiry_seconds=int(expiry_us) / MICROSECONDS if int(expiry_us) >= 0 else None,
        input_bytes=int(inputs),
        input_budget_bytes=bounds.max_input_bytes,
    )
    full = FullReason(reason.decode())
    max_jobs = bounds.max_bucket_jobs if full is FullReason.JOBS else None
    return StoreFullError(reservation, usage, full, held_bytes=int(held), max_jobs=max_jobs)


def describe_outcome(job: Job, outcome: Outcome) -> tuple[JobState, str, int | str, StoredImages]:
    """What ``lua/finish.lua`` is told: the state, the error, steps that are done (both '' for none), the images."""
    match outcome:
        case Succeeded(images=images):
            return JobState.SUCCEEDED, "", job.parameters.steps, images
        case Failed(error):
            return JobState.FAILED, error, "", StoredImages()
        case Canceled():
            return JobState.CANCELED, "", "", StoredImages()


def to_depth(reply: Sequence[Any]) -> QueueDepth:
    """The reply of ``lua/depth.lua``."""
    waiting, running, age_us, workers, failures, overrunning, *work_us = reply
    waiting_us, running_us, waiting_excess_us, running_excess_us = map(int, work_us)
    return QueueDepth(
        waiting,
        running,
        int(age_us) / MICROSECONDS,
        waiting_gpu_seconds=waiting_us / MICROSECONDS,
        running_gpu_seconds=running_us / MICROSECONDS,
        bounded_waiting_gpu_seconds=max(0, waiting_us - waiting_excess_us) / MICROSECONDS,
        bounded_running_gpu_seconds=max(0, running_us - running_excess_us) / MICROSECONDS,
        overrunning=overrunning,
        workers=workers,
        engine_failures=failures,
    )


def to_values(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    """A flat list of names and values, as HGETALL gives it inside a script."""
    return dict(zip(fields[::2], fields[1::2], strict=True))


class DamagedRecordError(Exception):
    """A stored record isn't what this version, or any, would have written. Says nothing of what the record holds."""


@contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Raise DamagedRecordError for whatever goes wrong while a record is read."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DamagedRecordError(f"{what} can't be read: {type(error).__name__}") from error


def to_job(fields: Sequence[bytes]) -> Job:
    """The job of ``view`` in ``lua/fields.lua``. Raises DamagedRecordError."""
    with damage_named("job"):
        return _to_job(to_values(fields))


def is_orphan(fields: Sequence[bytes]) -> bool:
    """Whether the job of ``view`` has lost its run, and nobody has written yet that it failed."""
    return b"is_orphan" in fields[::2]


def to_queued_job(job: Job, submitted_us: int) -> Job:
    """The job as it is stored: moved to the store's time."""
    offset = (submitted_us - to_microseconds(job.submitted_at)) * MICROSECOND
    deadline_at = job.deadline_at + offset if job.deadline_at else None
    return job.model_copy(update={"submitted_at": job.submitted_at + offset, "deadline_at": deadline_at})


def to_delivery(name: bytes, fields: Sequence[bytes]) -> Delivery:
    """The delivery of the reply of ``outbox/lua/claim.lua``. Raises DamagedRecordError."""
    with damage_named("delivery"):
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
    for name, field in ((b"warnings", "request_warnings"), (b"generation_warnings", "generation_warnings")):
        if name in values:
            changes[field] = tuple(json.loads(values[name]))
    if b"model" in values:
        changes["model"] = _to_requested_model(values[b"model_name"], values[b"model"])
    beside: dict[str, Any] = {"family": values.get(b"family", b"").decode()}
    if b"origin" in values:
        changes["client_id"], changes["base_url"], beside["quality_percent"] = json.loads(values[b"origin"])
    changes["parameters"] = job.parameters.model_copy(update=beside)
    if b"generated_by" in values:
        changes["generated_by"] = _to_identity(values[b"generated_by"])
    return job.model_copy(update=changes)


def _to_references(job: Job, values: Mapping[bytes, bytes]) -> tuple[ImageReference, ...]:
    """Those of a Succeeded job; see ``build_image_arguments``."""
    if values[b"state"] != b"Succeeded" or b"data_removed" in values:
        return ()
    run, parameters = values[b"run"].decode(), job.parameters
    if b"images" not in values:  # finished by an earlier version
        media_type = MEDIA_TYPES[parameters.image_format]
        return tuple(ImageReference(f"{run}/{index}", 0, media_type) for index in range(parameters.images))
    _, _, kept = values[b"images"].partition(b" ")
    if kept.startswith(b"["):
        return read_references(kept)
    media_type, *sizes = kept.decode().split(" ")
    return tuple(ImageReference(f"{run}/{index}", int(size), media_type) for index, size in enumerate(sizes) if size)


@lru_cache(maxsize=64)  # a service has few
def _to_requested_model(name: bytes, key: bytes) -> RequestedModel:
    return RequestedModel(name=name.decode(), key=key.decode())


@lru_cache(maxsize=64)  # its workers report few
def _to_identity(document: bytes) -> ModelIdentity:
    return ModelIdentity.model_validate_json(document)


def _to_moment(microseconds: bytes) -> datetime:
    return EPOCH + int(microseconds) * MICROSECOND
