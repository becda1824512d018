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
from dashboards.queries import SECONDS_AN_HOUR, latest, quantile, rate, share
from dashboards.service_details import TARGET, build_cost_panels, build_error_panels, build_latency_panels

UID: Final = "easel-service"
TITLE: Final = "Easel / One service"
FINISHED: Final = 'outcome=~"Succeeded|Failed"'
HOLDING: Final = 'type=~"Ready|ModelLoaded|ScalingActive|CapacityAvailable|AddOnsAvailable"'  # True is good
PHASES: Final = {"Ready": GOOD, "Loading": "blue", "Preparing": "purple", "Placing": "orange"}


def build() -> builders.Dashboard:
    """What ``helm/easel/dashboards/service.json`` is made of."""
    dashboard = build_dashboard(
        UID, TITLE, "One StableDiffusionService: read it from the top; what is wrong comes first.", pick_one_service()
    )
    dashboard.link(link_to("All services", "easel-fleet"))
    rows = {
        "Now": (*_build_figures(), *_build_conditions()),
        "Demand, and the workers for it": (*_demand_panels(), *_worker_panels()),
        "Latency": build_latency_panels(),
        "Errors": build_error_panels(),
        "Cost, cache, Redis": build_cost_panels(),
    }
    for title, panels in rows.items():
        dashboard.with_row(builders.Row(title))
        for panel in panels:
            dashboard.with_panel(panel)
    return dashboard


def _build_figures() -> tuple[Builder[Panel], ...]:
    return (*_request_figures(), *_worker_figures())


def _request_figures() -> tuple[Builder[Panel], ...]:
    return (
        build_stat(
            "Ready",
            "The condition Ready. Where it says no: the table beside it says what to do, and so does "
            "`kubectl describe sds`.",
            "none",
            Query(_holds('type="Ready"', by=False), "Ready"),
            thresholds=((None, BAD), (1, GOOD)),
            texts={"0": ("no", BAD), "1": ("yes", GOOD)},
        ),
        build_stat(
            "Oldest waiting request",
            "How long the longest waiting request has waited. Beyond the target: look at the workers, then at why "
            "there are so many.",
            "s",
            Query(latest(metrics.OLDEST_WAITING_AGE_SECONDS, HERE), "oldest"),
            thresholds=((None, GOOD), (60, CARE), (900, BAD)),
        ),
        build_stat(
            "Latency p95 of the target",
            "Above 100 % one request in twenty is later than spec.scaling.targetLatencySeconds. Look at the phases of "
            "latency: queue means too few workers, run means a target that no worker can keep.",
            "percentunit",
            Query(share(quantile(0.95, metrics.JOB_LATENCY_SECONDS, HERE), TARGET), "p95 of the target"),
            thresholds=((None, GOOD), (0.8, CARE), (1, BAD)),
            decimals=0,
        ),
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
        ),
    )


def _worker_figures() -> tuple[Builder[Panel], ...]:
    return (
        build_stat(
            "Workers ready",
            "Pods that take jobs now. Fewer than ordered for minutes: look at the pods by phase.",
            "none",
            Query(latest(metrics.SERVICE_WORKER_PODS, HERE, where='phase="Ready"'), "ready"),
        ),
        build_stat(
            "Cost an hour",
            "GPUs held now, at spec.worker.pricePerGpuHour. No price, no figure.",
            "none",
            Query(f"{rate(metrics.SERVICE_COST_TOTAL, HERE, ('currency',))} * {SECONDS_AN_HOUR}", "{{currency}}"),
            decimals=2,
            named=True,
        ),
    )


def _build_conditions() -> tuple[Builder[Panel], ...]:
    wrong = " or ".join((_conditions(HOLDING, "False"), _conditions('type="Stalled"', "True")))
    return (
        build_table(
            "What is wrong",
            "Conditions that aren't as they should be. Each reason is explained under docs/runbooks; the sentence that "
            "belongs to it is in `kubectl describe sds`. Nothing here: nothing is wrong.",
            {"type": "Condition", "reason": "Reason"},
            [Column("since", wrong, "none")],
            width=12,
            height=6,
            hide_values=True,
        ),
        build_timeline(
            "Conditions",
            "When each condition held. A gap means that no operator said anything: see the fleet's dashboard.",
            Query(_holds(HOLDING, by=True), "{{type}}"),
            texts={"0": ("False", BAD), "1": ("True", GOOD)},
            height=6,
        ),
    )


def _holds(where: str, *, by: bool) -> str:
    """1 where the condition is True, 0 where it isn't; no sample where nobody says."""
    labels = ("type",) if by else ()
    holds = latest(metrics.SERVICE_CONDITION, HERE, labels, f'{where}, status="True"')
    return f"{holds} or 0 * {latest(metrics.SERVICE_CONDITION, HERE, labels, where)}"


def _conditions(where: str, status: str) -> str:
    return latest(metrics.SERVICE_CONDITION, HERE, ("type", "reason"), f'{where}, status="{status}"')


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
