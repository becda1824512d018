"""The dashboard of one service: what is wrong, what is asked for, why so many workers, how late, what it costs."""

from typing import Final

from easel_contract import metrics
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from dashboards.frame import build_dashboard, link_to, pick_one_service
from dashboards.panels import (
    BAD,
    CARE,
    GOOD,
    Column,
    Query,
    build_stat,
    build_table,
    build_time_series,
    build_timeline,
)
from dashboards.queries import ONE_SERVICE as HERE
from dashboards.queries import SECONDS_AN_HOUR, latest, mean, quantile, rate, share

UID: Final = "easel-service"
TITLE: Final = "Easel / One service"
TARGET: Final = latest(metrics.SERVICE_TARGET_LATENCY_SECONDS, HERE)
FINISHED: Final = 'outcome=~"Succeeded|Failed"'
HOLDING: Final = 'type=~"Ready|ModelLoaded|ScalingActive|CapacityAvailable|AddOnsAvailable"'  # True is good
PHASES: Final = {"Ready": GOOD, "Loading": "blue", "Preparing": "purple", "Placing": "orange"}
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


def build() -> builders.Dashboard:
    """What ``helm/easel/dashboards/service.json`` is made of."""
    dashboard = build_dashboard(
        UID, TITLE, "One StableDiffusionService: read it from the top; what is wrong comes first.", pick_one_service()
    )
    dashboard.link(link_to("All services", "easel-fleet"))
    for add in (_add_now, _add_demand, _add_latency, _add_errors, _add_cost):
        add(dashboard)
    return dashboard


def _add_now(dashboard: builders.Dashboard) -> None:
    dashboard.with_row(builders.Row("Now"))
    dashboard.with_panel(
        build_stat(
            "Ready",
            "The condition Ready. Where it says no: the table beside it says what to do, and so does "
            "`kubectl describe sds`.",
            "none",
            Query(_holds('type="Ready"', by=False), "Ready"),
            thresholds=((None, BAD), (1, GOOD)),
            texts={"0": ("no", BAD), "1": ("yes", GOOD)},
        )
    )
    dashboard.with_panel(
        build_stat(
            "Oldest waiting request",
            "How long the longest waiting request has waited. Beyond the target: look at the workers, then at why "
            "there are so many.",
            "s",
            Query(latest(metrics.OLDEST_WAITING_AGE_SECONDS, HERE), "oldest"),
            thresholds=((None, GOOD), (60, CARE), (900, BAD)),
        )
    )
    dashboard.with_panel(
        build_stat(
            "Latency p95 of the target",
            "Above 100 % one request in twenty is later than spec.scaling.targetLatencySeconds. Look at the phases of "
            "latency: queue means too few workers, run means a target that no worker can keep.",
            "percentunit",
            Query(share(quantile(0.95, metrics.JOB_LATENCY_SECONDS, HERE), TARGET), "p95 of the target"),
            thresholds=((None, GOOD), (0.8, CARE), (1, BAD)),
            decimals=0,
        )
    )
    dashboard.with_panel(
        build_stat(
            "Jobs that fail",
            "Share of the jobs that ended. Above 1 %: look at the errors below, then at `easel logs`.",
            "percentunit",
            Query(
                share(
                    rate(metrics.JOBS_TOTAL, HERE, where='outcome="Failed"'),
                    rate(metrics.JOBS_TOTAL, HERE, (), FINISHED),
                ),
                "failed",
            ),
            thresholds=((None, GOOD), (0.01, CARE), (0.05, BAD)),
            decimals=1,
        )
    )
    dashboard.with_panel(
        build_stat(
            "Workers ready",
            "Pods that take jobs now. Fewer than ordered for minutes: look at the pods by phase.",
            "none",
            Query(latest(metrics.SERVICE_WORKER_PODS, HERE, where='phase="Ready"'), "ready"),
        )
    )
    dashboard.with_panel(
        build_stat(
            "Cost an hour",
            "GPUs held now, at spec.worker.pricePerGpuHour. No price, no figure.",
            "none",
            Query(f"{rate(metrics.SERVICE_COST_TOTAL, HERE, ('currency',))} * {SECONDS_AN_HOUR}", "{{currency}}"),
            decimals=2,
            named=True,
        )
    )
    wrong = " or ".join((_conditions(HOLDING, "False"), _conditions('type="Stalled"', "True")))
    dashboard.with_panel(
        build_table(
            "What is wrong",
            "Conditions that aren't as they should be. Each reason is explained under docs/runbooks; the sentence that "
            "belongs to it is in `kubectl describe sds`. Nothing here: nothing is wrong.",
            {"type": "Condition", "reason": "Reason"},
            [Column("since", wrong, "none")],
            width=12,
            height=6,
            hide_values=True,
        )
    )
    dashboard.with_panel(
        build_timeline(
            "Conditions",
            "When each condition held. A gap means that no operator said anything: see the fleet's dashboard.",
            Query(_holds(HOLDING, by=True), "{{type}}"),
            texts={"0": ("False", BAD), "1": ("True", GOOD)},
            height=6,
        )
    )


