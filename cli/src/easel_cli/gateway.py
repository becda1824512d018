"""A service's HTTP API, as far as ``generate`` needs it: a prediction from its creation to its images."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Self

import httpcore2
import httpx2

from easel_cli.decide.image_job import Event, parse_events
from easel_cli.errors import CliError

TIMEOUT: Final = httpx2.Timeout(30.0, read=60.0)  # a stream says something every 15 s
MAX_IMAGE_BYTES: Final = 256 * 1024 * 1024
MAX_PATH: Final = 200  # of an answer that is no API's, what is quoted
LOST: Final = (httpx2.TransportError, httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError)


class GatewayError(CliError):
    """The gateway refused, or can't be reached."""


class Gateway:
    """One address of a service. Use it as a context manager."""

    def __init__(self, url: str, api_key: str | None, transport: httpx2.BaseTransport | None = None) -> None:
        """``transport``: the way there, if it isn't the network."""
        headers = {"User-Agent": "easel"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._url = url
        try:
            self._client = httpx2.Client(base_url=url, headers=headers, transport=transport, timeout=TIMEOUT)
        except httpx2.InvalidURL as error:
            raise GatewayError(f"--url {url}: {error}; http://HOST:PORT is expected") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def create(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """A new prediction. Raises GatewayError."""
        return self._ask("POST", "/v1/predictions", json={"input": parameters})

    def get(self, prediction_id: str) -> dict[str, Any]:
        """It, as it is now. Raises GatewayError."""
        return self._ask("GET", f"/v1/predictions/{prediction_id}")

    def cancel(self, prediction_id: str) -> dict[str, Any]:
        """Stop it. Raises GatewayError."""
        return self._ask("POST", f"/v1/predictions/{prediction_id}/cancel")

    def follow(self, prediction_id: str) -> Iterator[Event]:
        """Events to its end, or until the connection is lost. Raises GatewayError where it is refused."""
        try:
            with self._client.stream("GET", f"/v1/predictions/{prediction_id}/stream?progress=true") as answer:
                if answer.is_error:
                    answer.read()
                    raise GatewayError(_describe_refusal(answer))
                yield from parse_events(answer.iter_lines())
        except LOST:
            return

    def fetch(self, prediction_id: str, index: int) -> tuple[bytes, str]:
        """An image and its media type. Raises GatewayError."""
        content = bytearray()
        try:
            with self._client.stream("GET", f"/v1/predictions/{prediction_id}/output/{index}") as answer:
                if answer.is_error:
                    answer.read()
                    raise GatewayError(_describe_refusal(answer))
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > MAX_IMAGE_BYTES:
                        raise GatewayError(f"image {index} is larger than {MAX_IMAGE_BYTES} bytes")
                return bytes(content), answer.headers.get("content-type", "")
        except LOST as error:
            raise GatewayError(self._describe_loss(error)) from None

    def _ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, **body)
        except LOST as error:
            raise GatewayError(self._describe_loss(error)) from None
        if answer.is_error:
            raise GatewayError(_describe_refusal(answer))
        try:
            found: dict[str, Any] = answer.json()
        except ValueError:
            said = answer.text[:MAX_PATH]
            raise GatewayError(f"{self._url}{path} is no gateway of Easel: it answered {said!r}") from None
        return found

    def _describe_loss(self, error: Exception) -> str:
        return f"no answer from {self._url}: {str(error) or type(error).__name__}; is it the service's address, and up?"


def _describe_refusal(answer: httpx2.Response) -> str:
    try:
        said = answer.json()
        text = str(said.get("detail") or said.get("error") or said)
    except (ValueError, AttributeError):
        text = answer.text[:MAX_PATH] or answer.reason_phrase
    again = answer.headers.get("retry-after")
    return f"the service refused ({answer.status_code}): {text}" + (f"; try again in {again} s" if again else "")
