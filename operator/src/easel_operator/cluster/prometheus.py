"""Asks a Prometheus server, or what speaks its HTTP API, and bounds what it may take to answer.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from types import TracebackType
from typing import Final, Literal, Self

import aiohttp
from pydantic import BaseModel, ValidationError
from yarl import URL

from easel_operator.cluster.bounded_body import read_bounded
from easel_operator.simulation.history import Series

QUERY_TIMEOUT_SECONDS: Final = 60.0
MAX_ANSWER_BYTES: Final = 64 << 20
SHOWN_CHARACTERS: Final = 300
TOKEN_VARIABLE: Final = "EASEL_PROMETHEUS_TOKEN"  # noqa: S105 - the name of a variable, no token

Sample = tuple[float, float]  # Unix seconds, value


class PrometheusError(Exception):
    """No answer, or one that says no. The message names the server, what was seen and what to do."""


class _Series(BaseModel):
    metric: dict[str, str]
    value: Sample | None = None  # of an instant vector
    values: tuple[Sample, ...] = ()  # of a range vector


class _Data(BaseModel):
    result: tuple[_Series, ...]


class _Answer(BaseModel):
    status: Literal["success", "error"]
    data: _Data | None = None
    errorType: str = ""  # noqa: N815 - Prometheus' name
    error: str = ""
    warnings: tuple[str, ...] | None = None


class Prometheus:
    """A server's HTTP API. Use it as an async context manager."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        named_by: str = "--from-prometheus",
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """``url`` may have a path and ``user:password@``. ``token``: sent as a bearer token. ``named_by``: where the
        user gave the URL, for messages. Raises PrometheusError.
        """
        try:
            parsed = URL(url)
        except ValueError as error:
            raise PrometheusError(f"{named_by}: not a URL: {error}") from None
        self._shown = parsed.with_user(None) if parsed.host else parsed  # nobody's password belongs in a message
        if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.query or parsed.fragment:
            raise PrometheusError(f"{named_by} is {self._shown}; http(s)://HOST[:PORT][/PATH] is expected")
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise PrometheusError(f"{TOKEN_VARIABLE} holds blanks or signs that no HTTP header may have")
        if token and parsed.user:
            raise PrometheusError(f"{TOKEN_VARIABLE} is set and the URL has a user: which of them counts?")
        self._url = parsed / "api/v1/query"
        self._token = token
        self._max_answer_bytes = max_answer_bytes
        self._session: aiohttp.ClientSession | None = None
        self.warnings: list[str] = []  # what the server warned of: its answers may lack something

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=QUERY_TIMEOUT_SECONDS)
        # Proxies and .netrc as curl has them. A header would clash with .netrc; a middleware comes after it.
        middlewares = (self._send_token,) if self._token else ()
        self._session = aiohttp.ClientSession(timeout=timeout, trust_env=True, middlewares=middlewares)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def query(self, promql: str, at_seconds: float) -> tuple[Series, ...]:
        """The vector, or range vector of raw samples, that an expression gives at a Unix time.

        Raises PrometheusError.
        """
        try:
            status, body = await self._fetch({"query": promql, "time": f"{at_seconds:.3f}"})
        except TimeoutError:
            raise PrometheusError(f"{self._shown} gave no answer within {QUERY_TIMEOUT_SECONDS:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            text = f"the certificate of {self._shown} isn't trusted ({error.certificate_error}); SSL_CERT_FILE may name"
            raise PrometheusError(f"{text} a file with its authority's") from None
        except (aiohttp.ClientError, OSError) as error:
            raise PrometheusError(f"can't ask {self._shown}: {str(error) or type(error).__name__}") from None
        answer = self._parse(status, body)
        if answer.status != "success" or answer.data is None:
            raise PrometheusError(
                f"{self._shown} refused ({answer.errorType or f'HTTP {status}'}): {answer.error[:SHOWN_CHARACTERS]}; "
                f"it was asked {promql}"
            )
        self.warnings += [warning for warning in answer.warnings or () if warning not in self.warnings]
        return tuple(
            Series(each.metric, each.values or ((each.value,) if each.value else ())) for each in answer.data.result
        )

    async def _send_token(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return await send(request)

    async def _fetch(self, parameters: dict[str, str]) -> tuple[int, bytes]:
        if self._session is None:
            raise RuntimeError("use Prometheus as an async context manager")
        # No redirects: a token is for the server that was named.
        async with self._session.get(self._url, params=parameters, allow_redirects=False) as response:
            if response.status in {401, 403}:
                raise PrometheusError(
                    f"{self._shown} answered HTTP {response.status}: {TOKEN_VARIABLE} is "
                    f"{'not accepted' if self._token else 'not set'}; it holds a bearer token"
                )
            if 300 <= response.status < 400:
                target = response.headers.get("Location", "nowhere")[:SHOWN_CHARACTERS]
                raise PrometheusError(f"{self._shown} redirects to {target}: give the URL of Prometheus itself")
            try:
                return response.status, await read_bounded(response, self._max_answer_bytes)
            except ValueError as error:
                raise PrometheusError(f"{self._shown} {error}") from None

    def _parse(self, status: int, body: bytes) -> _Answer:
        try:
            return _Answer.model_validate_json(body)
        except ValidationError:
            begin = body[:SHOWN_CHARACTERS].decode(errors="replace").strip()
            raise PrometheusError(
                f"{self._shown} answered HTTP {status} and not as Prometheus' API does: does the URL need a path? "
                f"It began {begin!r}"
            ) from None
