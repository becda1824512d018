"""The chart, applied to an API server of ``ApiServers``, and its operator as a process with its own account's token.

There are no nodes: the operator's Deployment makes no pods that run, so the test starts the process itself, with the
very environment that the chart renders.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from demo.cluster import devcluster_binary
from tests.support.api_server import ApiServers
from tests.support.redis_server import find_free_port

CHART = Path(__file__).resolve().parents[2] / "helm/easel"
STOP_SECONDS = 30.0
MAX_SHOWN = 8000  # characters of a log


class Installation:
    """One release of the chart. Use it as a context manager; its operator ends with it."""

    def __init__(
        self, servers: ApiServers, kubeconfig: Path, *, release: str, namespace: str, redis_address: str
    ) -> None:
        """``kubeconfig``: an administrator's; ``redis_address``: a redis-server that is the release's own."""
        tools = Path(devcluster_binary()).parent
        self._kubectl, self._helm = str(tools / "kubectl"), str(tools / "helm")
        self._kubeconfig = kubeconfig
        self._directory = servers.directory
        self._redis_address = redis_address
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.release = release
        self.namespace = namespace
        self.objects: list[dict[str, Any]] = []
        self.starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if kind is not None and self._log_path.exists():  # pytest shows it with what failed
            sys.stderr.write(f"what operators of {self.release} said last:\n{self.log[-MAX_SHOWN:]}\n")
        self._stack.close()

    @property
    def user(self) -> str:
        """Of the operator, as the audit log has it."""
        return f"system:serviceaccount:{self.namespace}:{self._account}"

    @property
    def _account(self) -> str:
        return f"{self.release}-operator"

    @property
    def log(self) -> str:
        """What the operators have said, all of them."""
        return self._log_path.read_text()

    @property
    def _log_path(self) -> Path:
        return self._directory / f"{self.release}.log"

    def run(self, *words: str, stdin: str | None = None) -> str:
        """Standard output of kubectl, or of helm if that is the first word."""
        command = [self._helm, *words[1:]] if words[0] == "helm" else [self._kubectl, *words]
        environment = {"KUBECONFIG": str(self._kubeconfig), "HOME": str(self._directory), "PATH": os.environ["PATH"]}
        done = subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def install(self, *settings: str) -> None:
        """``helm upgrade --install`` with these ``--set`` arguments; namespaces that are watched must be there."""
        words = [word for setting in settings for word in ("--set", setting)]
        chart = (self.release, str(CHART), "--namespace", self.namespace)
        self.run("helm", "upgrade", "--install", *chart, "--create-namespace", *words)
        rendered = self.run("helm", "get", "manifest", self.release, "--namespace", self.namespace)
        self.objects = [each for each in yaml.safe_load_all(rendered) if each]

    def start(self, **changes: str) -> None:
        """An operator, with the environment that the chart renders and ``changes`` to it."""
        self.starts += 1
        environment = {**self._read_environment(), "EASEL_REDIS_SERVERS": self._redis_address, **changes}
        with self._log_path.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from easel_operator.main import main; main()"],
                env={**environment, "KUBECONFIG": str(self._write_kubeconfig()), "PATH": os.environ["PATH"]}
                | {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(self._directory)},
                stdout=output,
                stderr=output,
            )

    def stop(self) -> int:
        """As Kubernetes ends a pod; its exit status."""
        assert self._process is not None, "not running"
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        return process.wait(STOP_SECONDS)

    def _read_environment(self) -> dict[str, str]:
        (operator,) = [each for each in self.objects if each["kind"] == "Deployment"]
        found = {
            "EASEL_OPERATOR_NAMESPACE": self.namespace,
            "EASEL_POD_NAME": f"{self.release}-operator-{self.starts}",
        }
        for variable in operator["spec"]["template"]["spec"]["containers"][0]["env"]:
            found.setdefault(variable["name"], variable.get("value", ""))
        ports = {f"EASEL_{name}_PORT": str(find_free_port()) for name in ("METRICS", "HEALTH")}
        return found | ports | {"EASEL_LOG_LEVEL": "INFO"}

    def make_token(self) -> str:
        """Of the operator's ServiceAccount."""
        return self.run("create", "token", self._account, "--namespace", self.namespace).strip()

    def _write_kubeconfig(self) -> Path:
        token = self.make_token()
        content: Mapping[str, Any] = json.loads(self._kubeconfig.read_text())
        path = self._directory / f"{self.release}.kubeconfig"
        path.write_text(json.dumps({**content, "users": [{"name": "tests", "user": {"token": token}}]}))
        return path
