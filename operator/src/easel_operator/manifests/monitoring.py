"""What the Prometheus operator reads of one service: a monitor of its pods, and alerts."""

from typing import Final

from easel_contract import metrics, names
from easel_contract.resource.monitoring import MonitoringSpec

from easel_operator.manifests.metadata import ChildContext, Owner, build_metadata
from easel_operator.objects import POD_MONITORS, PROMETHEUS_RULES, Json

COMPONENT: Final = "monitoring"
FAILED_SHARE: Final = 0.05
SERVICE_ALERTS: Final = ("EaselServiceLosesRedis", "EaselServiceJobsFail", "EaselServiceMissesItsTarget")
RUNBOOK_URL: Final = "https://github.com/easel-dev/easel/blob/main/docs/runbooks"  # as the chart's alerts by default
# As the Prometheus operator names what it knows of a pod. The namespace's label is its own doing.
RELABELINGS: Final = (
    {"sourceLabels": ["__meta_kubernetes_pod_label_easel_dev_service"], "targetLabel": "service"},
    {"sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_component"], "targetLabel": "component"},
)
# A pod's own word on whose it is comes second to what is known of it.
METRIC_RELABELINGS: Final = ({"action": "labeldrop", "regex": "exported_(namespace|service)"},)


def build_monitoring(context: ChildContext, monitoring: MonitoringSpec) -> list[Json]:
    """A monitor, and a rule unless alerts aren't wanted."""
    owner = context.owner
    endpoint = {
        "port": names.METRICS_PORT_NAME,
        "interval": f"{monitoring.interval_seconds}s",
        "relabelings": list(RELABELINGS),
        "metricRelabelings": list(METRIC_RELABELINGS),
    }
    children = [
        {
            "apiVersion": POD_MONITORS.api_version,
            "kind": POD_MONITORS.kind,
            "metadata": _build_metadata(owner, monitoring),
            "spec": {
                "selector": {"matchLabels": {names.LABEL_SERVICE: owner.name}},
                "podMetricsEndpoints": [endpoint],
            },
        }
    ]
    if monitoring.alerts:
        children.append(
            {
                "apiVersion": PROMETHEUS_RULES.api_version,
                "kind": PROMETHEUS_RULES.kind,
                "metadata": _build_metadata(owner, monitoring),
                "spec": {"groups": [{"name": f"{owner.namespace}-{owner.name}", "rules": _build_alerts(context)}]},
            }
        )
    return children


def _build_alerts(context: ChildContext) -> list[Json]:
    """On the pods' own figures, so that they need no rule of the chart's."""
    owner, scaling = context.owner, context.spec.scaling
    name = f"{owner.namespace}/{owner.name}"
    here = f'namespace="{owner.namespace}",service="{owner.name}"'
    alerts = [
        _build_alert(
            SERVICE_ALERTS[0],
            f"max by (namespace, service) ({metrics.BROKER_UP}{{{here}}}) == 0",
            "1m",
            "critical",
            f"No pod of {name} reaches Redis.",
        ),
        _build_alert(
            SERVICE_ALERTS[1],
            f'sum by (namespace, service) (rate({metrics.JOBS_TOTAL}{{{here},outcome="Failed"}}[15m])) / '
            f'sum by (namespace, service) (rate({metrics.JOBS_TOTAL}{{{here},outcome=~"Failed|Succeeded"}}[15m])) '
            f"> {FAILED_SHARE}",
            "5m",
            "warning",
            f"More than {FAILED_SHARE:.0%} of the jobs of {name} fail.",
        ),
    ]
    if scaling is not None:
        target = scaling.target_latency_seconds
        buckets = f"rate({metrics.JOB_LATENCY_SECONDS}_bucket{{{here}}}[15m])"
        alerts.append(
            _build_alert(
                SERVICE_ALERTS[2],
                f"histogram_quantile(0.95, sum by (namespace, service, le) ({buckets})) > {target}",
                "15m",
                "warning",
                f"One in twenty images of {name} takes longer than the target, {target} s.",
            )
        )
    return alerts


def _build_alert(name: str, expression: str, lasting: str, severity: str, summary: str) -> Json:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "runbook_url": f"{RUNBOOK_URL}/{name}.md"},
    }


def _build_metadata(owner: Owner, monitoring: MonitoringSpec) -> Json:
    metadata = build_metadata(owner, owner.name, COMPONENT)
    return {**metadata, "labels": {**monitoring.labels, **metadata["labels"]}}
