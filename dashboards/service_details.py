"""Rows further down on one service's dashboard: latency, errors, cost and what is kept."""

from typing import Final

from easel_contract import metrics
from grafana_foundation_sdk.builders import timeseries

from dashboards.panels import BAD, CARE, GOOD, Query, build_time_series
from dashboards.queries import ONE_SERVICE as HERE
from dashboards.queries import latest, latest_rate, mean, quantile, rate

TARGET: Final = latest(metrics.SERVICE_TARGET_LATENCY_SECONDS, HERE)
COLD_START_PHASES: Final = {
    "scheduled": "orange",
    "pulled": "purple",
    "imported": "yellow",
    "weights": "blue",
    "compiled": "text",
    "warm": GOOD,
}
OUTCOMES: Final = {"Succeeded": GOOD, "Failed": BAD, "Canceled": "text"}
MAX_CUSTOMERS: Final = 10


def build_latency_panels() -> tuple[timeseries.Panel, ...]:
    """How late images are, and what takes the time."""
    return (*_job_latency_panels(), *_start_panels())


def _job_latency_panels() -> tuple[timeseries.Panel, ...]:
    target = Query(TARGET, "target", BAD, dashed=True)
    return (
        build_time_series(
            "Latency",
            "From submitted to finished, of succeeded jobs. p95 above the target spends the error budget: the alert "
            "EaselLatencyBudgetBurns goes by it.",
            "s",
            *(
                Query(quantile(percent / 100, metrics.JOB_LATENCY_SECONDS, HERE), f"p{percent}", color)
                for percent, color in ((50, GOOD), (95, "blue"), (99, "purple"))
            ),
            target,
        ),
        build_time_series(
            "Latency by phase",
            "Mean time of a job in each phase. Queue: more or earlier workers help. Load: it met a cold start; keep "
            "spec.scaling.minReplicas. Run and encode: a faster engine or smaller images.",
            "s",
            Query(mean(metrics.JOB_PHASE_SECONDS, HERE, ("phase",)), "{{phase}}"),
            target,
            stacked=True,
            colors={"queue": "orange", "load": "purple", "run": GOOD, "encode": "blue"},
        ),
        build_time_series(
            "Age of the queue",
            "How long the oldest waiting job has waited. A saw tooth above the target: bursts that are larger than "
            "what cold starts allow.",
            "s",
            Query(latest(metrics.OLDEST_WAITING_AGE_SECONDS, HERE), "oldest waiting", "orange"),
            target,
        ),
    )


def _start_panels() -> tuple[timeseries.Panel, ...]:
    return (
        build_time_series(
            "Cold starts by phase",
            "From a pod's creation to Ready, mean of those that ended then. Scheduled: nodes come up. Pulled: keep "
            "the image on the nodes. Weights: a model cache or a faster volume helps. Compiled: spec.worker.engine.",
            "s",
            Query(mean(metrics.SERVICE_COLD_START_PHASE_SECONDS, HERE, ("phase",)), "{{phase}}"),
            width=12,
            stacked=True,
            bars=True,
            colors=COLD_START_PHASES,
        ),
        build_time_series(
            "HTTP latency p95 by route",
            "Of gateways' answers, waiting for the image included where the client waits. A route that is slow "
            "without a queue: look at Redis and at the gateways' CPU.",
            "s",
            Query(quantile(0.95, metrics.HTTP_REQUEST_DURATION_SECONDS, HERE, ("route",)), "{{route}}"),
            width=12,
        ),
    )


def build_error_panels() -> tuple[timeseries.Panel, ...]:
    """What fails: of requests, then of pods."""
    return (*_request_errors(), *_pod_errors())


def _request_errors() -> tuple[timeseries.Panel, ...]:
    return (
        build_time_series(
            "Jobs by outcome",
            "Failed ones are our affair: `easel logs --job ID` says why. Canceled ones are the clients'.",
            "reqps",
            Query(rate(metrics.JOBS_TOTAL, HERE, ("outcome",)), "{{outcome}}"),
            stacked=True,
            colors=OUTCOMES,
        ),
        build_time_series(
            "HTTP answers by code",
            "429: a customer's limit or a full queue. 503: no worker in time, or Redis is away. 507: Redis or the "
            "image budget is full. 5xx else: the gateways' logs.",
            "reqps",
            Query(rate(metrics.HTTP_REQUESTS_TOTAL, HERE, ("code",)), "{{code}}"),
            stacked=True,
        ),
        build_time_series(
            "Refusals by reason",
            "Requests that weren't taken. Many of one reason come from one client's mistake, or from a limit that is "
            "too low.",
            "reqps",
            Query(rate(metrics.REFUSALS_TOTAL, HERE, ("reason",)), "{{reason}}"),
            stacked=True,
        ),
    )


