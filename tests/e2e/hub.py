"""A stand-in for the Hub (tests/support/hub_server.py) in the cluster's network, where pods reach it."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo.cluster import ROOT, Cluster, devcluster_binary
from tests.e2e.waiting import wait_until

CLUSTER_ADDRESS = "192.168.77.1"  # where pods reach what runs beside the control plane


class ClusterHub:
    """A running one. What it was asked for is counted from its start, or from ``forget``."""

    def __init__(self, process: subprocess.Popen[str], said: Path) -> None:
        self._process, self._said, self._forgotten = process, said, 1
        lines = wait_until(lambda: self._lines, bool, "the Hub's address", 30)
        self.address = lines[0]

    @property
    def _lines(self) -> list[str]:
        return self._said.read_text().splitlines()

    @property
    def requests(self) -> list[str]:
        """What was asked for, such as ``GET /tiny/sd15/resolve/…/unet/config.json``."""
        return self._lines[self._forgotten :]

    @property
    def downloads(self) -> Counter[str]:
        """How often each file was sent, by its path in its repository."""
        files = [line.partition("/resolve/")[2] for line in self.requests if line.startswith("GET ")]
        return Counter(file.partition("/")[2] for file in files if file)

    def forget(self) -> None:
        """Begin to count anew."""
        self._forgotten = len(self._lines)

    def behave(self, **fields: Any) -> None:
        """Set fields of its HubServer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(fields)}\n")
        self._process.stdin.flush()


@contextmanager
def serve_cluster_hub(cluster: Cluster) -> Iterator[ClusterHub]:
    """A Hub with the repositories ``tiny/sd15``, ``other/sd15``, and ``private/sd15``, which needs a token."""
    root = Path(tempfile.mkdtemp(prefix="hub-", dir=cluster.state))
    for owner in ("tiny", "other", "private"):
        shutil.copytree(cluster.models / "sd15", root / owner / "sd15")
    said = root / "said.txt"
    command = [
        *(devcluster_binary(), "exec", "--state-dir", str(cluster.state / "cluster"), "--"),
        *(sys.executable, "-m", "tests.support.hub_server", CLUSTER_ADDRESS, str(root)),
    ]
    with (
        said.open("w") as out,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=out, text=True) as process,
    ):
        try:
            yield ClusterHub(process, said)
        finally:
            process.terminate()
