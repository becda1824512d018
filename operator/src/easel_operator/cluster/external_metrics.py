"""Serves external.metrics.k8s.io/v1beta1, through which HorizontalPodAutoscalers read what the planner proposes.

kube-apiserver authorises its users and then asks us over TLS with its front-proxy certificate; only that is believed,
and read access is all there is to give. Values older than ``stale_after`` are an error, never a number: an error makes
the autoscaler keep what it has, a 0 would make it release every pod.
https://github.com/kubernetes/metrics/blob/master/pkg/apis/external_metrics/v1beta1/types.go
"""

import math
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from easel_contract import metrics, names

from easel_operator.autoscaling.signals import SIGNALS
from easel_operator.cluster.label_selector import parse_label_selector
from easel_operator.cluster.serving_certificate import FrontProxy

GROUP: Final = "external.metrics.k8s.io"
VERSION: Final = "v1beta1"
GROUP_VERSION: Final = f"{GROUP}/{VERSION}"
METRIC_NAMES: Final = (
    *(signal.metric for signal in SIGNALS),
    metrics.EXTERNAL_QUEUE_DEPTH,
    metrics.EXTERNAL_BACKLOG_GPU_SECONDS,
    metrics.EXTERNAL_ARRIVING_GPU_SECONDS_PER_SECOND,
    metrics.EXTERNAL_LATENCY_P95_SECONDS,
)
SHUTDOWN_TIMEOUT_SECONDS: Final = 5.0
KEEPALIVE_SECONDS: Final = 75.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Publication:
    """One service's values, and when the data behind them was read."""

    values: Mapping[str, float]
    at: datetime


