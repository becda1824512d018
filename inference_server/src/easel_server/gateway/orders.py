"""What a client orders, as far as all APIs agree, and what was made of it. Values only."""

import hashlib
import secrets
from base64 import b32encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from easel_contract.server_config import Priority

from easel_server.gateway.admission import FieldNames, Wanted
from easel_server.gateway.api_keys import Customer
from easel_server.gateway.refusals import refuse_field
from easel_server.generation.job import Job, WebhookTarget
from easel_server.generation.request import DEFAULT_POLICY, CachePolicy
from easel_server.stores.jobs.interface import QueuePosition
from easel_server.telemetry.metrics import CacheResult

ID_CHARACTERS = 26  # of base32: 130 bits


ID_BYTES = 20  # random ones, a whole number of base32's groups


PRIORITIES = (Priority.LOW, Priority.NORMAL, Priority.HIGH)  # upwards


@dataclass(frozen=True)
class Order:
    """A request for images by one client, as far as all APIs agree."""

    customer: Customer
    job_id: str
    wanted: Wanted
    names: FieldNames
    cache: CachePolicy = DEFAULT_POLICY
    webhook: WebhookTarget | None = None
    deadline: timedelta | None = None
    priority: Priority | None = None  # None: normal, or the highest that the customer may have if that is lower
    wanted_previews: int = 0
    inputs: Mapping[str, bytes] = field(default_factory=dict)  # input pictures by digest
    needs_job: bool = True  # False: nobody will ask for it by its id, so a cached answer needs none


@dataclass(frozen=True)
class Placed:
    """A job that is stored, and what the answer's headers say about it."""

    job: Job
    created: bool
    cache_result: CacheResult
    images: tuple[bytes, ...] | None = None  # known already, from the cache
    age_seconds: float = 0.0  # of those
    rate_headers: Mapping[str, str] = field(default_factory=dict)
    is_stored: bool = True  # False: there is no such job, only its images
    position: QueuePosition | None = None  # of a job that was queued just now
    max_age_seconds: int | None = None  # how old the answer may get in its client's own cache; None: not told

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {"X-Cache": str(self.cache_result), **self.rate_headers}
        if self.is_stored:
            headers["X-Prediction-Id"] = self.job.id
        if self.images is not None:
            headers["Age"] = str(int(self.age_seconds))
        if self.max_age_seconds is not None:
            headers["Cache-Control"] = f"private, max-age={self.max_age_seconds}"
        return headers


def choose_priority(order: Order) -> Priority:
    """The priority of the order's job. Raises RefusalError for one that its customer may not have."""
    highest = order.customer.max_priority
    if order.priority is None:
        return min(Priority.NORMAL, highest, key=PRIORITIES.index)
    if PRIORITIES.index(order.priority) > PRIORITIES.index(highest):
        allowed = ", ".join(PRIORITIES[: PRIORITIES.index(highest) + 1])
        raise refuse_field("priority", f"is {order.priority}, allowed for this API key are {allowed}")
    return order.priority


def new_job_id() -> str:
    """A random id."""
    return _to_id(secrets.token_bytes(ID_BYTES))


def job_id_for_key(owner: str, idempotency_key: str) -> str:
    """The id of all requests of this owner with this Idempotency-Key."""
    return _to_id(hashlib.sha256(f"{owner}\n{idempotency_key}".encode()).digest())


def _to_id(data: bytes) -> str:
    return b32encode(data).decode("ascii").lower()[:ID_CHARACTERS]
