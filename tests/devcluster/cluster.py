"""Driving the embedded cluster by its command line and by kubectl, as a user would."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

COMMAND_SECONDS = 300
WAIT_SECONDS = 90
POLL_SECONDS = 0.2

Manifest = Mapping[str, Any]


def wait_for(what: str, probe: Callable[[], T | None], seconds: float = WAIT_SECONDS) -> T:
    """Return the probe's first true answer; fail with the last other one when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s; the last answer was {answer!r}")
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up, or a state directory where one could be."""

    binary: Path
    state_dir: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, *arguments: str, text: str | None = None, check: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `devcluster ARGUMENTS...`."""
        done = subprocess.run(
            [str(self.binary), *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            env=dict(environment or self.environment) or None,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"devcluster {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def on_state(self, command: Sequence[str], *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command that takes the state directory."""
        return self.run(*command, "--state-dir", str(self.state_dir), *arguments, check=check)

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl from the host, through the published kubeconfig."""
        kubeconfig = str(self.state_dir / "kubeconfig")
        return self.run("kubectl", "--kubeconfig", kubeconfig, *arguments, text=text, check=check)

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Start kubectl in the background; the caller ends it."""
        return subprocess.Popen(
            [str(self.binary), "kubectl", "--kubeconfig", str(self.state_dir / "kubeconfig"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def apply(self, *manifests: Manifest) -> None:
        """Apply manifests."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--filename", "-", text=json.dumps(items))

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return an object, or a list of them."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output", "json").stdout)
        return found

    def wait_ready(self, pod: str, namespace: str) -> None:
        """Wait until a pod is Ready."""
        self.kubectl("wait", "--for=condition=Ready", f"pod/{pod}", "-n", namespace, f"--timeout={WAIT_SECONDS}s")

    def wait_succeeded(self, pod: str, namespace: str) -> str:
        """Wait until a pod has ended well, and return its log."""

        def phase() -> str | None:
            found: str = self.get("pod", pod, "-n", namespace)["status"].get("phase", "")
            return found if found in {"Succeeded", "Failed"} else None

        ended = wait_for(f"the end of pod {pod}", phase)
        log = self.kubectl("logs", pod, "-n", namespace).stdout
        assert ended == "Succeeded", f"pod {pod} {ended}: {log}"
        return log

    def execute(self, pod: str, namespace: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod."""
        return self.kubectl("exec", pod, "-n", namespace, "--", *command, check=check)

    def messages(self, pod: str, namespace: str) -> str:
        """Return all that events say about a pod."""
        events = self.get("events", "-n", namespace, f"--field-selector=involvedObject.name={pod}")
        return "\n".join(event["message"] for event in events["items"])


def pod(name: str, *command: str, image: str = "images.test/python:1", **spec: Any) -> dict[str, Any]:
    """Build a pod with one container, which python runs as it comes, without a shell."""
    container: dict[str, Any] = {"name": "main", "image": image, **spec.pop("container", {})}
    if command:
        container["command"] = list(command)
    spec.setdefault("restartPolicy", "Never")
    spec.setdefault("terminationGracePeriodSeconds", 1)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], **spec},
    }


def in_namespace(namespace: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Build the same manifest in a namespace."""
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
