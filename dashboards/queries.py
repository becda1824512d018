"""PromQL over Easel's metrics, as dashboards ask it: right for any number of pods and of the operator's replicas.

A *scope* is a selector's labels: one service's, or those of the namespaces that are looked at. What every pod reports
of what all share is the largest of what they say; what is each pod's own is summed.
"""

from collections.abc import Sequence
from typing import Final

ONE_SERVICE: Final = 'namespace="$namespace", service="$service"'
FLEET: Final = 'namespace=~"$namespace"'
BY_SERVICE: Final = ("namespace", "service")
SECONDS_AN_HOUR: Final = 3600


def select(metric: str, scope: str, where: str = "") -> str:
    """An instant vector; ``where`` are further matchers, such as ``state="Waiting"``."""
    matchers = ", ".join(part for part in (scope, where) if part)
    return f"{metric}{{{matchers}}}" if matchers else metric


def latest(metric: str, scope: str, by: Sequence[str] = (), where: str = "") -> str:
    """Of a gauge that several pods report alike: the largest is the freshest, and a sum would count it many times."""
    return f"max{_by(by)} ({select(metric, scope, where)})"


def total(metric: str, scope: str, by: Sequence[str] = (), where: str = "") -> str:
    """Of a gauge that is each pod's own."""
    return f"sum{_by(by)} ({select(metric, scope, where)})"


def rate(metric: str, scope: str, by: Sequence[str] = (), where: str = "") -> str:
    """Of a counter that is each pod's own: a second, summed over pods."""
    return f"sum{_by(by)} (rate({select(metric, scope, where)}[$__rate_interval]))"


def latest_rate(metric: str, scope: str, by: Sequence[str] = (), where: str = "") -> str:
    """Of a counter that each replica of the operator counts for itself, of the same: a second."""
    return f"max{_by(by)} (rate({select(metric, scope, where)}[$__rate_interval]))"


def quantile(share: float, histogram: str, scope: str, by: Sequence[str] = (), where: str = "") -> str:
    """What ``share``, 0 to 1, of the observations didn't exceed, interpolated within a bucket."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', scope, (*by, 'le'), where)})"


def mean(histogram: str, scope: str, by: Sequence[str] = (), where: str = "") -> str:
    """Sum over count; no sample where nothing was observed."""
    return f"{rate(f'{histogram}_sum', scope, by, where)} / ({rate(f'{histogram}_count', scope, by, where)} > 0)"


def share(part: str, whole: str) -> str:
    """0 to 1; no sample where there is no whole."""
    return f"{part} / ({whole} > 0)"


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
