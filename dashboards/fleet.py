"""The dashboard of all services: which is in trouble, where the GPUs are, what they cost, and how the operator does."""

from typing import Final

from easel_contract import metrics
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import stat, table, timeseries

from dashboards import service
from dashboards.frame import build_dashboard, pick_namespaces
from dashboards.panels import BAD, CARE, GOOD, Column, Query, build_stat, build_table, build_time_series
from dashboards.queries import BY_SERVICE, FLEET, SECONDS_AN_HOUR, latest, latest_rate, quantile, rate, share, total

UID: Final = "easel-fleet"
TITLE: Final = "Easel / All services"
NAME: Final = "{{namespace}}/{{service}}"
READY: Final = 'phase="Ready"'
OPERATOR: Final = ""  # figures of the operator itself and of Redis belong to no namespace
# Kept with the time and the datasource that are looked at.
SERVICE_LINK: Final = (
    f"/d/{service.UID}?${{datasource:queryparam}}&${{__url_time_range}}"
    "&var-namespace=${__data.fields.Namespace}&var-service=${__value.text}"
)


def build() -> builders.Dashboard:
    """What ``helm/easel/dashboards/fleet.json`` is made of."""
    dashboard = build_dashboard(
        UID,
        TITLE,
        "All StableDiffusionServices of the namespaces above, and the operator behind them.",
        pick_namespaces(),
    )
    dashboard.with_row(builders.Row("Now"))
    for figure in (*_service_figures(), *_cost_figures()):
        dashboard.with_panel(figure)
    dashboard.with_panel(_wrong()).with_panel(_services())
    dashboard.with_row(builders.Row("Demand, workers, cost"))
    for panel in (*_demand_panels(), *_cost_panels()):
        dashboard.with_panel(panel)
    dashboard.with_row(builders.Row("The operator and Redis"))
    for panel in (*_operator_panels(), *_trouble_panels()):
        dashboard.with_panel(panel)
    return dashboard


def _per_service(metric: str, where: str = "") -> str:
    return latest(metric, FLEET, BY_SERVICE, where)


def _service_figures() -> tuple[stat.Panel, ...]:
    ready = _per_service(metrics.SERVICE_CONDITION, 'type="Ready", status="True"')
    known = _per_service(metrics.SERVICE_CONDITION, 'type="Ready"')
    return (
        build_stat(
            "Services",
            "StableDiffusionServices that an operator looks after. Fewer than you applied: look at the operator's "
            "watched namespaces.",
            "none",
            Query(f"count ({known})", "services"),
        ),
        build_stat(
            "Not ready",
            "Services whose condition Ready isn't True. The table below names them and the reason.",
            "none",
            Query(f"count ({known} unless {ready}) or 0 * count ({known})", "not ready"),
            thresholds=((None, GOOD), (1, BAD)),
        ),
        build_stat(
            "Workers ready of ordered",
            "Below 100 % for minutes: pods that find no node or don't come up; look at the workers below.",
            "percentunit",
            Query(
                share(
                    f"sum ({_per_service(metrics.SERVICE_WORKER_PODS, READY)})",
                    f"sum ({_per_service(metrics.SERVICE_WORKER_REPLICAS)})",
                ),
                "ready",
            ),
            thresholds=((None, BAD), (0.7, CARE), (0.95, GOOD)),
            decimals=0,
        ),
    )


def _cost_figures() -> tuple[stat.Panel, ...]:
    held, worked = (
        rate(metric, FLEET)
        for metric in (metrics.SERVICE_HELD_GPU_SECONDS_TOTAL, metrics.SERVICE_WORKED_GPU_SECONDS_TOTAL)
    )
    return (
        build_stat(
            "GPUs held",
            "GPUs of worker pods that are on a node, whether they work or not. What all services pay for.",
            "none",
            Query(held, "held"),
            decimals=1,
        ),
        build_stat(
            "Of them at work",
            "Share of the GPU-seconds held in which an engine generated. Below a third for hours: services with a low "
            "demand hold workers; lower minReplicas or let them scale to zero.",
            "percentunit",
            Query(share(worked, held), "at work"),
            thresholds=((None, CARE), (0.33, GOOD)),
            decimals=0,
        ),
        build_stat(
            "Cost an hour",
            "GPUs held now, at each service's price. Services without a price cost nothing here.",
            "none",
            Query(f"{rate(metrics.SERVICE_COST_TOTAL, FLEET, ('currency',))} * {SECONDS_AN_HOUR}", "{{currency}}"),
            decimals=2,
            named=True,
        ),
    )