def _pod_errors() -> tuple[timeseries.Panel, ...]:
    return (
        build_time_series(
            "Webhooks",
            "Attempts by outcome. Retried: receivers answer late or with errors. Failed: given up after the last "
            "attempt; the receiver's owner must look.",
            "reqps",
            Query(rate(metrics.WEBHOOKS_TOTAL, HERE, ("outcome",)), "{{outcome}}"),
            stacked=True,
            colors={"delivered": GOOD, "retried": CARE, "failed": BAD},
        ),
        build_time_series(
            "Workers: restarts and failed attempts",
            "A worker that restarts again and again: `kubectl logs --previous`. Attempts that fail without restarts: "
            "the engine's errors, in the worker's log.",
            "ops",
            Query(rate(metrics.SERVICE_WORKER_RESTARTS_TOTAL, HERE), "restarts", BAD),
            Query(rate(metrics.FAILED_ATTEMPTS_TOTAL, HERE), "failed attempts", "orange"),
        ),
        build_time_series(
            "Scrapes that failed",
            "Pods whose figures the operator couldn't read. Above zero for minutes: it plans with less than it could "
            "know; look at the pods and at network policies.",
            "ops",
            Query(latest_rate(metrics.SERVICE_SCRAPE_FAILURES_TOTAL, HERE), "failed", BAD),
        ),
    )


def build_cost_panels() -> tuple[timeseries.Panel, ...]:
    """What is paid for, and what is kept."""
    return (*_cost_panels(), *_store_panels())


def _cost_panels() -> tuple[timeseries.Panel, ...]:
    succeeded = rate(metrics.JOBS_TOTAL, HERE, where='outcome="Succeeded"')
    customers = latest(metrics.CUSTOMER_GPU_SECONDS_TOTAL, HERE, ("customer",))
    return (
        build_time_series(
            "GPUs held and worked",
            "GPU-seconds a second. What is held and not worked is paid for nothing: a lower headroom, a shorter "
            "scaleDownAfterSeconds, or fewer minReplicas.",
            "none",
            Query(rate(metrics.SERVICE_HELD_GPU_SECONDS_TOTAL, HERE), "held", "orange"),
            Query(rate(metrics.SERVICE_WORKED_GPU_SECONDS_TOTAL, HERE), "worked", GOOD),
        ),
        build_time_series(
            "Cost of a job",
            "GPU-seconds held at their price, over the jobs that succeeded. It rises with idle workers.",
            "none",
            Query(
                f"{rate(metrics.SERVICE_COST_TOTAL, HERE, ('currency',))} / ignoring (currency) group_left () "
                f"({succeeded} > 0)",
                "{{currency}}",
            ),
        ),
        build_time_series(
            "GPU-seconds of customers today",
            f"Since midnight UTC, the {MAX_CUSTOMERS} largest. For bills: `easel usage`.",
            "s",
            Query(f"topk({MAX_CUSTOMERS}, {customers})", "{{customer}}"),
        ),
    )


def _store_panels() -> tuple[timeseries.Panel, ...]:
    redis = latest("easel_operator_redis_memory_bytes", "", ("server",))
    room = latest("easel_operator_redis_max_memory_bytes", "", ("server",))
    return (
        build_time_series(
            "Cache",
            "Requests by how they met the cache. Bypass: no seed was given, so no image can be the same.",
            "reqps",
            Query(rate(metrics.CACHE_REQUESTS_TOTAL, HERE, ("result",)), "{{result}}"),
            stacked=True,
            colors={"hit": GOOD, "shared": "blue", "miss": "orange", "bypass": "text"},
        ),
        build_time_series(
            "Memory of Redis",
            "Of all services that share it. At the maximum new requests are refused (507): see "
            "docs/platform/redis.md for more room.",
            "bytes",
            Query(redis, "{{server}}"),
            Query(f"{room} > 0", "maximum of {{server}}", BAD, dashed=True),
        ),
        build_time_series(
            "Room for images",
            "Bytes of finished images against their budget. At the budget requests are refused (507): shorten "
            "gateway.results.ttlSeconds or raise maxBytes.",
            "bytes",
            Query(latest(metrics.IMAGE_STORE_BYTES, HERE, where='kind="used"'), "used", GOOD),
            Query(latest(metrics.IMAGE_STORE_BYTES, HERE, where='kind="reserved"'), "reserved", CARE),
            Query(latest(metrics.IMAGE_STORE_BYTES, HERE, where='kind="budget"'), "budget", BAD, dashed=True),
            stacked=True,
        ),
    )
