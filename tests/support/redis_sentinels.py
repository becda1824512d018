"""A master, its replica and three Sentinels for tests, all real, on loopback; with passwords, with TLS if wanted."""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from redis import Redis, exceptions

from tests.support.redis_server import RedisServer, find_free_port

MASTER = "easel"
PASSWORD = "of-the-servers"
SENTINEL_PASSWORD = "of-the-sentinels"
SENTINELS = 3
DOWN_AFTER_MILLISECONDS = 1000
START_TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.02


class ReplicatedRedis:
    """Use as a context manager: then ``url`` leads to the master, whoever that is."""

    def __init__(self, *, with_tls: bool = False) -> None:
        self._resources = ExitStack()
        self._directory = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="easel-sentinels-")))
        self.ca_file = self._directory / "ca.crt"
        self._with_tls = with_tls
        if with_tls:
            _make_certificates(self._directory)
        login = ("--requirepass", PASSWORD, "--masterauth", PASSWORD)
        self.servers = [_Server(self._directory, *login, with_tls=with_tls) for _ in range(2)]
        self._sentinels = [
            _Sentinel(self._directory / f"sentinel-{number}", self.servers[0].port, self._tls_lines())
            for number in range(SENTINELS)
        ]

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self._sentinels)
        scheme = "rediss" if self._with_tls else "redis"
        return f"{scheme}+sentinel://:{PASSWORD}@{places}/{MASTER}/0?sentinel_password={SENTINEL_PASSWORD}"

    def client(self, server: RedisServer) -> Redis:
        """Of one server, whatever it is."""
        return self._connect(server.port, PASSWORD)

    def find_master(self) -> RedisServer:
        """As the Sentinels have it, most of whom agree."""
        ports = [self._ask(sentinel) for sentinel in self._sentinels if sentinel.is_running]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def fail_over(self) -> None:
        """The master becomes a replica, in order, and the other one the master."""
        with self._connect(self._sentinels[0].port, SENTINEL_PASSWORD) as client:
            client.execute_command("SENTINEL", "FAILOVER", MASTER)

    def pause(self, server: RedisServer) -> None:
        """It neither answers nor hangs up, as a frozen machine."""
        os.kill(server.pid, signal.SIGSTOP)

    def resume(self, server: RedisServer) -> None:
        """Whatever it was."""
        if server.is_running:
            os.kill(server.pid, signal.SIGCONT)

    def kill_sentinel(self, number: int) -> None:
        self._sentinels[number].close()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._resources.close()
            raise
        return self

    def _start(self) -> None:
        for server in self.servers:
            self._resources.enter_context(server)
        with self.client(self.servers[1]) as replica:
            replica.replicaof("127.0.0.1", self.servers[0].port)
        for sentinel in self._sentinels:
            self._resources.callback(sentinel.close)
            sentinel.start()
        _await(self._is_ready, "the Sentinels did not find each other and the replica")

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def _is_ready(self) -> bool:
        for sentinel in self._sentinels:
            with self._connect(sentinel.port, SENTINEL_PASSWORD) as client:
                state: dict[str, Any] = client.sentinel_masters().get(MASTER, {})
            if (state.get("num-slaves"), state.get("num-other-sentinels")) != (1, SENTINELS - 1):
                return False
        with self.client(self.servers[1]) as replica:
            return bool(replica.info("replication")["master_link_status"] == "up")

    def _ask(self, sentinel: "_Sentinel") -> int:
        with self._connect(sentinel.port, SENTINEL_PASSWORD) as client:
            return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

    def _connect(self, port: int, password: str) -> Redis:
        tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(self.ca_file)} if self._with_tls else {}
        return Redis(host="127.0.0.1", port=port, password=password, protocol=2, decode_responses=True, **tls)

    def _tls_lines(self) -> str:
        return "\n".join(" ".join(pair) for pair in _list_tls(self._directory)) if self._with_tls else ""


async def listen(reply: bytes) -> tuple[asyncio.Server, str]:
    """A stand-in for a Sentinel, or for what listens in its place: one reply to everything; and its HOST:PORT."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(reply)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    return server, f"{host}:{port}"


class _Server(RedisServer):
    """One that can be reached by TLS alone, where it is to."""

    def __init__(self, directory: Path, *arguments: str, with_tls: bool) -> None:
        super().__init__(*arguments)
        self._tls = [word for name, value in _list_tls(directory) for word in (f"--{name}", value)] if with_tls else []

    def _listen(self) -> tuple[str, ...]:
        return ("--port", "0", "--tls-port", str(self.port), *self._tls) if self._tls else super()._listen()

    def _is_answering(self) -> bool:
        if not self._tls:
            return super()._is_answering()
        with socket.create_connection(("127.0.0.1", self.port), timeout=5):
            return True


class _Sentinel:
    def __init__(self, directory: Path, master_port: int, tls: str) -> None:
        directory.mkdir()
        self.port = find_free_port()
        self._log = directory / "sentinel.log"
        self._file = directory / "sentinel.conf"
        listen = f"port 0\ntls-port {self.port}\n{tls}" if tls else f"port {self.port}"
        self._file.write_text(
            f"bind 127.0.0.1\n{listen}\ndir {directory}\nrequirepass {SENTINEL_PASSWORD}\n"
            f"sentinel sentinel-pass {SENTINEL_PASSWORD}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {master_port} 2\n"
            f"sentinel auth-pass {MASTER} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MILLISECONDS}\n"
            f"sentinel failover-timeout {MASTER} 10000\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = ["redis-server", str(self._file), "--sentinel"]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _await(is_done: Any, complaint: str) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            if is_done():
                return
        except (exceptions.RedisError, OSError):
            pass  # not listening yet
        assert time.monotonic() < give_up_at, complaint
        time.sleep(POLL_SECONDS)


def _list_tls(directory: Path) -> list[tuple[str, str]]:
    return [
        ("tls-cert-file", str(directory / "server.crt")),
        ("tls-key-file", str(directory / "server.key")),
        ("tls-ca-cert-file", str(directory / "ca.crt")),
        ("tls-auth-clients", "no"),
        ("tls-replication", "yes"),
    ]


def _make_certificates(directory: Path) -> None:
    """An authority of its own, and a certificate of it for 127.0.0.1."""
    request = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-batch"]
    ca = ["-x509", "-days", "1", "-subj", "/CN=an authority", "-keyout", "ca.key", "-out", "ca.crt"]
    server = ["-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"]
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    signing = ["openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
    signing += ["-days", "1", "-extfile", "names", "-out", "server.crt"]
    for command in ([*request, *ca], [*request, *server], signing):
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
