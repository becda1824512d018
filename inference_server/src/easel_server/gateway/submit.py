"""From a client's request to a stored job: filled in, priced, charged, looked up in the cache, queued."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from easel_contract.add_ons import AddOnConfig
from easel_contract.gateway_config import CacheScope, GatewayConfig
from easel_contract.server_config import Priority
from opentelemetry.trace import SpanKind, Tracer

from easel_server.gateway.client_warnings import build_warning_headers
from easel_server.gateway.live_config import LiveConfig
from easel_server.gateway.queue_estimate import QueueEstimates, build_terms
from easel_server.gateway.rate_limits import Charges, build_charges
from easel_server.gateway.refusals import (
    FieldFault,
    RefusalError,
    refuse_field,
    refuse_fields,
    refuse_for_model,
    refuse_for_queue,
    refuse_uncached,
    refuse_unknown_model,
)
from easel_server.gateway.results import Results
from easel_server.generation.cost import CostModel
from easel_server.generation.filling.context import FillContext
from easel_server.generation.filling.table import InvalidParametersError, fill_in
from easel_server.generation.job import Job, JobState
from easel_server.generation.messages import bound_warnings
from easel_server.generation.models import (
    ModelFacts,
    ModelIdentity,
    RequestedModel,
    build_cache_key,
    build_flight_key,
    digest_parameters,
)
from easel_server.generation.parameters import GenerationParameters, choose_seed, list_add_ons
from easel_server.generation.prompts.syntax import find_words
from easel_server.generation.recipes.recipe import find_missing, list_differences
from easel_server.generation.request import GenerationRequest
from easel_server.stores.cache.interface import CachedImages
from easel_server.stores.images.interface import StoreFullError
from easel_server.stores.jobs.interface import (
    JobConflictError,
    JobStore,
    QueueFullError,
    QueuePosition,
    ServiceClosingError,
)
from easel_server.stores.limits.interface import RateLimiter
from easel_server.telemetry.gateway_metrics import CacheResult, RequestMetrics
from easel_server.telemetry.logs import request_id
from easel_server.telemetry.tracing import NO_TRACER, open_span, to_trace_parent

PRIORITIES: Final = (Priority.LOW, Priority.NORMAL, Priority.HIGH)  # upwards


@dataclass(frozen=True)
class SubmitResult:
    """A job that is stored, and what the answer's headers say about it."""

    job: Job
    created: bool
    cache_result: CacheResult
    images: tuple[bytes, ...] | None = None  # known already, from the cache
    age_seconds: float = 0.0  # of those
    rate_headers: Mapping[str, str] = field(default_factory=dict)
    is_stored: bool = True  # False: there is no such job, only its images
    position: QueuePosition | None = None  # of a job that was queued just now
    max_age_seconds: int | None = None  # how old the answer may get in its client's own cache; None: not said

    @property
    def headers(self) -> dict[str, str]:
        """Headers of an answer that shows the job as it was submitted."""
        return self.build_headers(self.job)

    def build_headers(self, job: Job) -> dict[str, str]:
        """Headers of the answer, which shows ``job``: this result's job, perhaps as it is later."""
        headers = {"X-Cache": str(self.cache_result), **self.rate_headers}
        if warnings := job.warnings:
            headers |= build_warning_headers(warnings)
        if self.is_stored:
            headers["X-Prediction-Id"] = self.job.client_id or self.job.id
        if self.images is not None:
            headers["Age"] = str(int(self.age_seconds))
        if self.max_age_seconds is not None:
            headers["Cache-Control"] = f"private, max-age={self.max_age_seconds}"
        return headers


