"""The API server of a kubeconfig's context, in raw JSON: requests, each bounded in time and bytes."""

import json
import os
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

import urllib3

from easel_cli.cluster.errors import RefusedError, UnreachableError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, Configuration

Json = dict[str, Any]
CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 30.0
MAX_BYTES: Final = 64 * 1024 * 1024  # of one answer
MAX_QUOTED: Final = 200
PAGE: Final = 500
MAX_OBJECTS: Final = 20_000  # of one list
SERVICE_ACCOUNT_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DEFAULT_NAMESPACE: Final = "default"  # kubectl's
APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"


class Cluster:
    """Requests to one API server, and the namespace that they mean. Use it as a context manager."""

    def __init__(self, api: "ApiClient", namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.configuration: Configuration = api.configuration

    @classmethod
    def open(cls, kubeconfig: Path | None, context: str | None, namespace: str | None) -> Self:
        """By the options, ``KUBECONFIG``, ``~/.kube/config``, or a pod's service account. Raises UnreachableError."""
        import yaml  # noqa: PLC0415 - these take half a second, which --help and --url needn't wait for
        from kubernetes import config  # noqa: PLC0415 - the same
        from kubernetes.client import ApiClient, Configuration  # noqa: PLC0415 - the same

        file = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")
        configuration = Configuration()
        try:
            if _is_in_a_pod() and not (kubeconfig or Path(file).exists()):
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call] # not annotated
                return cls(ApiClient(configuration), namespace or SERVICE_ACCOUNT_NAMESPACE.read_text().strip())
            contexts, active = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call] # the same
            config.load_kube_config(file, context=context, client_configuration=configuration)  # type: ignore[no-untyped-call]
        except (config.ConfigException, OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
            raise UnreachableError(
                f"no way to a cluster: {str(error) or type(error).__name__}; name a file by --kubeconfig or "
                "KUBECONFIG, and one of its contexts by --context (kubectl config get-contexts)"
            ) from None
        if not configuration.verify_ssl:  # as the kubeconfig says; kubectl doesn't warn either
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        chosen = next((each for each in contexts if each["name"] == context), active)
        return cls(ApiClient(configuration), namespace or chosen["context"].get("namespace") or DEFAULT_NAMESPACE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.api.rest_client.close()

    def get(self, path: str, asked: str, **query: str) -> Json:
        """The JSON at a path. ``asked`` says what for, in errors. Raises RefusedError or UnreachableError."""
        return _parse(self.request("GET", path, asked, query=query), asked)

    def find(self, path: str, asked: str) -> Json | None:
        """One object, or None if there is none. Raises RefusedError or UnreachableError."""
        try:
            return self.get(path, asked)
        except RefusedError as error:
            if error.is_missing:
                return None
            raise

    def list_all(self, path: str, asked: str, **query: str) -> list[Json]:
        """All objects of a kind, at most MAX_OBJECTS. Raises RefusedError or UnreachableError."""
        found: list[Json] = []
        query["limit"] = str(PAGE)
        while len(found) < MAX_OBJECTS:
            page = self.get(path, asked, **query)
            found += page["items"]
            query["continue"] = page["metadata"].get("continue") or ""
            if not query["continue"]:
                break
        return found

    def apply(self, path: str, manifest: Json, asked: str, *, is_dry: bool = False) -> Json:
        """Server-side apply of an object as the field manager ``easel``. Raises RefusedError or UnreachableError."""
        query = {"fieldManager": "easel", **({"dryRun": "All"} if is_dry else {})}
        return self._write("PATCH", path, manifest, asked, APPLY, query)

    def merge(self, path: str, change: Json, asked: str, *, is_dry: bool = False) -> Json:
        """JSON merge patch of an object; its new state. Raises RefusedError or UnreachableError."""
        query = {"fieldManager": "easel", **({"dryRun": "All"} if is_dry else {})}
        return self._write("PATCH", path, change, asked, MERGE, query)

    def create(self, path: str, manifest: Json, asked: str, *, is_dry: bool = False) -> Json:
        """A new object below a path. Raises RefusedError or UnreachableError."""
        return self._write("POST", path, manifest, asked, "application/json", {"dryRun": "All"} if is_dry else {})

    def _write(self, method: str, path: str, body: Json, asked: str, kind: str, query: Mapping[str, str]) -> Json:
        return _parse(self.request(method, path, asked, query=query, body=json.dumps(body), kind=kind), asked)

    def request(
        self,
        method: str,
        path: str,
        asked: str,
        *,
        query: Mapping[str, str] | None = None,
        body: str | None = None,
        kind: str = "application/json",
        max_bytes: int = MAX_BYTES,
    ) -> bytes:
        """The body of an answer. Raises RefusedError or UnreachableError."""
        filled = {name: value for name, value in (query or {}).items() if value}
        url = f"{self.configuration.host}{path}{'?' + urlencode(filled) if filled else ''}"
        headers = {"Accept": "application/json, */*", "User-Agent": "easel", **self.authorization}
        if body is not None:
            headers["Content-Type"] = kind
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        try:
            answer = self.api.rest_client.pool_manager.request(
                method, url, headers=headers, body=body, timeout=timeout, retries=False, preload_content=False
            )
            try:
                content = answer.read(max_bytes, decode_content=True)
            finally:
                answer.release_conn()
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnreachableError(
                f"no answer from the API server at {self.configuration.host} to {asked}: {_describe(error)}; is it "
                "up, and is this the cluster that you mean (--context, --kubeconfig)?"
            ) from None
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise RefusedError(asked, answer.status, _read_reason(content) or str(answer.reason), content)
        return bytes(content)

    @property
    def authorization(self) -> dict[str, str]:
        """Headers; of client certificates none are needed."""
        settings: dict[str, Any] = dict(self.configuration.auth_settings())
        return {
            str(each["key"]): str(each["value"])
            for each in settings.values()
            if each["in"] == "header" and each["value"]
        }


def _parse(content: bytes, asked: str) -> Json:
    try:
        body: Json = json.loads(content)
    except ValueError:
        said = content[:MAX_QUOTED].decode(errors="replace")
        raise UnreachableError(f"what answered to {asked} is no API server, or said too much: {said!r}") from None
    return body


def _is_in_a_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and SERVICE_ACCOUNT_NAMESPACE.exists()


def _describe(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    return f"{type(cause).__name__}: {cause}"


def _read_reason(content: bytes) -> str:
    """Of a ``Status`` object, its message; else the beginning of what was said, such as a proxied server's answer."""
    try:
        said = json.loads(content)
        return str(said.get("message") or said.get("detail") or said.get("error") or said)
    except (ValueError, AttributeError):
        return content[:MAX_QUOTED].decode(errors="replace").strip()
