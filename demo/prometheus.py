"""A real Prometheus of this machine that watches a cluster's pods, for as long as a context is open.

It reads them through the API server's proxy of pods, so any cluster will do that a kubeconfig leads to, whatever its
network is. Series carry the labels that the chart's PodMonitors give them. Which pods there are it learns from a file:
Debian's Prometheus is built without the discovery of Kubernetes.
"""

import json
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, Self

from easel_contract import names
from kubernetes import client
from urllib3.exceptions import HTTPError

from demo.cluster import ROOT, Cluster, ClusterError
from demo.observe import load_configuration

SCRAPE_SECONDS: Final = 2
LOOK_SECONDS: Final = 1.0
START_TIMEOUT_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.1
RULES: Final = ROOT / "helm/easel/files/rules.yaml"
JOB_OPERATOR, JOB_SERVICES = "easel-operator", "easel-services"
OPERATOR_PORT_NAME: Final = "health"
SELECTORS: Final = {
    JOB_SERVICES: names.LABEL_SERVICE,
    JOB_OPERATOR: f"app.kubernetes.io/name=easel,{names.LABEL_COMPONENT}=operator",
}


class ClusterPrometheus:
    """Scrapes every gateway, worker and operator of a cluster, and evaluates the chart's rules; ``url`` answers."""

    def __init__(self, cluster: Cluster, *, scrape_seconds: int = SCRAPE_SECONDS) -> None:
        self._configuration = load_configuration(cluster)
        self._api: Any = client.ApiClient(self._configuration)
        self._scrape_seconds = scrape_seconds
        self._stop = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="easel-prometheus-")
        self._folder = Path(self._directory.name)
        configuration = build_configuration(self._configuration, self._scrape_seconds, self._folder)
        (self._folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML too
        command = [
            *("prometheus", f"--config.file={self._folder / 'prometheus.yml'}"),
            *(f"--storage.tsdb.path={self._folder / 'data'}", f"--web.listen-address={self.url[len('http://') :]}"),
        ]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self._looking.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._looking.join()
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()

    def _wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):  # noqa: S310 - our own URL
                    return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > give_up_at:
                    said = (self._folder / "log").read_text()[-2000:]
                    raise ClusterError(f"Prometheus isn't ready: {said}") from None
            time.sleep(POLL_SECONDS)

    def _look(self) -> None:
        """Keep the files of targets up to date. A look that fails leaves them as they are."""
        written: dict[str, str] = {}
        while not self._stop.wait(LOOK_SECONDS):
            for job, selector in SELECTORS.items():
                with suppress(client.ApiException, HTTPError):
                    targets = json.dumps(build_targets(job, self._list_pods(selector), self._configuration.host))
                    if written.get(job) != targets:
                        unfinished = self._folder / f"{job}.unfinished"
                        unfinished.write_text(targets)
                        unfinished.replace(self._folder / f"{job}.json")
                        written[job] = targets

    def _list_pods(self, selector: str) -> list[dict[str, Any]]:
        path = f"/api/v1/pods?labelSelector={urllib.parse.quote(selector)}"
        answer = self._api.call_api("GET", self._configuration.host + path, _request_timeout=5)
        answer.read()
        if answer.status != 200:
            raise client.ApiException(status=answer.status, reason=answer.reason)
        pods: list[dict[str, Any]] = json.loads(answer.data)["items"]
        return pods


def build_configuration(access: client.Configuration, scrape_seconds: int, folder: Path) -> dict[str, Any]:
    """Prometheus' configuration; ``access`` is how the API server is reached, ``folder`` has the files of targets."""
    interval = f"{scrape_seconds}s"
    tls = {"ca_file": access.ssl_ca_cert}
    if access.cert_file:
        tls |= {"cert_file": access.cert_file, "key_file": access.key_file}
    scrape: dict[str, Any] = {"honor_labels": True, "scheme": access.host.partition("://")[0], "tls_config": tls}
    token = access.api_key.get("authorization")
    if token:
        scrape["authorization"] = {"credentials": token.removeprefix("Bearer ")}
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": job, "file_sd_configs": [{"files": [str(folder / f"{job}.json")]}], **scrape}
            for job in SELECTORS
        ],
    }


def build_targets(job: str, pods: Iterable[Mapping[str, Any]], host: str) -> list[dict[str, Any]]:
    """Running pods as Prometheus' file_sd takes them: the API server is asked in place of the pod."""
    port_name = OPERATOR_PORT_NAME if job == JOB_OPERATOR else names.METRICS_PORT_NAME
    return [
        {"targets": [host.partition("://")[2]], "labels": _build_labels(job, pod, port["containerPort"])}
        for pod in pods
        if pod["status"].get("phase") == "Running"
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
        if port.get("name") == port_name
    ]


def _build_labels(job: str, pod: Mapping[str, Any], port: int) -> dict[str, str]:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    path = f"/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/metrics"
    labels = {"__metrics_path__": path, "namespace": namespace, "pod": name, "instance": name}
    if job == JOB_SERVICES:
        own = pod["metadata"]["labels"]
        labels |= {"service": own[names.LABEL_SERVICE], "component": own[names.LABEL_COMPONENT]}
    return labels
