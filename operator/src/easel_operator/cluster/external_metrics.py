"""Serves external.metrics.k8s.io/v1beta1, through which HorizontalPodAutoscalers read what the planner proposes."""

import ssl
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from easel_operator.cluster.serving_certificate import FrontProxy


class ExternalMetricsServer:
    """The HTTPS server behind the APIService. Holds the last published values of each service in memory."""

    def __init__(self, *, stale_after: timedelta, clock: Callable[[], datetime]) -> None: ...

    def publish(self, namespace: str, service: str, values: Mapping[str, float], at: datetime) -> None:
        """Replace a service's values. ``at``: when the data behind them was read (Plan.data_at)."""
        raise NotImplementedError

    def forget(self, namespace: str, service: str) -> None:
        """Drop a service that is gone; unknown ones are ignored."""
        raise NotImplementedError

    async def serve(self, host: str, port: int, tls: ssl.SSLContext, front_proxy: FrontProxy) -> None:
        """Start to listen and return; called again, it replaces the certificate, the trusted CA and the names."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        """The port that it listens on (serve may have been given 0)."""
        raise NotImplementedError

    async def close(self) -> None:
        """Stop listening and end the connections."""
        raise NotImplementedError
