"""One embedded cluster for all tests of this folder, and a namespace for each test."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.devcluster.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]

NODES = ["cpu-0", "cpu-1", "gpu-0:nvidia.com/gpu=4"]


@pytest.fixture(scope="session")
def binary() -> Path:
    done = subprocess.run(
        [str(ROOT / "devcluster/binary.sh")], stdout=subprocess.PIPE, text=True, check=True, timeout=3600
    )
    return Path(done.stdout.strip())


def write_image_map(folder: Path) -> Path:
    """Write an image map whose programs lie where only root may look, as a virtual environment in root's home does."""
    tools = folder / "closed" / "tools"
    tools.mkdir(parents=True)
    (folder / "closed").chmod(0o700)
    greet = tools / "greet"
    greet.write_text('#!/bin/sh\necho "greet $*" $GREETING\n')
    greet.chmod(0o755)
    search_path = f"{Path(sys.executable).parent}:{tools}:/usr/bin:/bin"
    images = [
        {"name": "images.test/python", "env": {"PATH": search_path}, "user": 65532},
        {
            "name": "images.test/greet",
            "entrypoint": ["greet"],
            "cmd": ["the", "image"],
            "env": {"PATH": search_path, "GREETING": "from the image"},
            "workingDir": "/",
        },
    ]
    path = folder / "images.yaml"
    path.write_text(yaml.safe_dump({"images": images}))
    return path


@pytest.fixture(scope="session")
def image_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_map(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="package")
def cluster(binary: Path, image_map: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(binary=binary, state_dir=tmp_path_factory.mktemp("cluster") / "state")
    nodes = [argument for node in NODES for argument in ("--node", node)]
    quick = ["--node-monitor-grace-period=12s", "--pod-eviction-timeout=2s", "--hpa-sync-period=5s"]
    cluster.on_state(["up", "--images", str(image_map), "--simulated-nodes=2", *quick, *nodes])
    yield cluster
    cluster.on_state(["down"])


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    name = request.node.name.replace("_", "-").removeprefix("test-").split("[")[0][:60].rstrip("-")
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
