"""Starting and ending: what is said, and that nothing stays behind."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devcluster.cluster import Cluster, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.embedded]


@pytest.fixture
def fresh(binary: Path, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(binary=binary, state_dir=tmp_path / "state")
    yield cluster
    cluster.on_state(["down"], check=False)


def processes_inside(namespaces: set[str]) -> set[tuple[str, str]]:
    """Return number and start time of each process in any of the namespaces."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            own = {(process / "ns" / kind).readlink().name for kind in ("net", "pid", "mnt")}
            start = (process / "stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            continue  # it has ended
        if own & namespaces:
            found.add((process.name, start))
    return found


def mounts() -> set[str]:
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def links() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_up_and_down_leave_nothing(fresh: Cluster) -> None:
    before = mounts(), links()
    up = fresh.on_state(["up", "--node", "on"])  # a name that YAML would take for a boolean
    assert f"export KUBECONFIG={fresh.state_dir}/kubeconfig" in up.stdout
    assert "API server" in up.stdout
    status = json.loads(fresh.on_state(["status", "-o", "json"]).stdout)
    assert status["up"]
    assert [node["name"] for node in status["nodes"]] == ["on"]
    assert all(component["running"] for component in status["components"])
    inside = {(Path("/proc") / str(status["pid"]) / "ns" / kind).readlink().name for kind in ("net", "pid", "mnt")}
    assert inside.isdisjoint({(Path("/proc/self/ns") / kind).readlink().name for kind in ("net", "pid", "mnt")})

    again = fresh.on_state(["up", "--node", "on"])
    assert f"already up (pid {status['pid']})" in again.stdout

    fresh.on_state(["kill", "apiserver"])
    assert fresh.kubectl("get", "nodes", check=False).returncode != 0
    fresh.on_state(["restart", "apiserver"])
    wait_for("the node is known as before", lambda: fresh.kubectl("get", "node", "on", check=False).returncode == 0)
    refused = fresh.on_state(["restart", "no-such"], check=False)
    assert 'no component "no-such"; there are apiserver, controller-manager, etcd, ' in refused.stderr

    processes = processes_inside(inside)
    assert len(processes) >= 7, "the supervisor, six components and a kubelet"

    done = fresh.run("exec", "--state-dir", str(fresh.state_dir), "--", "sh", "-c", "exit 5", check=False)
    assert done.returncode == 5

    assert fresh.on_state(["down"]).stdout.strip() == "down"
    assert not fresh.state_dir.exists()
    assert not processes & processes_inside(inside)  # the kernel may give the namespaces' numbers out again
    assert (mounts(), links()) == before

    assert fresh.on_state(["down"]).stdout.strip() == "not up"
    assert json.loads(fresh.on_state(["status", "-o", "json"]).stdout) == {"up": False}


def test_a_missing_program_is_named_with_its_package(fresh: Cluster) -> None:
    done = fresh.run("up", "--state-dir", str(fresh.state_dir), check=False, environment={"PATH": "/nowhere"})
    assert done.returncode == 1
    assert "(Debian package " in done.stderr
    assert not fresh.state_dir.exists()


def test_a_component_that_fails_is_named_with_its_log(fresh: Cluster) -> None:
    environment = {**os.environ, "ETCD_QUOTA_BACKEND_BYTES": "many"}  # etcd takes flags from its environment
    done = fresh.run("up", "--state-dir", str(fresh.state_dir), check=False, environment=environment)
    assert done.returncode == 1
    assert "etcd ended" in done.stderr
    assert 'invalid value \\"many\\"' in done.stderr
    assert json.loads(fresh.on_state(["status", "-o", "json"]).stdout) == {"up": False}
    fresh.on_state(["down"])
    assert not fresh.state_dir.exists()


def test_a_directory_of_someone_else_is_left_alone(fresh: Cluster) -> None:
    fresh.state_dir.mkdir()
    (fresh.state_dir / "thesis.tex").write_text("years of work")
    done = fresh.on_state(["up"], check=False)
    assert done.returncode == 1
    assert "was not made by devcluster" in done.stderr
    fresh.on_state(["down"])
    assert (fresh.state_dir / "thesis.tex").exists()


@pytest.mark.parametrize("node", ["UPPER", "a:gpu=1", "a:nvidia.com/gpu=many"])
def test_bad_nodes_are_refused(fresh: Cluster, node: str) -> None:
    done = fresh.on_state(["up", "--node", node], check=False)
    assert done.returncode == 1
    assert f"--node {node}" in done.stderr
    assert not fresh.state_dir.exists()
