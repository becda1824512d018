"""Pods: what an image says, who a container is, and what it sees of the machine."""

import re
import socket
import stat
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.devcluster.cluster import Cluster, in_namespace, pod, wait_for

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        pytest.param(None, None, "greet the image from the image", id="the image's entrypoint and cmd"),
        pytest.param(None, ["the", "pod"], "greet the pod from the image", id="args replace the cmd"),
        pytest.param(["echo", "a command"], None, "a command", id="a command replaces entrypoint and cmd"),
        pytest.param(["echo"], ["both"], "both", id="command and args replace everything"),
    ],
)
def test_command_lines(
    cluster: Cluster,
    request: pytest.FixtureRequest,
    command: list[str] | None,
    arguments: list[str] | None,
    expected: str,
) -> None:
    name = re.sub("[^a-z]+", "-", request.node.callspec.id)
    container: dict[str, Any] = {} if arguments is None else {"args": arguments}
    cluster.apply(pod(name, *(command or []), image="images.test/greet:2", container=container))
    assert cluster.wait_succeeded(name, "default").strip() == expected


def test_pod_environment_overrides_the_images(cluster: Cluster, namespace: str) -> None:
    container = {"env": [{"name": "GREETING", "value": "from the pod"}]}
    cluster.apply(in_namespace(namespace, pod("env", image="images.test/greet", container=container)))
    assert cluster.wait_succeeded("env", namespace).strip() == "greet the image from the pod"


def test_an_image_that_is_not_in_the_map(cluster: Cluster, namespace: str, image_map: Path) -> None:
    cluster.apply(in_namespace(namespace, pod("lost", image="images.test/nowhere:7")))

    def reason() -> str | None:
        statuses = cluster.get("pod", "lost", "-n", namespace)["status"].get("containerStatuses", [{}])
        found: str | None = statuses[0].get("state", {}).get("waiting", {}).get("reason")
        return found if found in {"ErrImagePull", "ImagePullBackOff"} else None

    wait_for("ErrImagePull", reason)
    message = cluster.messages("lost", namespace)
    assert "images.test/nowhere:7" in message
    assert str(image_map) in message


def test_a_user_other_than_root_runs_programs_from_a_closed_tree(
    cluster: Cluster, namespace: str, image_map: Path
) -> None:
    closed = image_map.parent / "closed"
    code = (
        "import os, subprocess; print(os.getuid(), os.getgid(), os.getgroups());"
        "print(subprocess.check_output(['greet', 'hello'], text=True))"
    )
    manifest = pod("nobody", "python3", "-c", code, securityContext={"runAsNonRoot": True, "fsGroup": 2000})
    cluster.apply(in_namespace(namespace, manifest))
    log = cluster.wait_succeeded("nobody", namespace)
    assert log.startswith("65532 0 [")
    assert "2000]" in log
    assert "greet hello" in log
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700, "the machine's own tree was changed"


def test_closed_directories_show_only_what_the_image_needs(cluster: Cluster, namespace: str, image_map: Path) -> None:
    (image_map.parent / "closed" / "secret.txt").write_text("a secret")
    code = f"import os; print(os.listdir('{image_map.parent / 'closed'}'))"
    cluster.apply(in_namespace(namespace, pod("curious", "python3", "-c", code)))
    assert cluster.wait_succeeded("curious", namespace).strip() == "['tools']"


def test_run_as_non_root_refuses_root(cluster: Cluster, namespace: str) -> None:
    cluster.apply(
        in_namespace(namespace, pod("root", image="images.test/greet", securityContext={"runAsNonRoot": True}))
    )
    wait_for("the refusal", lambda: "image will run as root" in cluster.messages("root", namespace))


def test_read_only_root_with_writable_volumes(cluster: Cluster, namespace: str) -> None:
    new = f"new-{uuid.uuid4()}"  # the node's own files show through: whatever name stands here may be taken there
    code = f"""
import errno, pathlib
for path in ["/{new}", "/etc/{new}", "/tmp/{new}", "/usr/{new}"]:
    try:
        pathlib.Path(path).write_text("x")
    except OSError as error:
        assert error.errno in (errno.EROFS,), (path, error)
    else:
        raise SystemExit(path + " can be written")
for path in ["/data/{new}", "/a/new/place/{new}", "/dev/shm/{new}", "/dev/null"]:
    pathlib.Path(path).write_text("x")
print("as expected")
"""
    container = {
        "securityContext": {"readOnlyRootFilesystem": True, "runAsUser": 0},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "data", "mountPath": "/a/new/place"}],
    }
    manifest = pod("frozen", "python3", "-c", code, container=container, volumes=[{"name": "data", "emptyDir": {}}])
    cluster.apply(in_namespace(namespace, manifest))
    assert cluster.wait_succeeded("frozen", namespace).strip() == "as expected"