def _wrong() -> table.Panel:
    labels = (*BY_SERVICE, "type", "reason")
    bad = latest(metrics.SERVICE_CONDITION, FLEET, labels, f'{service.HOLDING}, status="False"')
    stalled = latest(metrics.SERVICE_CONDITION, FLEET, labels, 'type="Stalled", status="True"')
    return build_table(
        "What is wrong",
        "Conditions that aren't as they should be. Open the service, and look up the reason in docs/runbooks. Nothing "
        "here: nothing is wrong.",
        {"type": "Condition", "reason": "Reason", "namespace": "Namespace", "service": "Service"},
        [Column("since", f"{bad} or {stalled}", "none")],
        width=8,
        height=9,
        link=SERVICE_LINK,
        hide_values=True,
    )


def _services() -> table.Panel:
    p95 = quantile(0.95, metrics.JOB_LATENCY_SECONDS, FLEET, BY_SERVICE)
    cost = f"{rate(metrics.SERVICE_COST_TOTAL, FLEET, BY_SERVICE)} * {SECONDS_AN_HOUR}"
    target = _per_service(metrics.SERVICE_TARGET_LATENCY_SECONDS)
    late = ((None, GOOD), (0.8, CARE), (1, BAD))
    return build_table(
        "Each service",
        "As it is now. Waiting and p95 say who is in trouble, GPUs and cost who has more than it needs. A "
        "service's name leads to its own dashboard.",
        {"namespace": "Namespace", "service": "Service"},
        [
            Column("Ordered", _per_service(metrics.SERVICE_WORKER_REPLICAS), "none"),
            Column("Ready", _per_service(metrics.SERVICE_WORKER_PODS, READY), "none"),
            Column("Backlog", f"sum by (namespace, service) ({_backlog()})", "s", decimals=0),
            Column(
                "Oldest",
                _per_service(metrics.OLDEST_WAITING_AGE_SECONDS),
                "s",
                ((None, GOOD), (60, CARE), (900, BAD)),
                decimals=0,
            ),
            Column("p95 of target", share(p95, target), "percentunit", late, decimals=0),
            Column("GPUs", rate(metrics.SERVICE_HELD_GPU_SECONDS_TOTAL, FLEET, BY_SERVICE), "none", decimals=1),
            Column("Cost an hour", cost, "none", decimals=2),
        ],
        width=16,
        height=9,
        link=SERVICE_LINK,
    )


def _backlog() -> str:
    return latest(metrics.BACKLOG_GPU_SECONDS, FLEET, (*BY_SERVICE, "state"))


def _demand_panels() -> tuple[timeseries.Panel, ...]:
    return (
        build_time_series(
            "Demand by service",
            "Requests that were accepted. Compare with the backlog: demand that grows without a backlog is served.",
            "reqps",
            Query(rate(metrics.JOBS_SUBMITTED_TOTAL, FLEET, BY_SERVICE), NAME),
            stacked=True,
        ),
        build_time_series(
            "Backlog in GPU-seconds by service",
            "Predicted work of the jobs that wait and run. A service whose backlog only grows has too few workers: "
            "open it, and see why.",
            "s",
            Query(f"sum by (namespace, service) ({_backlog()})", NAME),
            stacked=True,
        ),
        build_time_series(
            "Latency p95 of the target by service",
            "Above 1 the service is late. Many services at once: look at Redis, at nodes, and at the operator below.",
            "percentunit",
            Query(
                share(
                    quantile(0.95, metrics.JOB_LATENCY_SECONDS, FLEET, BY_SERVICE),
                    _per_service(metrics.SERVICE_TARGET_LATENCY_SECONDS),
                ),
                NAME,
            ),
        ),
    )


