"""What every dashboard has: the datasource as a variable, namespaces and services to pick, time, links."""

from collections.abc import Sequence
from typing import Final

from easel_contract import metrics
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard

from dashboards.panels import DATASOURCE

TAG: Final = "easel"


def build_dashboard(
    uid: str, title: str, description: str, variables: Sequence[builders.QueryVariable]
) -> builders.Dashboard:
    """Without panels. ``variables`` follow the datasource's."""
    made = (
        builders.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .readonly()
    )
    made.with_variable(builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    for variable in variables:
        made.with_variable(variable)
    return made


def pick_one_service() -> list[builders.QueryVariable]:
    """A namespace, and a service there."""
    return [
        _pick("namespace", "Namespace", f"label_values({metrics.BROKER_UP}, namespace)"),
        _pick("service", "Service", f'label_values({metrics.BROKER_UP}{{namespace="$namespace"}}, service)'),
    ]


def pick_namespaces() -> list[builders.QueryVariable]:
    """Any of the namespaces; all at first."""
    picked = _pick("namespace", "Namespace", f"label_values({metrics.BROKER_UP}, namespace)")
    picked.multi(True).include_all(True).all_value(".*")
    picked.current(dashboard.VariableOption(text="All", value="$__all", selected=True))
    return [picked]


def link_to(title: str, uid: str) -> builders.DashboardLink:
    """A link above the panels that keeps the time and the variables."""
    link = builders.DashboardLink(title).type(dashboard.DashboardLinkType.LINK).url(f"/d/{uid}")
    return link.keep_time(True).include_vars(True).icon("dashboard")


def _pick(name: str, label: str, query: str) -> builders.QueryVariable:
    picked = builders.QueryVariable(name).label(label).datasource(DATASOURCE).query(query)
    return picked.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(dashboard.VariableSort.ALPHABETICAL_ASC)