def test_tmp_is_private_to_a_container(cluster: Cluster, namespace: str) -> None:
    mark = f"/tmp/mark-of-a-pod-{uuid.uuid4()}"  # noqa: S108
    write = f"import pathlib; pathlib.Path('{mark}').write_text('x'); print('written')"
    cluster.apply(in_namespace(namespace, pod("writer", "python3", "-c", write)))
    assert cluster.wait_succeeded("writer", namespace).strip() == "written"
    assert not Path(mark).exists()


def test_a_volume_on_tmp_does_not_hide_programs_that_lie_there(cluster: Cluster, namespace: str) -> None:
    """The image map's programs are below pytest's folder, which is in /tmp, as a checkout may be."""
    container = {
        "securityContext": {"readOnlyRootFilesystem": True},
        "args": ["a", "checkout"],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the pod's own
    }
    manifest = pod("scratch", image="images.test/greet", container=container, volumes=[{"name": "tmp", "emptyDir": {}}])
    cluster.apply(in_namespace(namespace, manifest))
    assert cluster.wait_succeeded("scratch", namespace).strip() == "greet a checkout from the image"


def test_capabilities_are_dropped(cluster: Cluster, namespace: str) -> None:
    code = "print([line for line in open('/proc/self/status') if line.startswith(('CapBnd', 'NoNewPrivs'))])"
    security = {
        "capabilities": {"drop": ["ALL"]},
        "allowPrivilegeEscalation": False,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    cluster.apply(in_namespace(namespace, pod("plain", "python3", "-c", code, container={"securityContext": security})))
    log = cluster.wait_succeeded("plain", namespace)
    assert "CapBnd:\\t0000000000000000" in log
    assert "NoNewPrivs:\\t1" in log


def test_a_claim_gets_a_volume_that_outlives_a_pod(cluster: Cluster, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    cluster.apply(in_namespace(namespace, claim))
    for name, code in {
        "first": "open('/data/x', 'w').write('kept')",
        "second": "print(open('/data/x').read())",
    }.items():
        container = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
        volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
        cluster.apply(in_namespace(namespace, pod(name, "python3", "-c", code, container=container, volumes=volumes)))
        log = cluster.wait_succeeded(name, namespace)
    assert log.strip() == "kept"


def test_logs_exec_copy_and_port_forward_from_the_host(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    code = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"from the pod")
server = http.server.HTTPServer(("127.0.0.1", 8080), Handler)
print("listening", flush=True)
server.serve_forever()
"""
    cluster.apply(in_namespace(namespace, pod("web", "python3", "-c", code)))
    cluster.wait_ready("web", namespace)
    with cluster.popen("logs", "--follow", "web", "-n", namespace) as follow:
        assert follow.stdout is not None
        assert follow.stdout.readline().strip() == "listening"
        follow.kill()

    failed = cluster.execute("web", namespace, "python3", "-c", "raise SystemExit(7)", check=False)
    assert failed.returncode == 7

    source, target = tmp_path / "there", tmp_path / "back"
    source.write_text("a file")
    cluster.kubectl("cp", str(source), f"{namespace}/web:/tmp/copied")
    cluster.kubectl("cp", f"{namespace}/web:/tmp/copied", str(target))
    assert target.read_text() == "a file"

    with cluster.popen("port-forward", "pod/web", "-n", namespace, ":8080") as forward:
        assert forward.stdout is not None
        line = forward.stdout.readline()  # Forwarding from 127.0.0.1:PORT -> 8080
        port = int(line.split("->")[0].rsplit(":", 1)[1])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
            assert response.read() == b"from the pod"
        forward.kill()


def test_a_container_that_ends_leaves_no_child_behind(cluster: Cluster, namespace: str) -> None:
    code = (
        "import os, sys; os.fork() or (os.setsid(), os.execvp('sleep', ['sleep', '98765'])); print('gone', flush=True)"
    )
    cluster.apply(in_namespace(namespace, pod("parent", "python3", "-c", code)))
    cluster.wait_succeeded("parent", namespace)

    def strays() -> list[str]:
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        return [line.decode() for line in lines if b"98765" in line and line.startswith(b"sleep")]

    wait_for("the end of the child", lambda: not strays())


def test_the_cluster_is_reached_on_the_hosts_loopback_only(cluster: Cluster) -> None:
    server = cluster.kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}").stdout
    host, port = server.removeprefix("https://").split(":")
    assert host == "127.0.0.1"
    socket.create_connection((host, int(port)), timeout=5).close()