def _cost_panels() -> tuple[timeseries.Panel, ...]:
    ordered = f"sum ({_per_service(metrics.SERVICE_WORKER_REPLICAS)})"
    return (
        build_time_series(
            "Workers: ready and ordered",
            "Ready ones by service, beside all that are ordered. A gap that stays: no capacity, or pods "
            "that don't come up.",
            "none",
            Query(_per_service(metrics.SERVICE_WORKER_PODS, READY), NAME, step=True),
            Query(ordered, "ordered", "text", dashed=True, step=True),
            stacked=True,
        ),
        build_time_series(
            "GPUs held and worked",
            "GPU-seconds a second, of all services. The distance between the two is what idles.",
            "none",
            Query(rate(metrics.SERVICE_HELD_GPU_SECONDS_TOTAL, FLEET), "held", "orange"),
            Query(rate(metrics.SERVICE_WORKED_GPU_SECONDS_TOTAL, FLEET), "worked", GOOD),
        ),
        build_time_series(
            "Cost an hour by service",
            "What each service's GPUs cost, at its price. Whose share grows without more demand holds too much.",
            "none",
            Query(f"{rate(metrics.SERVICE_COST_TOTAL, FLEET, BY_SERVICE)} * {SECONDS_AN_HOUR}", NAME),
            stacked=True,
        ),
    )


def _operator_panels() -> tuple[timeseries.Panel, ...]:
    return (
        build_time_series(
            "Reconciliations",
            "By outcome. Only failures: the operator's log says at what. Nothing at all while services change: it "
            "hears nothing, see the alert EaselOperatorDeaf.",
            "ops",
            Query(rate("easel_operator_reconciles_total", OPERATOR, ("outcome",)), "{{outcome}}"),
            stacked=True,
        ),
        build_time_series(
            "How long the operator takes",
            "A reconciliation and a tick of the scaling loop, p95. A tick longer than "
            "operator.scrapeIntervalSeconds: workers are ordered late; give the operator more CPU.",
            "s",
            Query(quantile(0.95, "easel_operator_reconcile_seconds", OPERATOR), "reconciliation", "blue"),
            Query(quantile(0.95, "easel_operator_scaling_tick_seconds", OPERATOR), "tick", "orange"),
        ),
        build_time_series(
            "Requests to the Kubernetes API",
            "By code. 403: rights are missing, compare the chart's roles. 409: another hand writes the same objects. "
            "429 and 5xx: the API server is in trouble.",
            "reqps",
            Query(rate(metrics.OPERATOR_API_REQUESTS_TOTAL, OPERATOR, ("code",)), "{{code}}"),
            stacked=True,
        ),
    )


def _trouble_panels() -> tuple[timeseries.Panel, ...]:
    memory = latest("easel_operator_redis_memory_bytes", OPERATOR, ("server",))
    room = latest("easel_operator_redis_max_memory_bytes", OPERATOR, ("server",))
    return (
        build_time_series(
            "Memory of Redis in use",
            "Of its maxmemory, by server. At 100 % new requests of all services are refused (507): "
            "docs/platform/redis.md says how to give it more.",
            "percentunit",
            Query(share(memory, room), "{{server}}"),
        ),
        build_time_series(
            "Faults and failed scrapes",
            "Faults are errors of the operator that nobody foresaw: report them with the log's traceback. Scrapes that "
            "fail: a service's pods can't be reached, look at network policies.",
            "ops",
            Query(rate("easel_operator_faults_total", OPERATOR), "faults", BAD),
            Query(latest_rate(metrics.SERVICE_SCRAPE_FAILURES_TOTAL, FLEET, BY_SERVICE), f"scrapes of {NAME}"),
        ),
        build_time_series(
            "Leader and certificate",
            "How many replicas lead: 1, or nothing is scaled. Days until the certificate of the metrics API expires: "
            "it is renewed long before; below 7 look at the alert EaselCertificateExpiring.",
            "none",
            Query(total("easel_operator_is_leader", OPERATOR), "leaders", GOOD, step=True),
            Query(f"min ({metrics.OPERATOR_CERTIFICATE_EXPIRY} - time()) / 86400", "days of the certificate", "blue"),
        ),
    )
