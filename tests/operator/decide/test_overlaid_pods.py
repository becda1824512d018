"""What a user reads of pods with containers, volumes and identities that overlays have put there."""

from dataclasses import replace
from typing import Any

import pytest
from easel_contract import names
from easel_contract.conditions import Reason
from easel_contract.resource import ServiceDefaults, StableDiffusionServiceSpec
from easel_operator.decide.conditions.placement import PodNeeds, explain_refused, explain_unschedulable
from easel_operator.decide.reconcile import decide
from easel_operator.decide.references import list_references
from easel_operator.objects import Json, ObjectKey

from tests.operator.decide.test_conditions import FIXED, GATEWAY, WORKER, build_running, find
from tests.operator.objects import HUB_MODEL, RELEASE, build_container_status, build_pod, build_service

NOTHING = ServiceDefaults()
CA: Json = {"volumes": [{"name": "ca", "configMap": {"name": "company-ca"}}]}


def with_container(name: str, *, is_init: bool = False, **status: Any) -> Json:
    """A worker pod with a container beside Easel's, which runs and isn't ready as a whole."""
    pod = build_pod(names.COMPONENT_WORKER, is_ready=False)
    beside = {**build_container_status(**status), "name": name, "image": f"registry.example/{name}:1"}
    if is_init:
        pod["status"]["initContainerStatuses"] = [beside]
        waiting = {"waiting": {"reason": "PodInitializing"}}
        pod["status"]["containerStatuses"][0].update(ready=False, state=waiting)
    else:
        pod["status"]["containerStatuses"].append(beside)
    return pod


def read(pod: Json) -> tuple[Reason, str]:
    """Reason and message of Ready, where this is the only worker."""
    plan = decide(build_running(build_service(FIXED), GATEWAY, pod))
    condition = find(plan, "Ready")
    return condition["reason"], condition["message"]


@pytest.mark.parametrize("is_init", [False, True])
def test_a_sidecar_that_keeps_ending_is_named_with_the_command_that_shows_its_words(is_init: bool) -> None:
    ended = {"exitCode": 3, "message": "no collector", "finishedAt": "2026-11-23T11:59:00Z"}
    reason, message = read(
        with_container("shipper", is_init=is_init, waiting="CrashLoopBackOff", ended=ended, restarts=4)
    )
    assert reason == Reason.CRASH_LOOP
    assert "Container shipper of pod painter-worker-a, which isn't Easel's, keeps ending (exit code 3)" in message
    assert "no collector" in message
    assert "kubectl logs painter-worker-a -c shipper" in message
    assert "spec.worker.podTemplate" in message


@pytest.mark.parametrize("is_init", [False, True])
def test_an_image_that_cannot_be_pulled_is_that_of_its_container(is_init: bool) -> None:
    reason, message = read(with_container("shipper", is_init=is_init, waiting="ImagePullBackOff", message="not found"))
    assert reason == Reason.IMAGE_PULL_FAILED
    assert "can't pull registry.example/shipper:1: not found" in message


def test_an_init_container_that_is_done_is_no_trouble() -> None:
    pod = with_container("warm", is_init=True)
    done = {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}, "ready": True, "lastState": {}}
    pod["status"]["initContainerStatuses"][0].update(done)
    reason, message = read(pod)
    assert reason == Reason.WORKERS_UNAVAILABLE
    assert "warm" not in message


def test_a_pod_that_runs_an_init_container_is_not_said_to_load_its_model() -> None:
    _, message = read(with_container("warm", is_init=True))
    assert "runs its init containers" in message


def test_easels_own_trouble_is_said_before_a_neighbours() -> None:
    pod = with_container("shipper", waiting="ImagePullBackOff", message="not found")
    pod["status"]["containerStatuses"][0] |= build_container_status(waiting="ImagePullBackOff", message="no such tag")
    assert "no such tag" in read(pod)[1]


