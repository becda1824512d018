"""What status says while things change, and who believes it: the real controllers, kubelets and kubectl."""

import json
from typing import Any

import httpx2
import pytest

from demo.cluster import ClusterError
from demo.load import first_image, forwarded
from demo.observe import is_ready
from tests.e2e.waiting import SLOWNESS, Services, quick, tiny, wait_until

TWO = {"replicas": 2, "scaling": None}


def wait_with_kubectl(services: Services, name: str, *, timeout_seconds: int = 120 * SLOWNESS) -> None:
    """``kubectl wait``, as a pipeline runs it after an apply. Raises ClusterError if it isn't met in time."""
    words = ("wait", f"sds/{name}", "--for=condition=Ready", f"--timeout={timeout_seconds}s")
    services.cluster.kubectl(*words)


def is_of_dtype(pod: dict[str, Any], dtype: str) -> bool:
    """Whether a worker was made of a spec with this dtype."""
    return f'"dtype":"{dtype}"' in pod["metadata"]["annotations"]["easel.dev/model"]


def test_kubectl_wait_after_an_edit_waits_for_the_edits_pods(services: Services) -> None:
    name = services.apply(quick("edited", **TWO))
    wait_with_kubectl(services, name)
    services.apply(quick("edited", **TWO, model__dtype="Float32"))
    wait_with_kubectl(services, name)
    workers = services.pods(name, "worker")
    assert workers
    assert all(is_of_dtype(pod, "Float32") for pod in workers)
    services.wait_for(name, "Reconciling", "False", "Complete")


def test_a_roll_out_that_fails_says_who_serves_and_how_to_go_back(services: Services) -> None:
    name = services.apply(tiny("half-way", **TWO))
    wait_with_kubectl(services, name)
    # Ready with the first of them; one that still loads would be the first to go.
    wait_until(lambda: services.cluster.get("sds", name)["status"]["readyReplicas"], (2).__eq__, "both serve", 60)
    services.apply(tiny("half-way", **TWO, model__source__persistentVolumeClaim__path="not-there"))
    ready = services.wait_for(name, "Ready", "True", "ServingPreviousRevision")
    assert "2 of 2 worker pods still serve the previous revision" in ready["message"], (
        "the new one came before an old one went"
    )
    assert '"path":"sd15"' in ready["message"], "how to go back"
    assert services.condition(name, "Stalled")["status"] == "True"
    assert services.condition(name, "ModelLoaded")["reason"] == "ModelLoadFailed"
    with forwarded(services.cluster, name) as url:
        assert first_image(url).startswith(b"\x89PNG"), "it is ready indeed"
    with pytest.raises(ClusterError):
        wait_with_kubectl(services, name, timeout_seconds=3)
    services.apply(tiny("half-way", **TWO))
    wait_with_kubectl(services, name)


def test_a_secret_that_is_missing_is_named_on_a_live_service(services: Services) -> None:
    name = services.apply(quick("locked"))
    wait_with_kubectl(services, name)
    services.apply(quick("locked", gateway__apiKeysSecretName="kyes"))
    ready = services.wait_for(name, "Ready", "False", "ReferenceMissing", timeout_seconds=30)
    assert "Secret default/kyes doesn't exist" in ready["message"]
    assert "spec.gateway.apiKeysSecretName" in ready["message"]
    services.cluster.kubectl("create", "secret", "generic", "kyes", "--from-literal=studio=k-1")
    try:
        wait_with_kubectl(services, name)
        services.cluster.kubectl("delete", "secret", "kyes")
        ready = services.wait_for(name, "Ready", "True", "Degraded", timeout_seconds=30)
        assert "Secret default/kyes doesn't exist" in ready["message"]
    finally:
        services.cluster.kubectl("delete", "secret", "kyes", "--ignore-not-found")