class Submitter:
    """Submits requests of all APIs."""

    def __init__(
        self,
        jobs: JobStore,
        limiter: RateLimiter,
        results: Results,
        estimates: QueueEstimates,
        live: LiveConfig,
        config: GatewayConfig,
        metrics: RequestMetrics,
        tracer: Tracer = NO_TRACER,
        *,
        facts: Callable[[], Awaitable[ModelFacts]],
        cost_model: Callable[[], Awaitable[CostModel]],
        load_failure: Callable[[], Awaitable[str | None]],
        contents: Callable[[Sequence[AddOnConfig]], Awaitable[Mapping[str, str] | None]],
    ) -> None:
        """``facts``, ``cost_model`` and ``load_failure`` are asked at each request: they change meanwhile."""
        self._jobs = jobs
        self._limiter = limiter
        self._results = results
        self._estimates = estimates
        self._live = live
        self._config = config
        self._metrics = metrics
        self._tracer = tracer
        self._facts = facts
        self._cost_model = cost_model
        self._load_failure = load_failure
        self._contents = contents

    async def submit(self, request: GenerationRequest) -> SubmitResult:
        """Store the request's job, finished at once if the cache has its images.

        What isn't served isn't charged; what was submitted before isn't charged again, nor refused for a limit.
        Raises RefusalError, StoreFullError, ServiceClosingError, JobConflictError and StoreUnavailableError.
        """
        model = self._live.requested
        if request.model is not None and request.model != model.name:
            raise refuse_unknown_model(request.model, model.name)
        job = await self._build_job(request, model)
        charges = Charges(self._limiter)
        try:
            answer = await self._charge(request, job, charges)
        except RefusalError:
            if await self._jobs.get(job.id) is None:
                raise
            answer = None
        if answer is not None and not request.needs_job:
            self._metrics.count_cache(CacheResult.HIT)
            return self._answer_without_job(job, answer, charges)
        return await self._store(request, job, answer, charges)

    async def _build_job(self, request: GenerationRequest, model: RequestedModel) -> Job:
        facts = await self._facts()
        parameters = self._fill_in(request, facts)
        is_seeded = "seed" in request.given or parameters.upscale is not None  # which leaves nothing to chance
        if not is_seeded and self._config.cache.unseeded and request.cache.read:
            # A seed that follows from the rest: requests that are equal but for it become equal.
            bare = parameters.model_copy(update={"seed": 0})
            parameters = parameters.model_copy(update={"seed": choose_seed(bare.model_dump_json())})
            is_seeded = True
        sharer = request.customer.name if self._config.cache.scope is CacheScope.CUSTOMER else None
        may_be_cached = is_seeded and self._results.is_cache_enabled
        now = datetime.now(UTC)
        add_ons = list_add_ons(parameters, self._live.add_ons)
        own = facts.identity_of(model)
        generated_by = await self._find_identity(own, add_ons)
        return Job(
            id=request.job_id,
            owner=request.customer.name,
            parameters=parameters,
            add_ons=add_ons,
            model=model,
            # Believed; stored only with images that it generated
            generated_by=generated_by,
            submitted_at=now,
            deadline_at=now + request.deadline if request.deadline else None,
            webhook=request.webhook,
            client_id=request.client_id,
            base_url=request.base_url if request.webhook else None,  # answers know theirs
            priority=choose_priority(request),
            weight=request.customer.weight,
            predicted_gpu_seconds=(await self._cost_model()).predict(parameters),
            wanted_previews=request.previews,
            request_id=request_id.get(),
            request_warnings=list_warnings(request, parameters, generated_by or own),
            cache_key=digest_parameters(parameters.to_wire(), sharer) if may_be_cached else None,
        )

    async def _find_identity(
        self, identity: ModelIdentity | None, add_ons: Sequence[AddOnConfig]
    ) -> ModelIdentity | None:
        """What a job would be generated with, as far as all of it is known."""
        if identity is None or not add_ons:
            return identity
        digests = await self._contents(add_ons)
        return identity.with_add_ons(digests) if digests is not None else None

    def _fill_in(self, request: GenerationRequest, facts: ModelFacts) -> GenerationParameters:
        if request.recipe is not None:
            digests = request.inputs.digests if request.inputs else {}
            if missing := dict(find_missing(request.recipe, request.given, digests)):
                raise refuse_fields(*(FieldFault(request.field_names[name], said) for name, said in missing.items()))
        context = FillContext(
            facts,
            self._config.limits,
            request.job_id,
            request.inputs,
            is_prompt_required=request.is_prompt_required,
            add_ons=self._live.add_ons,
            model=self._live.name,
        )
        try:
            return fill_in(request.given, context)
        except InvalidParametersError as error:
            faults = (FieldFault(request.field_names[fault.name], fault.message) for fault in error.faults)
            raise refuse_fields(*faults) from None

    async def _charge(self, request: GenerationRequest, job: Job, charges: Charges) -> CachedImages | None:
        """Charge the request for what it takes; its images if the cache has them. Raises RefusalError."""
        requests = build_charges(request.customer, self._config, requests=1)
        work = build_charges(request.customer, self._config, gpu_seconds=job.predicted_gpu_seconds)
        if job.cache_key is None or not request.cache.read:
            if request.cache.only_if_cached:
                raise refuse_uncached()
            await self._check_wait(request, job)
            await charges.charge([*requests, *work])
            return None
        # First the request alone: who is over the limit shall not make us fetch images.
        await charges.charge(requests)
        if job.generated_by is not None:
            key = build_cache_key(job.cache_key, job.generated_by)
            if (answer := await self._results.find_cached(key, request.cache)) is not None:
                return answer
        try:
            if request.cache.only_if_cached:
                raise refuse_uncached()
            await self._check_wait(request, job)
        except RefusalError:
            await charges.refund()
            raise
        await charges.charge(work)
        return None

    async def _check_wait(self, request: GenerationRequest, job: Job) -> None:
        """Whether it is worth while to wait for the job. Raises RefusalError."""
        if request.is_waited_for and (failure := await self._load_failure()) is not None:
            raise refuse_for_model(failure)
        await self._estimates.check(job)

    async def _store(
        self, request: GenerationRequest, job: Job, answer: CachedImages | None, charges: Charges
    ) -> SubmitResult:
        may_share = job.cache_key is not None and request.cache.read
        model = job.model or self._live.requested
        with open_span(self._tracer, "submit job", kind=SpanKind.PRODUCER, attributes={"easel.job.id": job.id}) as span:
            changes = {
                "trace_parent": to_trace_parent(span),
                "cache_key": job.cache_key if request.cache.write else None,
                "generated_by": job.generated_by if answer is not None else None,
                "generation_warnings": answer.warnings if answer is not None else (),
                **(await self._build_load_warning(request, job) if answer is None else {}),
            }
            try:
                reply = await self._jobs.submit(
                    job.model_copy(update=changes),
                    answer=answer.images if answer else None,
                    inputs=request.inputs.by_digest() if request.inputs else {},
                    flight_key=build_flight_key(job.cache_key, model) if job.cache_key and may_share else None,
                    terms=build_terms(job, self._live.queue),
                    target_seconds=self._live.queue.target_seconds,
                )
            except QueueFullError as full:
                await charges.refund()
                raise refuse_for_queue(full, await self._estimates.predict_claims(full.claims_before_a_place)) from None
            except (StoreFullError, ServiceClosingError, JobConflictError):
                await charges.refund()
                raise
        if not reply.created:
            await charges.refund()
        elif reply.shared:
            await charges.refund(build_charges(request.customer, self._config, gpu_seconds=job.predicted_gpu_seconds))
        elif answer is None:
            self._metrics.count_submitted()
            bounded = self._live.queue.bound_gpu_seconds(job.predicted_gpu_seconds)
            self._metrics.count_predicted(job.predicted_gpu_seconds, bounded)
            self._estimates.note_submitted(job.predicted_gpu_seconds)
        result = CacheResult.HIT if answer else CacheResult.MISS if may_share else CacheResult.BYPASS
        result = CacheResult.SHARED if reply.shared else result
        self._metrics.count_cache(result)
        return SubmitResult(
            reply.job,
            reply.created,
            result,
            images=answer.images if answer else None,
            age_seconds=answer.age_seconds if answer else 0.0,
            rate_headers=charges.headers,
            position=reply.position,
        )

    async def _build_load_warning(self, request: GenerationRequest, job: Job) -> dict[str, tuple[str, ...]]:
        """What a job says that is queued though nobody could generate it now."""
        failure = None if request.is_waited_for else await self._load_failure()
        if failure is None:
            return {}
        warning = f"no worker can load the model: {failure}; this waits until one can"
        return {"request_warnings": bound_warnings((*job.request_warnings, warning))}

    def _answer_without_job(self, job: Job, answer: CachedImages, charges: Charges) -> SubmitResult:
        generated_at = job.submitted_at - timedelta(seconds=answer.age_seconds)
        times = {"started_at": generated_at, "finished_at": generated_at}
        return SubmitResult(
            job.model_copy(update={"state": JobState.SUCCEEDED, "generation_warnings": answer.warnings, **times}),
            created=True,
            cache_result=CacheResult.HIT,
            images=answer.images,
            age_seconds=answer.age_seconds,
            rate_headers=charges.headers,
            is_stored=False,
            max_age_seconds=self._config.cache.ttl_seconds,
        )


def list_warnings(
    request: GenerationRequest, parameters: GenerationParameters, identity: ModelIdentity | None
) -> tuple[str, ...]:
    """What the API found that can't be done as asked, and what its prompts say in signs that nobody reads here."""
    warnings = [*request.warnings]
    for name in ("prompt", "negative_prompt"):
        text = getattr(parameters, name)
        if "[" in text or "AND" in text:
            warnings += (f"{request.field_names[name]}: {warning}" for warning in find_words(text))
    if request.recipe is not None:
        digests = request.inputs.digests if request.inputs else {}
        warnings += list_differences(request.recipe, digests, identity, parameters.adapters)
    return bound_warnings(warnings) if warnings else ()


def choose_priority(request: GenerationRequest) -> Priority:
    """The priority of the request's job. Raises RefusalError for one that its customer may not have."""
    highest = request.customer.max_priority
    if request.priority is None:
        return min(Priority.NORMAL, highest, key=PRIORITIES.index)
    if PRIORITIES.index(request.priority) > PRIORITIES.index(highest):
        allowed = ", ".join(PRIORITIES[: PRIORITIES.index(highest) + 1])
        raise refuse_field("priority", f"is {request.priority}, allowed for this API key are {allowed}")
    return request.priority