class ApiError(Exception):
    """A refusal, answered as a metav1.Status."""

    def __init__(self, code: HTTPStatus, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message

    def to_response(self) -> web.Response:
        """The Status that Kubernetes' clients understand."""
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        return web.json_response(status, status=self.code)


class ExternalMetricsServer:
    """The HTTPS server behind the APIService. Holds the last published values of each service in memory."""

    def __init__(self, *, stale_after: timedelta, clock: Callable[[], datetime]) -> None:
        self._stale_after = stale_after
        self._clock = clock
        self._publications: dict[tuple[str, str], Publication] = {}
        self._front_proxy = FrontProxy("", frozenset())
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    def publish(self, namespace: str, service: str, values: Mapping[str, float], at: datetime) -> None:
        """Replace a service's values. ``at``: when the data behind them was read (Plan.data_at).

        Raises ValueError for a value that isn't a finite number: a missing one is left out.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"{namespace}/{service}: {name} is {value}, expected a finite number or none at all")
        self._publications[namespace, service] = Publication(dict(values), at)

    def forget(self, namespace: str, service: str) -> None:
        """Drop a service that is gone; unknown ones are ignored."""
        self._publications.pop((namespace, service), None)

    async def serve(self, host: str, port: int, tls: ssl.SSLContext, front_proxy: FrontProxy) -> None:
        """Start to listen and return; called again, it replaces the certificate, the trusted CA and the names.

        A connection is only as good as the CA that its client was checked by: with another one, those that are open
        are closed, and their clients are checked anew.
        """
        is_trust_changed, self._front_proxy = front_proxy != self._front_proxy, front_proxy
        if self._runner is None:
            self._runner = web.AppRunner(
                self._build_application(),
                access_log=None,
                keepalive_timeout=KEEPALIVE_SECONDS,
                shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS,
            )
            await self._runner.setup()
        if self._site is not None:
            await self._site.stop()
        self._site = web.TCPSite(self._runner, host, port, ssl_context=tls)
        await self._site.start()
        if is_trust_changed and self._runner.server is not None:
            for connection in self._runner.server.connections:
                connection.force_close()

    @property
    def port(self) -> int:
        """The port that it listens on (serve may have been given 0). Raises RuntimeError before serve."""
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError("the external metrics server does not listen yet; await serve first")
        port: int = self._runner.addresses[0][1]
        return port

    async def close(self) -> None:
        """Stop listening and end the connections."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = self._site = None

    def _build_application(self) -> web.Application:
        application = web.Application(middlewares=[self._answer_errors_as_status])
        application.router.add_get("/apis", _get_groups)
        application.router.add_get(f"/apis/{GROUP}", _get_group)
        application.router.add_get(f"/apis/{GROUP_VERSION}", _get_resources)
        application.router.add_get(f"/apis/{GROUP_VERSION}/namespaces/{{namespace}}/{{metric}}", self._get_metric)
        return application

    @web.middleware
    async def _answer_errors_as_status(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._authenticate(request)
            return await handler(request)
        except ApiError as error:
            return error.to_response()
        except web.HTTPException as error:
            status = HTTPStatus(error.status)
            message = f"{request.method} {request.path}: {status.phrase}"
            return ApiError(status, status.phrase.replace(" ", ""), message).to_response()

    def _authenticate(self, request: web.Request) -> None:
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        if not certificate:
            message = "a client certificate of kube-apiserver's front proxy is needed; ask through kube-apiserver"
            raise ApiError(HTTPStatus.UNAUTHORIZED, "Unauthorized", message)
        allowed = self._front_proxy.allowed_names
        common_names = {value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}
        if allowed and not common_names & allowed:
            message = f"client certificate for {sorted(common_names)}, expected one for {sorted(allowed)}"
            raise ApiError(HTTPStatus.FORBIDDEN, "Forbidden", message)

    async def _get_metric(self, request: web.Request) -> web.Response:
        namespace, metric = request.match_info["namespace"], request.match_info["metric"]
        if metric not in METRIC_NAMES:
            known = ", ".join(METRIC_NAMES)
            raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", f"no external metric {metric}; there are {known}")
        text = request.query.get("labelSelector", "")
        try:
            selector = parse_label_selector(text)
        except ValueError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, "BadRequest", str(error)) from error
        found = {
            service: publication
            for (place, service), publication in sorted(self._publications.items())
            if place == namespace and selector.is_met_by({names.LABEL_SERVICE: service})
        }
        if not found:
            message = f"the operator has no data yet on any {names.KIND} in {namespace} with labels {text or '(any)'}"
            raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", message)
        items = [self._build_item(f"{namespace}/{service}", metric, service, found[service]) for service in found]
        return web.json_response(
            {"kind": "ExternalMetricValueList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": items}
        )

    def _build_item(self, key: str, metric: str, service: str, publication: Publication) -> dict[str, Any]:
        age = self._clock() - publication.at
        if age > self._stale_after:
            raise ApiError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "ServiceUnavailable",
                f"{key}: the queue was last read {age.total_seconds():.0f} s ago, at most "
                f"{self._stale_after.total_seconds():.0f} s are believed; see whether its pods and Redis are up",
            )
        if metric not in publication.values:
            raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", f"{key}: {metric} is not known at the moment")
        return {
            "metricName": metric,
            "metricLabels": {names.LABEL_SERVICE: service},
            "timestamp": publication.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "value": to_quantity(publication.values[metric]),
        }


def to_quantity(value: float) -> str:
    """A resource.Quantity in canonical form: whole numbers as they are, others in thousandths, rounded up."""
    thousandths = int((Decimal(repr(value)) * 1000).to_integral_value(ROUND_CEILING))
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


async def _get_groups(_: web.Request) -> web.Response:
    return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": [_build_group()]})


async def _get_group(_: web.Request) -> web.Response:
    return web.json_response({"kind": "APIGroup", "apiVersion": "v1", **_build_group()})


async def _get_resources(_: web.Request) -> web.Response:
    resources = [
        {"name": name, "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
        for name in METRIC_NAMES
    ]
    document = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": resources}
    return web.json_response(document)


def _build_group() -> dict[str, Any]:
    version = {"groupVersion": GROUP_VERSION, "version": VERSION}
    return {"name": GROUP, "versions": [version], "preferredVersion": version}