def test_a_claim_that_is_missing_is_no_lack_of_gpus(services: Services) -> None:
    name = services.apply(quick("unbound", **TWO, model__source__persistentVolumeClaim__claimName="no-such-claim"))
    capacity = services.wait_for(name, "CapacityAvailable", "False", "VolumeUnavailable")
    assert "PersistentVolumeClaim no-such-claim" in capacity["message"]
    assert "nvidia.com/gpu free" not in capacity["message"]
    services.wait_for(name, "Ready", "False", "ReferenceMissing", timeout_seconds=30)


def test_what_kubectl_set_env_does_to_a_worker_is_undone(services: Services) -> None:
    name = services.apply(quick("meddled", **TWO))
    wait_with_kubectl(services, name)
    services.cluster.kubectl("set", "env", f"deployment/{name}-worker", "EASEL_POD_NAME=x", "FOO=bar")

    def variables() -> list[dict[str, Any]]:
        deployment = services.cluster.get("deployment", f"{name}-worker")
        found: list[dict[str, Any]] = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        return [each for each in found if each["name"] in {"EASEL_POD_NAME", "FOO"}]

    wait_until(variables, lambda found: any("valueFrom" in each for each in found), "our variable healed", 30)
    by_name = {each["name"]: each for each in variables()}
    assert "value" not in by_name["EASEL_POD_NAME"]
    assert by_name["FOO"]["value"] == "bar", "what was merely added stays"
    wait_with_kubectl(services, name)


def test_a_strangers_workers_keep_their_number_and_nothing_is_made_beside_them(services: Services) -> None:
    kubectl = services.cluster.kubectl
    pod = {"containers": [{"name": "x", "image": "ghcr.io/easel-dev/easel-worker:none"}]}
    labels = {"app": "theirs"}
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "crowded-worker"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(theirs))
    try:
        name = services.apply(quick("crowded"))
        ready = services.wait_for(name, "Ready", "False", "ChildConflict")
        assert "crowded-worker" in ready["message"]
        assert services.children(name) == {}
        assert services.cluster.get("deployment", "crowded-worker")["spec"]["replicas"] == 3
    finally:
        kubectl("delete", "deployment", "crowded-worker")
    services.wait_for(name, "Ready", "True", timeout_seconds=120)


def test_a_waking_service_says_what_it_waits_for_and_that_it_cannot_wake(services: Services) -> None:
    scaling = {"scaling__scaleToZeroAfterSeconds": 1, "scaling__scaleDownAfterSeconds": 1}
    name = services.apply(quick("sleeper", **scaling))
    services.wait_for(name, "Ready", "True", "ScaledToZero", timeout_seconds=120)
    # The last worker may still take a request until it is told to end, and then nobody would have to wake: one that is
    # being deleted counts until it is gone.
    workers = f"easel.dev/service={name},app.kubernetes.io/component=worker"
    wait_until(lambda: services.cluster.get("pods", "-l", workers)["items"], lambda pods: not pods, "no worker", 90)
    # Asleep, it is given an image that can't be pulled: the next worker never comes up.
    services.apply(quick("sleeper", **scaling, worker__image="ghcr.io/nobody/nothing:1"))
    services.wait_for(name, "Progressing", "True", "Complete")
    with forwarded(services.cluster, name) as url:
        with httpx2.Client(base_url=url, timeout=30) as client:
            assert client.post("/v1/predictions", json={"input": {"prompt": "a fox"}}).status_code == 201
        failed = services.wait_for(name, "Ready", "False", "ImagePullFailed")
    assert "ghcr.io/nobody/nothing:1" in failed["message"]


def test_gateways_that_do_not_come_up_leave_the_old_ones_at_work(services: Services) -> None:
    name = services.apply(quick("doors", **TWO))
    wait_with_kubectl(services, name)
    services.apply(quick("doors", **TWO, gateway__image="ghcr.io/nobody/nothing:1"))
    ready = services.wait_for(name, "Ready", "True", "ServingPreviousRevision")
    assert "1 of 1 gateway pods still serve" in ready["message"]
    assert any(is_ready(pod) for pod in services.pods(name, "gateway"))
