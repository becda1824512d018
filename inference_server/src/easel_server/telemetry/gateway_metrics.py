"""What a gateway counts of requests, of the cache and of webhooks."""

from enum import StrEnum
from typing import Final, Protocol

from easel_contract import metrics as contract
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from easel_server.outbound.fetch import FetchFailure

FETCHED: Final = "fetched"  # of an input image's address, beside why not
WEBHOOK_OUTCOMES: Final = ("delivered", "retried", "failed")


class CacheResult(StrEnum):
    """Whether a request was answered from the result cache."""

    HIT = "hit"
    MISS = "miss"
    SHARED = "shared"  # an equal request was under way: both get its images
    BYPASS = "bypass"  # not looked up: no seed was given, the client or the configuration said no


class RequestMetrics(Protocol):
    """Counters of a gateway."""

    def count_request(self, route: str, code: int, method: str, seconds: float) -> None:
        """A request was answered; ``route`` is the template, never the path as sent, ``method`` one of a known few."""
        ...

    def count_submitted(self) -> None:
        """A job was submitted to the job store."""
        ...

    def count_predicted(self, gpu_seconds: float, bounded_gpu_seconds: float) -> None:
        """So much work was submitted to the job store, and so much of it can one pod do within the target."""
        ...

    def count_cache(self, result: CacheResult) -> None:
        """A generation met the result cache."""
        ...

    def count_refusal(self, reason: str) -> None:
        """A request was refused; ``reason`` is the refusal's code."""
        ...

    def count_streams(self, change: int) -> None:
        """Event streams were opened (1) or closed (-1)."""
        ...

    def count_input_fetch(self, result: str) -> None:
        """An input image was fetched by its address, or why not."""
        ...


class GatewayMetrics:
    """The counters of a gateway; see RequestMetrics, which handlers know."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        """Those of a process that is no gateway count, and aren't registered."""
        self._jobs_submitted = Counter(contract.JOBS_SUBMITTED_TOTAL, "Jobs accepted.", registry=registry)
        self._http_requests = Counter(
            contract.HTTP_REQUESTS_TOTAL, "HTTP requests answered.", ["route", "code"], registry=registry
        )
        self._http_seconds = Histogram(
            contract.HTTP_REQUEST_DURATION_SECONDS,
            "Time from a request's head to the end of its answer, of clients' requests; code is its class.",
            ["route", "method", "code"],
            buckets=contract.HTTP_BUCKETS_SECONDS,
            registry=registry,
        )
        self._cache_requests = Counter(
            contract.CACHE_REQUESTS_TOTAL, "Look-ups in the result cache.", ["result"], registry=registry
        )
        for result in CacheResult:
            self._cache_requests.labels(result)  # a rate needs a zero to start from
        self._refusals = Counter(contract.REFUSALS_TOTAL, "Requests refused.", ["reason"], registry=registry)
        self._webhooks = Counter(contract.WEBHOOKS_TOTAL, "Webhook deliveries.", ["outcome"], registry=registry)
        for outcome in WEBHOOK_OUTCOMES:
            self._webhooks.labels(outcome)
        self._webhook_seconds = Histogram(
            contract.WEBHOOK_DELIVERY_SECONDS,
            "Time from an event to the receiver's answer that it has its webhook, of delivered ones, retries included.",
            buckets=contract.WEBHOOK_BUCKETS_SECONDS,
            registry=registry,
        )
        self._input_fetches = Counter(
            contract.INPUT_FETCHES_TOTAL,
            "Input images that were fetched by their addresses, and those that were not.",
            ["result"],
            registry=registry,
        )
        for fetch in (FETCHED, *FetchFailure):
            self._input_fetches.labels(fetch)
        self._predicted = Counter(
            contract.PREDICTED_GPU_SECONDS_TOTAL, "Predicted GPU-seconds of jobs accepted.", registry=registry
        )
        self._bounded = Counter(
            contract.BOUNDED_GPU_SECONDS_TOTAL,
            "Of them, what one pod can do of each job within the service's target at most.",
            registry=registry,
        )
        self._streams = Gauge(contract.STREAMS, "Event streams that are open.", registry=registry)

    def count_request(self, route: str, code: int, method: str, seconds: float) -> None:
        """Count an answered HTTP request; ``route`` is the template, never the path as sent, ``method`` a known one."""
        self._http_requests.labels(route, str(code)).inc()
        self._http_seconds.labels(route, method, f"{code // 100}xx").observe(seconds)

    def count_submitted(self) -> None:
        """Count a job that was submitted to the job store."""
        self._jobs_submitted.inc()

    def count_predicted(self, gpu_seconds: float, bounded_gpu_seconds: float) -> None:
        """Count the work of a job that was submitted to the job store."""
        self._predicted.inc(gpu_seconds)
        self._bounded.inc(bounded_gpu_seconds)

    def count_cache(self, result: CacheResult) -> None:
        """Count a request by how it met the result cache."""
        self._cache_requests.labels(result).inc()

    def count_refusal(self, reason: str) -> None:
        """Count a refused request by the refusal's code."""
        self._refusals.labels(reason).inc()

    def count_webhook(self, outcome: str) -> None:
        """Count an attempt to deliver a webhook: delivered, retried or failed."""
        self._webhooks.labels(outcome).inc()

    def observe_delivery(self, seconds: float) -> None:
        """Count how long it took until a webhook was delivered."""
        self._webhook_seconds.observe(max(0.0, seconds))

    def count_streams(self, change: int) -> None:
        """Count event streams that were opened (1) or closed (-1)."""
        self._streams.inc(change)

    def count_input_fetch(self, result: str) -> None:
        """Count an input image that was fetched by its address, or why it wasn't."""
        self._input_fetches.labels(result).inc()