@pytest.mark.parametrize("place", ["own", "default"])
def test_a_missing_config_map_of_an_overlay_is_named_with_the_place_that_names_it(place: str) -> None:
    overlay = {"worker": {"podTemplate": {"spec": CA}}}
    spec = {**FIXED, **overlay} if place == "own" else FIXED
    defaults = ServiceDefaults.model_validate(overlay) if place == "default" else NOTHING
    key = ObjectKey("ConfigMap", "studio", "company-ca")
    snapshot = build_running(build_service(spec), GATEWAY, missing=frozenset({key}))
    plan = decide(replace(snapshot, release=replace(RELEASE, defaults=defaults)))
    condition = find(plan, "Ready")
    assert condition["reason"] == Reason.REFERENCE_MISSING
    field = "spec.worker.podTemplate" if place == "own" else "the installation's defaults.worker.podTemplate"
    assert (
        f"ConfigMap studio/company-ca doesn't exist, so no new worker pod can start; create it, or correct {field}"
        in (condition["message"])
    )


def list_of(spec: Json, default: Json | None = None) -> set[str]:
    defaults = ServiceDefaults.model_validate({"gateway": {"podTemplate": {"spec": default or {}}}})
    service = {"model": HUB_MODEL, "replicas": 1, "gateway": {"podTemplate": {"spec": spec}}}
    found = list_references("studio", StableDiffusionServiceSpec.model_validate(service), defaults)
    return {f"{each.key.kind} {each.key.name}" for each in found}


def test_whatever_keeps_a_pod_from_starting_is_looked_for_and_what_is_optional_is_not() -> None:
    spec = {
        "serviceAccountName": "reader",
        "imagePullSecrets": [{"name": "registry"}],  # a pod starts without
        "volumes": [
            {"name": "a", "secret": {"secretName": "tls"}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "shared"}},
            {"name": "c", "secret": {"secretName": "maybe", "optional": True}},
            {"name": "d", "projected": {"sources": [{"configMap": {"name": "part"}}, {"secret": {"name": "bit"}}]}},
        ],
        "initContainers": [{"name": "i", "image": "i", "envFrom": [{"configMapRef": {"name": "settings"}}]}],
        "containers": [
            {
                "name": "server",
                "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "token", "key": "a"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "b", "optional": True}}},
                ],
            }
        ],
    }
    assert list_of(spec) == {
        "ServiceAccount reader",
        "Secret tls",
        "PersistentVolumeClaim shared",
        "ConfigMap part",
        "Secret bit",
        "ConfigMap settings",
        "Secret token",
    }


def test_what_a_service_has_taken_away_of_the_defaults_is_not_looked_for() -> None:
    assert list_of({}, CA) == {"ConfigMap company-ca"}
    assert list_of({"volumes": [{"name": "ca", "$patch": "delete"}]}, CA) == set()


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ('pods "a" is forbidden: no PriorityClass with name batch was found', "Create PriorityClass batch"),
        ('pods "a" is forbidden: pod rejected: RuntimeClass "nvidia" not found', "Create RuntimeClass nvidia"),
    ],
)
def test_a_class_that_does_not_exist_is_named(said: str, advice: str) -> None:
    obstacle = explain_refused(said, PodNeeds("gateway", "spec.gateway.replicas"))
    assert advice in obstacle.advice
    assert "spec.gateway.podTemplate" in obstacle.advice


def test_gateways_are_advised_on_taints_and_nodes_too() -> None:
    said = (
        "0/3 nodes are available: 3 node(s) had untolerated taint {spot: }, 3 node(s) didn't match Pod's node affinity."
    )
    advice = explain_unschedulable(said, PodNeeds("gateway", "spec.gateway.replicas")).advice
    assert "taint {spot: } to spec.gateway.podTemplate.spec.tolerations" in advice
    assert "spec.gateway.podTemplate.spec (nodeSelector, affinity)" in advice


def test_a_ready_worker_beside_a_neighbour_that_once_ended_is_no_trouble() -> None:
    pod = build_pod(names.COMPONENT_WORKER)
    ended = {"exitCode": 1, "finishedAt": "2026-11-23T11:59:00Z"}
    pod["status"]["containerStatuses"].append(
        {**build_container_status(ended=ended, restarts=5), "name": "shipper", "ready": True}
    )
    assert WORKER["status"]["containerStatuses"] != pod["status"]["containerStatuses"]
    assert read(pod)[0] == Reason.AVAILABLE