def _holds(where: str, *, by: bool) -> str:
    """1 where the condition is True, 0 where it isn't; no sample where nobody says."""
    labels = ("type",) if by else ()
    holds = latest(metrics.SERVICE_CONDITION, HERE, labels, f'{where}, status="True"')
    return f"{holds} or 0 * {latest(metrics.SERVICE_CONDITION, HERE, labels, where)}"


def _conditions(where: str, status: str) -> str:
    return latest(metrics.SERVICE_CONDITION, HERE, ("type", "reason"), f'{where}, status="{status}"')


def _add_demand(dashboard: builders.Dashboard) -> None:
    dashboard.with_row(builders.Row("Demand, and the workers for it"))
    for panel in (*_demand_panels(), *_worker_panels()):
        dashboard.with_panel(panel)


def _demand_panels() -> tuple[timeseries.Panel, ...]:
    bounded = metrics.BOUNDED_BACKLOG_GPU_SECONDS
    return (
        build_time_series(
            "Demand",
            "Requests that were accepted, and jobs that ended. Where the two part, the backlog grows or shrinks.",
            "reqps",
            Query(rate(metrics.JOBS_SUBMITTED_TOTAL, HERE), "accepted", "blue"),
            Query(rate(metrics.JOBS_TOTAL, HERE), "ended", GOOD),
        ),
        build_time_series(
            "Arriving work",
            "Predicted GPU-seconds a second, that is, how many GPUs the arriving requests keep busy. What stays above "
            "the workers' number needs more of them: raise spec.scaling.maxReplicas if that is the bound.",
            "none",
            Query(rate(metrics.PREDICTED_GPU_SECONDS_TOTAL, HERE), "arriving", "blue"),
            Query(rate(metrics.WORK_GPU_SECONDS_TOTAL, HERE), "worked", GOOD),
        ),
        build_time_series(
            "Backlog in GPU-seconds",
            "Predicted work of the jobs that wait and run. Over the ready workers it is how long the queue takes. "
            "If it grows while the workers are at their maximum: raise that, or refuse more (limits of customers).",
            "s",
            Query(latest(metrics.BACKLOG_GPU_SECONDS, HERE, where='state="Running"'), "running", GOOD),
            Query(latest(metrics.BACKLOG_GPU_SECONDS, HERE, where='state="Waiting"'), "waiting", "orange"),
            Query(f"sum ({latest(bounded, HERE, ('state',))})", "bounded by the target", "text", dashed=True),
            stacked=True,
        ),
    )


def _worker_panels() -> tuple[Builder[Panel], ...]:
    reasons = {"1": ("held", "blue")}
    return (
        build_time_series(
            "Worker pods by phase",
            "Placing: no node has room, see CapacityAvailable. Preparing: images and volumes. Loading: the model. "
            "Ordered above the pods for minutes: look at the Deployment's events. At the maximum with a backlog: raise "
            "spec.scaling.maxReplicas.",
            "none",
            *(
                Query(latest(metrics.SERVICE_WORKER_PODS, HERE, where=f'phase="{phase}"'), phase, color, step=True)
                for phase, color in PHASES.items()
            ),
            Query(latest(metrics.SERVICE_WORKER_REPLICAS, HERE), "ordered", "text", dashed=True, step=True),
            Query(latest(metrics.SERVICE_MAX_REPLICAS, HERE), "maximum", BAD, dashed=True, step=True),
            width=8,
            stacked=True,
        ),
        build_time_series(
            "Workers that each signal asks for",
            "The largest is ordered, within the bounds. A signal that asks for much more than the others says what "
            "drives the cost.",
            "none",
            Query(latest("easel_operator_proposed_replicas", HERE, ("signal",)), "{{signal}}", step=True),
            width=8,
        ),
        build_timeline(
            "Why so many workers",
            "What the operator's last decision went by; its sentence is in `kubectl get sds -o wide`. MaxReplicas or "
            "NoCapacity for long: requests wait that needn't. DataMissing: pods can't be scraped, see the errors.",
            Query(latest(metrics.SERVICE_DECISION, HERE, ("reason",)), "{{reason}}"),
            texts=reasons,
            width=8,
        ),
    )


def _add_latency(dashboard: builders.Dashboard) -> None:
    dashboard.with_row(builders.Row("Latency"))
    target = Query(TARGET, "target", BAD, dashed=True)
    for panel in (
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
    ):
        dashboard.with_panel(panel)


def _add_errors(dashboard: builders.Dashboard) -> None:
    dashboard.with_row(builders.Row("Errors"))
    for panel in (*_request_errors(), *_pod_errors()):
        dashboard.with_panel(panel)


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
            Query(rate(metrics.SERVICE_SCRAPE_FAILURES_TOTAL, HERE), "failed", BAD),
        ),
    )


def _add_cost(dashboard: builders.Dashboard) -> None:
    dashboard.with_row(builders.Row("Cost, cache, Redis"))
    for panel in (*_cost_panels(), *_store_panels()):
        dashboard.with_panel(panel)


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
