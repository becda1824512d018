"""From a validated request to a job, and from a job to its images: what all APIs share."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from easel_contract.server_config import GatewayConfig, ModelConfig
from opentelemetry.trace import SpanKind, Tracer

from easel_server.gateway.admission import build_parameters, choose_seed
from easel_server.gateway.orders import Order, Placed, choose_priority
from easel_server.gateway.queue_estimate import Estimate, Waiting
from easel_server.gateway.rate_limits import Charges, build_request_charges, build_work_charges
from easel_server.gateway.refusals import RefusalError, refuse_uncached, refuse_unknown_prediction
from easel_server.gateway.results import ResultStore
from easel_server.generation.cost import CostModel
from easel_server.generation.job import Job, JobState
from easel_server.generation.models import ModelFacts, result_cache_key
from easel_server.generation.parameters import GenerationParameters
from easel_server.stores.cache.interface import CachedImages, ResultCache
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.facts.interface import FactStore
from easel_server.stores.interface import Broker
from easel_server.stores.jobs.interface import JobConflictError, QueueFullError, QueuePosition
from easel_server.stores.limits.interface import RateLimiter
from easel_server.telemetry.logs import request_id
from easel_server.telemetry.metrics import CacheResult, RequestMetrics
from easel_server.telemetry.tracing import NO_TRACER, open_span, to_trace_parent

LIBRARIES = ("easel", "diffusers", "torch", "transformers")  # whose versions may change pixels


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
        facts: Callable[[], Awaitable[ModelFacts]],
        metrics: RequestMetrics,
        tracer: Tracer = NO_TRACER,
        *,
        cost_model: Callable[[], Awaitable[CostModel]],
        result_cache: ResultCache | None = None,
    ) -> None:
        """``facts`` and ``cost_model`` are asked at each request, since they change while a gateway runs.

        ``result_cache`` is the broker's unless another is given.
        """
        self._broker = broker
        self._model = model
        self._config = config
        self._facts = facts
        self._metrics = metrics
        self._tracer = tracer
        self._results = ResultStore(result_cache or broker, config.cache)
        self._cost_model = cost_model
        self._waiting = Waiting(broker, config, facts)

    @property
    def limiter(self) -> RateLimiter:
        """The buckets that orders are charged to."""
        return self._broker

    @property
    def fact_store(self) -> FactStore:
        """Where small facts are kept for all gateways."""
        return self._broker

    async def place(self, order: Order) -> Placed:
        """Store the order's job, finished at once if the cache has its images.

        What isn't served isn't charged; what was submitted before isn't charged again, nor refused for a limit.
        Raises RefusalError, and the broker's QueueFullError, JobConflictError and StoreUnavailableError.
        """
        job = await self._build_job(order)
        charges = Charges(self._broker)
        try:
            answer = await self._charge(order, job, charges)
        except RefusalError:
            if await self._broker.get(job.id) is None:
                raise
            answer = None
        if answer is not None and not order.needs_job:
            self._metrics.count_cache(CacheResult.HIT)
            return self._answer_without_job(job, answer, charges)
        return await self._submit(order, job, answer, charges)

    async def _build_job(self, order: Order) -> Job:
        facts = await self._facts()
        parameters = build_parameters(
            order.wanted,
            facts=facts,
            limits=self._config.limits,
            names=order.names,
            job_id=order.job_id,
        )
        is_seeded = order.wanted.seed is not None
        if not is_seeded and self._config.cache.unseeded and order.cache.read:
            # A seed that follows from the rest: requests that are equal but for it become equal.
            bare = parameters.model_copy(update={"seed": 0})
            parameters = parameters.model_copy(update={"seed": choose_seed(bare.model_dump_json())})
            is_seeded = True
        now = datetime.now(UTC)
        return Job(
            id=order.job_id,
            owner=order.customer.name,
            parameters=parameters,
            submitted_at=now,
            deadline_at=now + order.deadline if order.deadline else None,
            webhook=order.webhook,
            priority=choose_priority(order),
            weight=order.customer.weight,
            predicted_gpu_seconds=(await self._cost_model()).predict(parameters),
            wanted_previews=order.wanted_previews,
            request_id=request_id.get(),
            cache_key=self._cache_key(parameters, facts) if is_seeded and self._results.is_enabled else None,
        )

    def _cache_key(self, parameters: GenerationParameters, facts: ModelFacts) -> str:
        # Two engines draw different pictures, and the same ones under another version perhaps not the same.
        return result_cache_key(parameters, self._model, {**_library_versions(), "engine": facts.engine or "unknown"})

    async def _charge(self, order: Order, job: Job, charges: Charges) -> CachedImages | None:
        """Charge the order for what it takes; its images if the cache has them. Raises RefusalError."""
        requests = build_request_charges(order.customer, self._config)
        work = build_work_charges(order.customer, self._config, job.predicted_gpu_seconds)
        if job.cache_key is None or not order.cache.read:
            if order.cache.only_if_cached:
                raise refuse_uncached()
            await self._waiting.check(job)
            await charges.charge([*requests, *work])
            return None
        # First the request alone: who is over the limit shall not make us fetch pictures.
        await charges.charge(requests)
        answer = await self._results.find(job.cache_key, order.cache)
        if answer is not None:
            return answer
        try:
            if order.cache.only_if_cached:
                raise refuse_uncached()
            await self._waiting.check(job)
        except RefusalError:
            await charges.refund()
            raise
        await charges.charge(work)
        return None

    async def _submit(self, order: Order, job: Job, answer: CachedImages | None, charges: Charges) -> Placed:
        may_share = job.cache_key is not None and order.cache.read
        stored = job if order.cache.write else job.model_copy(update={"cache_key": None})
        attributes = {"easel.job.id": job.id}
        with open_span(self._tracer, "submit job", kind=SpanKind.PRODUCER, attributes=attributes) as span:
            stored = stored.model_copy(update={"trace_parent": to_trace_parent(span)})
            try:
                submission = await self._broker.submit(
                    stored,
                    answer=answer.images if answer else None,
                    inputs=order.inputs,
                    flight_key=job.cache_key if may_share else None,
                )
            except (QueueFullError, JobConflictError):
                await charges.refund()
                raise
        if not submission.created:
            await charges.refund()
        elif submission.shared:
            await charges.refund(build_work_charges(order.customer, self._config, job.predicted_gpu_seconds))
        elif answer is None:
            self._metrics.count_submitted()
            self._metrics.count_predicted(job.predicted_gpu_seconds)
            self._waiting.note_submitted(job.predicted_gpu_seconds)
        result = CacheResult.HIT if answer else CacheResult.MISS if may_share else CacheResult.BYPASS
        result = CacheResult.SHARED if submission.shared else result
        self._metrics.count_cache(result)
        return Placed(
            submission.job,
            submission.created,
            result,
            images=answer.images if answer else None,
            age_seconds=answer.age_seconds if answer else 0.0,
            rate_headers=charges.headers,
            position=submission.position,
        )

    def _answer_without_job(self, job: Job, answer: CachedImages, charges: Charges) -> Placed:
        drawn_at = job.submitted_at - timedelta(seconds=answer.age_seconds)
        done = job.model_copy(update={"state": JobState.SUCCEEDED, "started_at": drawn_at, "finished_at": drawn_at})
        return Placed(
            done,
            created=True,
            cache_result=CacheResult.HIT,
            images=answer.images,
            age_seconds=answer.age_seconds,
            rate_headers=charges.headers,
            is_stored=False,
            max_age_seconds=self._config.cache.ttl_seconds,
        )

    async def wait(self, placed: Placed, timeout_seconds: float) -> Job:
        """The job once it is final, or as it is after the time-out. Its images go into the cache.

        Raises RefusalError if the job is gone, and StoreUnavailableError.
        """
        if placed.job.state.is_final:
            return placed.job
        job = await self._broker.wait(placed.job.id, timeout_seconds)
        if job is None:
            raise refuse_unknown_prediction(placed.job.id)
        if job.state is JobState.SUCCEEDED and job.cache_key is not None:
            with suppress(RefusalError, StoreUnavailableError):  # whoever wants the images themselves will hear of it
                await self.images(job)
        return job

    async def find(self, job_id: str, owner: str) -> Job:
        """The owner's job. Raises RefusalError (404) if there is none, and StoreUnavailableError."""
        job = await self._broker.get(job_id)
        if job is None or job.owner != owner:
            raise refuse_unknown_prediction(job_id)
        return job

    async def cancel(self, job_id: str, owner: str) -> Job:
        """Ask for the end of the owner's job. Raises as ``find``."""
        found = await self.find(job_id, owner)
        return await self._broker.cancel(job_id) or found

    async def images(self, job: Job) -> tuple[bytes, ...]:
        """The encoded images of a finished job. Whoever reads them first puts them into the cache.

        Raises RefusalError (404) if they have expired meanwhile, and StoreUnavailableError.
        """
        key = job.cache_key if job.state is JobState.SUCCEEDED else None
        if key is not None and (copied := self._results.find_drawn_by(job.id, key)) is not None:
            return copied
        images = await self._broker.images(job.id)
        if not images:
            raise refuse_unknown_prediction(job.id)
        if key is not None:
            age = datetime.now(UTC) - (job.finished_at or job.submitted_at)
            await self._results.keep(job.id, key, CachedImages(images, max(0.0, age.total_seconds())))
        return images

    def watch(self, job: Job) -> AsyncGenerator[Job]:
        """The job whenever it has changed, as ``JobStore.watch``. Raises StoreUnavailableError."""
        return self._broker.watch(job.id)

    async def previews(self, job: Job) -> tuple[bytes, ...]:
        """The job's unfinished pictures so far (PNG). Raises StoreUnavailableError."""
        return await self._broker.previews(job.id)

    async def facts(self) -> ModelFacts:
        """What is known of the model now."""
        return await self._facts()

    async def estimate(self, job: Job, position: QueuePosition | None = None) -> Estimate:
        """What is predicted of the job's wait. Asks the broker only if the job waits. Raises StoreUnavailableError."""
        return await self._waiting.estimate(job, position)
