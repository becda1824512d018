"""Real API servers for tests: kube-apiserver of any release that this one can emulate, with one etcd behind them.

They run without a cluster: no controllers, no nodes. ``--emulated-version`` has kube-apiserver decide by the feature
gates that the named release had (KEP-4330); what it allows goes back three releases.
"""

import json
import shutil
import ssl
import subprocess
import tempfile
import time
from contextlib import ExitStack, closing
from http import HTTPStatus
from http.client import HTTPSConnection
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kubernetes.aio.client import Configuration

from tests.support.redis_server import find_free_port

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_SECONDS = 120.0  # on a machine that is busy with other tests
STOP_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.05
HOST = "127.0.0.1"
TOKEN = "token-of-an-administrator"
OPERATOR_TOKEN = "token-of-the-operator"  # of the ServiceAccount that the chart makes as release easel in easel-system
OPERATOR_USER = "system:serviceaccount:easel-system:easel-operator"


class ApiServers:
    """Etcd, and an API server for each release that was asked for. Use it as a context manager."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="easel-api-"))
        self._stack = ExitStack()
        self._etcd_port = find_free_port()
        self._binary = ""
        self._key = self._directory / "service-account.key"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, tuple[str, ...]] = {}

    def __enter__(self) -> Self:
        made = subprocess.run([ROOT / "devcluster/binary.sh"], stdout=subprocess.PIPE, text=True, check=True)
        self._binary = made.stdout.strip()
        key = rsa.generate_private_key(65537, 2048)
        self._key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (self._directory / "tokens.csv").write_text(
            f"{TOKEN},administrator,1,system:masters\n{OPERATOR_TOKEN},{OPERATOR_USER},2\n"
        )
        client, peer = f"http://{HOST}:{self._etcd_port}", f"http://{HOST}:{find_free_port()}"
        self._start(
            "etcd",
            *(
                "etcd",
                "--name=tests",
                f"--data-dir={self._directory / 'etcd'}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ),
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=tests={peer}"),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def directory(self) -> Path:
        """Where their files are, for as long as they run."""
        return self._directory

    def start(self, release: str, *flags: str) -> Configuration:
        """An API server that acts as ``release`` (1.36), with nothing stored; how to reach it once it answers."""
        port, certificates = find_free_port(), self._directory / release
        log = self._start(
            f"apiserver-{release}",
            *("apiserver", f"--emulated-version={release}", f"--etcd-servers=http://{HOST}:{self._etcd_port}"),
            *(f"--etcd-prefix=/{release}", f"--bind-address={HOST}", f"--secure-port={port}"),
            *(f"--cert-dir={certificates}", "--endpoint-reconciler-type=none", "--advertise-address=192.0.2.1"),
            *("--service-cluster-ip-range=10.96.0.0/24", "--authorization-mode=RBAC", "--anonymous-auth=true"),
            *("--service-account-issuer=https://tests", f"--service-account-key-file={self._key}"),
            *(f"--service-account-signing-key-file={self._key}", f"--token-auth-file={self._directory}/tokens.csv"),
            *flags,
        )
        configuration = Configuration(host=f"https://{HOST}:{port}")
        configuration.api_key = {"BearerToken": f"Bearer {TOKEN}"}
        configuration.ssl_ca_cert = str(certificates / "apiserver.crt")
        _wait_until_ready(port, certificates / "apiserver.crt", log)
        return configuration

    def start_controllers(self, configuration: Configuration, *controllers: str, flags: tuple[str, ...] = ()) -> None:
        """kube-controller-manager with these controllers alone, such as the garbage collector."""
        self._start(
            "controllers",
            *("controller-manager", f"--kubeconfig={self.write_kubeconfig(configuration)}"),
            *(f"--controllers={','.join(controllers)}", "--leader-elect=false", "--secure-port=0"),
            *flags,
        )

    def start_scheduler(self, configuration: Configuration) -> None:
        """kube-scheduler: pods are bound to nodes, and nothing runs there."""
        kubeconfig = self.write_kubeconfig(configuration)
        self._start("scheduler", "scheduler", f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0")

    def write_kubeconfig(self, configuration: Configuration) -> Path:
        """How kubectl, helm and controllers reach an API server of ours, as its administrator."""
        path = self._directory / f"{configuration.host.rpartition(':')[2]}.kubeconfig"
        cluster = {"server": configuration.host, "certificate-authority": configuration.ssl_ca_cert}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": {"token": TOKEN}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        }
        path.write_text(json.dumps(content))
        return path

    def kill(self, title: str) -> None:
        """SIGKILL to ``etcd``, ``apiserver-RELEASE`` or ``controllers``. What it has stored stays."""
        _end(self._running[title])

    def resume(self, title: str) -> None:
        """Start again what was killed, as it was started before; it answers some time later."""
        self._run(title)

    def _start(self, title: str, *command: str) -> Path:
        self._commands[title] = command
        return self._run(title)

    def _run(self, title: str) -> Path:
        log = self._directory / f"{title}.log"
        command = [self._binary, "component", *self._commands[title]]
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self._running[title] = process
        self._stack.callback(_end, process)
        return log


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(STOP_TIMEOUT_SECONDS)


def _wait_until_ready(port: int, ca: Path, log: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < give_up_at:
        if _is_ready(port, ca):
            return
        time.sleep(POLL_SECONDS)
    end = log.read_text(errors="replace")[-2000:]
    raise AssertionError(f"the API server on port {port} isn't ready; its log ends with\n{end}")


def _is_ready(port: int, ca: Path) -> bool:
    try:
        context = ssl.create_default_context(cafile=ca)
        with closing(HTTPSConnection(HOST, port, context=context, timeout=STOP_TIMEOUT_SECONDS)) as connection:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == HTTPStatus.OK
    except OSError:  # no certificate yet, or nobody listens yet
        return False
