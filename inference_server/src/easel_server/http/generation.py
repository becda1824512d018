"""From a validated request to a job, and from a job to its images: what all APIs share."""

import hashlib
import logging
import uuid
from base64 import b32encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from easel_contract.server_config import GatewayConfig, ModelConfig

from easel_server.broker.digests import result_cache_key
from easel_server.broker.interface import Broker, BrokerUnavailableError
from easel_server.generation_defaults import GenerationDefaults
from easel_server.http.admission import FieldNames, Wanted, build_parameters
from easel_server.http.observation import CacheResult, RequestMetrics
from easel_server.http.refusals import build_rate_headers, refuse_for_rate, refuse_unknown_prediction
from easel_server.job import GenerationParameters, Job, JobState, WebhookTarget
from easel_server.json_log import request_id
from easel_server.tracing import NO_TRACER, SpanKind, Tracer

ID_CHARACTERS = 26  # of base32: 130 bits
LIBRARIES = ("easel", "diffusers", "torch", "transformers")  # whose versions may change pixels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachePolicy:
    """What the client's Cache-Control allows."""

    read: bool = True
    write: bool = True

    @classmethod
    def from_header(cls, cache_control: str) -> "CachePolicy":
        """``no-store`` keeps the result out of the cache too, ``no-cache`` only asks for a fresh one."""
        directives = {directive.strip().lower() for directive in cache_control.split(",")}
        store = "no-store" not in directives
        return cls(read=store and "no-cache" not in directives, write=store)


@dataclass(frozen=True)
class Order:
    """A request for images by one client, as far as all APIs agree."""

    owner: str
    job_id: str
    wanted: Wanted
    names: FieldNames
    cache: CachePolicy = CachePolicy()
    webhook: WebhookTarget | None = None
    deadline: timedelta | None = None


@dataclass(frozen=True)
class Placed:
    """A job that is stored, and what the answer's headers say about it."""

    job: Job
    created: bool
    cache_result: CacheResult
    cache_key: str | None  # under which to keep the images once they exist
    rate_headers: dict[str, str]

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {"X-Cache": self.cache_result, "X-Prediction-Id": self.job.id, **self.rate_headers}


def new_job_id() -> str:
    """A random id."""
    return _to_id(uuid.uuid4().bytes + uuid.uuid4().bytes)


def job_id_for_key(owner: str, idempotency_key: str) -> str:
    """The id of all requests of this owner with this Idempotency-Key."""
    return _to_id(hashlib.sha256(f"{owner}\n{idempotency_key}".encode()).digest())


def _to_id(data: bytes) -> str:
    return b32encode(data).decode("ascii").lower()[:ID_CHARACTERS]


@cache
def _library_versions() -> dict[str, str]:
    """Versions from package metadata, so that nothing is imported. Gateways and workers run the same image."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "absent"
    return versions


class Generation:
    """Places orders with the broker and fetches what became of them."""

    def __init__(
        self,
        broker: Broker,
        model: ModelConfig,
        config: GatewayConfig,
        defaults: Callable[[], Awaitable[GenerationDefaults]],
        metrics: RequestMetrics,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """``defaults`` is asked at each request: they may become known after the model is loaded."""
        self._broker = broker
        self._model = model
        self._config = config
        self._defaults = defaults
        self._metrics = metrics
        self._tracer = tracer

    async def place(self, order: Order) -> Placed:
        """Store the order's job, finished at once if the cache has its images.

        Raises RefusalError, and the broker's QueueFullError, JobConflictError and BrokerUnavailableError.
        """
        limits = self._config.limits
        parameters = build_parameters(
            order.wanted, defaults=await self._defaults(), limits=limits, names=order.names, job_id=order.job_id
        )
        rate_headers = await self._take_from_bucket(order.owner)
        key = self._cache_key(order, parameters)
        answer = await self._broker.cache_get(key) if key and order.cache.read else None
        now = datetime.now(UTC)
        job = Job(
            id=order.job_id,
            owner=order.owner,
            parameters=parameters,
            submitted_at=now,
            deadline_at=now + order.deadline if order.deadline else None,
            webhook=order.webhook,
            request_id=request_id.get(),
        )
        with self._tracer.span("submit job", kind=SpanKind.PRODUCER, attributes={"easel.job.id": job.id}) as span:
            job = job.model_copy(update={"trace_parent": span.trace_parent})
            submission = await self._broker.submit(job, answer=answer)
        result = CacheResult.HIT if answer else CacheResult.MISS if key and order.cache.read else CacheResult.BYPASS
        self._metrics.count_cache(result)
        if submission.created and not answer:
            self._metrics.count_submitted()
        write_key = key if order.cache.write and not answer else None
        return Placed(submission.job, submission.created, result, write_key, rate_headers)

    async def wait(self, placed: Placed, timeout_seconds: float) -> Job:
        """The job once it is final, or as it is after the time-out; its images go into the cache.

        Raises RefusalError if the job is gone, and BrokerUnavailableError.
        """
        if placed.job.state.is_final:
            return placed.job
        job = await self._broker.wait(placed.job.id, timeout_seconds)
        if job is None:
            raise refuse_unknown_prediction(placed.job.id)
        if job.state is JobState.SUCCEEDED and placed.cache_key:
            await self._keep(placed.cache_key, await self._broker.images(job.id))
        return job

    async def find(self, job_id: str, owner: str) -> Job:
        """The owner's job. Raises RefusalError (404) if there is none, and BrokerUnavailableError."""
        job = await self._broker.get(job_id)
        if job is None or job.owner != owner:
            raise refuse_unknown_prediction(job_id)
        return job

    async def cancel(self, job_id: str, owner: str) -> Job:
        """Ask for the end of the owner's job. Raises as ``find``."""
        found = await self.find(job_id, owner)
        return await self._broker.cancel(job_id) or found

    async def images(self, job: Job) -> tuple[bytes, ...]:
        """The encoded images of a finished job. Raises RefusalError (404) if they have expired meanwhile."""
        images = await self._broker.images(job.id)
        if not images:
            raise refuse_unknown_prediction(job.id)
        return images

    async def _take_from_bucket(self, owner: str) -> dict[str, str]:
        if self._config.rate_limit is None:
            return {}
        decision = await self._broker.take(owner, self._config.rate_limit)
        if not decision.allowed:
            raise refuse_for_rate(decision)
        return build_rate_headers(decision)

    def _cache_key(self, order: Order, parameters: GenerationParameters) -> str | None:
        if order.wanted.seed is None or self._config.cache.ttl_seconds == 0:
            return None  # without a seed, every request asks for a new picture
        return result_cache_key(parameters, self._model, _library_versions())

    async def _keep(self, key: str, images: tuple[bytes, ...]) -> None:
        if not images or sum(map(len, images)) > self._config.cache.max_entry_bytes:
            return
        try:
            await self._broker.cache_put(key, images, ttl_seconds=self._config.cache.ttl_seconds)
        except BrokerUnavailableError as error:
            logger.warning("a result was not cached: %s", error)  # the client has its images all the same
