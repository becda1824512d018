"""Keeps pages of other sites from using this service through the browser of whoever looks at them.

A browser sends a page's requests wherever the page likes, this machine and its private network included. What protects
a service is what a page can't send: an API key. Where that is missing, or the browser adds it by itself (Basic), a
request is judged by what the browser says of the page, and the page can't forge:

Sec-Fetch-Site   same-origin or none (typed, a bookmark) is fine. https://www.w3.org/TR/fetch-metadata/
Origin           where that is missing: the page's host, which must be the one that is called
Host             a page may give its own name our address (DNS rebinding) and is then of our origin: so without keys
                 only names count that nobody else can own, and those that are allowed. An address is no name.

Who sends none of these isn't a browser. A link that is followed to its end (a navigation) gives the page nothing.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from easel_contract.gateway_config import GatewayConfig
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from easel_server.gateway.refusals import RefusalError, refuse_host, refuse_origin
from easel_server.telemetry.gateway_metrics import RequestMetrics
from easel_server.transport.middleware import PROBES, BuildError

READING: Final = frozenset({"GET", "HEAD"})
OWN_SITE: Final = frozenset({b"same-origin", b"none"})
NAVIGATION: Final = (b"navigate", b"document")  # a page of its own, no frame
PORT: Final = re.compile(r":[0-9]{1,5}$")
DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
ANY: Final = "*"
MAX_HOST_BYTES: Final = 300  # a name has 253, and a port
HOSTS_REMEMBERED: Final = 256

Headers = Mapping[bytes, bytes]


class BrowserRules:
    """Who may call, by what a request says of itself. Pure."""

    def __init__(self, config: GatewayConfig, *, own_name: str) -> None:
        """``own_name``: this machine's."""
        public = urlsplit(config.public_url or "").netloc
        self._are_keys_needed = config.api_keys_directory is not None
        self._names = {"localhost", own_name.lower(), f"{own_name.lower()}.local"}
        self._names |= {name.lower() for name in config.allowed_hosts} | ({strip_port(public)} if public else set())
        self._public = public.lower()
        self._origins = frozenset(config.allowed_origins)
        self._is_host_allowed: Callable[[bytes], bool] = lru_cache(maxsize=HOSTS_REMEMBERED)(self._judge_host)

    def find_fault(self, method: str, headers: Headers) -> RefusalError | None:
        """Why a request isn't served; None if it may be."""
        if self._are_keys_needed and (
            method in READING or not headers.get(b"authorization", b"").lower().startswith(b"basic ")
        ):
            return None  # a page has no key, and doesn't get to read what a browser adds one for
        host = headers.get(b"host", b"")
        if not self._are_keys_needed and (len(host) > MAX_HOST_BYTES or not self._is_host_allowed(host)):
            return refuse_host(strip_port(host[:MAX_HOST_BYTES].decode("latin-1")))
        site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin", b"").decode("latin-1")
        if site in OWN_SITE or (site is None and not origin) or ANY in self._origins or origin in self._origins:
            return None
        if method in READING and (headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")) == NAVIGATION:
            return None
        is_own = site is None and self._is_host_of(origin, host.decode("latin-1").lower())
        return None if is_own else refuse_origin(origin)

    def _is_host_of(self, origin: str, called: str) -> bool:
        scheme, _, authority = origin.lower().partition("://")
        port = DEFAULT_PORTS.get(scheme, "")
        own = {each.removesuffix(port) if port else each for each in (called, self._public)}
        return bool(authority) and (authority.removesuffix(port) if port else authority) in own

    def _judge_host(self, host: bytes) -> bool:
        name = strip_port(host.decode("latin-1"))
        if not name or name in self._names or name.endswith(".localhost") or ANY in self._names:
            return True
        if any(f"*.{parent}" in self._names for parent in _parents(name)):
            return True
        try:
            ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True


def strip_port(host: str) -> str:
    """The name or the address in a Host header, in lower case and without the dot that may end it."""
    return PORT.sub("", host).lower().removesuffix(".")


def _parents(name: str) -> list[str]:
    labels = name.split(".")
    return [".".join(labels[start:]) for start in range(1, len(labels))]


class BrowserGuardMiddleware:
    """Refuses (403) what the rules say; probes aren't asked who they are."""

    def __init__(self, app: ASGIApp, *, rules: BrowserRules, metrics: RequestMetrics, build_error: BuildError) -> None:
        self._app = app
        self._rules = rules
        self._metrics = metrics
        self._build_error = build_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        fault = None
        if scope["type"] == "http" and scope["path"] not in PROBES:
            fault = self._rules.find_fault(scope["method"], dict(scope["headers"]))
        if fault is None:
            await self._app(scope, receive, send)
            return
        self._metrics.count_refusal(fault.code)
        status, body = self._build_error(scope["path"], fault)
        await JSONResponse(body, status_code=status)(scope, receive, send)
