"""While one revision's pods replace another's, status says who serves, what is wrong with the rest, and how to go back;
and what kubectl, Flux and Helm take for "done" is done."""

from dataclasses import replace
from typing import Any

import pytest
from easel_contract import names
from easel_operator.decide.reconcile import decide
from easel_operator.decide.snapshot import Snapshot
from easel_operator.manifests.metadata import read_revision
from easel_operator.objects import Json, ObjectKey

from tests.operator.decide.test_conditions import FIXED, build_running, crashed, find, pulling
from tests.operator.objects import HUB_MODEL, NOW, build_pod, build_service, index, settle

MISSING_MODEL = {"source": {"huggingFace": {"repository": "stabilityai/no-such-model"}}}


def stamp(pod: Json, deployment: Json) -> Json:
    """The pod as this Deployment's template makes it."""
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    return {**pod, "metadata": {**pod["metadata"], "annotations": dict(annotations)}}


def find_deployment(snapshot: Snapshot, component: str) -> Json:
    """The live Deployment of a component."""
    return snapshot.children[ObjectKey("Deployment", "studio", f"painter-{component}")]


def carry_out(snapshot: Snapshot) -> Snapshot:
    """The snapshot after what its plan asks for was written, and nothing else has happened yet."""
    plan = decide(snapshot)
    service = snapshot.service
    if plan.status_patch is not None:
        status = {key: value for key, value in plan.status_patch["status"].items() if value is not None}
        service = {**service, "status": status}
    applied = {}
    for key, child in index(*plan.applies).items():
        known = snapshot.children.get(key, {})
        kept = {"status": known["status"]} if "status" in known else {}
        generation = known.get("metadata", {}).get("generation", 0) + 1
        applied[key] = {**child, **kept, "metadata": {**child["metadata"], "generation": generation}}
    return replace(snapshot, service=service, children={**snapshot.children, **applied})


def begin(workers: int = 3, **spec: Any) -> Snapshot:
    """A service whose workers and gateways are all there, of generation 3, with its status."""
    service = build_service({**FIXED, "replicas": workers, **spec})
    snapshot = build_running(service, workers=workers)
    pods = [build_pod("gateway", f"g-{number}") for number in range(2)]
    pods += [build_pod("worker", f"w-{number}") for number in range(workers)]
    stamped = tuple(
        stamp(pod, find_deployment(snapshot, pod["metadata"]["labels"][names.LABEL_COMPONENT])) for pod in pods
    )
    return carry_out(replace(snapshot, pods=stamped))


def edit(snapshot: Snapshot, **spec: Any) -> Snapshot:
    """The service as a user has changed it; nothing was looked at yet."""
    service = snapshot.service
    metadata = {**service["metadata"], "generation": service["metadata"]["generation"] + 1}
    return replace(snapshot, service={**service, "metadata": metadata, "spec": {**service["spec"], **spec}})


def roll(snapshot: Snapshot, component: str, *, old: int, new: int, ready: int, pod: Json) -> Snapshot:
    """The snapshot with so many pods of the old template left, and the new ones like ``pod``."""
    deployment = find_deployment(snapshot, component)
    wanted = read_revision(deployment)
    of_others = tuple(each for each in snapshot.pods if each["metadata"]["labels"][names.LABEL_COMPONENT] != component)
    known = [each for each in snapshot.pods if each["metadata"]["labels"][names.LABEL_COMPONENT] == component]
    kept = [each for each in known if each["metadata"]["annotations"][names.ANNOTATION_REVISION] != wanted][:old]
    fresh = [
        stamp({**pod, "metadata": {**pod["metadata"], "name": f"new-{number}"}}, deployment) for number in range(new)
    ]
    counts = {"replicas": old + new, "updatedReplicas": new, "availableReplicas": ready, "readyReplicas": ready}
    status = {"observedGeneration": deployment["metadata"]["generation"], **counts}
    children = {**snapshot.children, ObjectKey("Deployment", "studio", f"painter-{component}"): {**deployment}}
    children[ObjectKey("Deployment", "studio", f"painter-{component}")]["status"] = status
    return replace(snapshot, children=children, pods=(*of_others, *kept, *fresh))


def settle_all(snapshot: Snapshot) -> Snapshot:
    """Every Deployment's pods are there, all of its template."""
    children = {
        key: {**settle(child, child["spec"].get("replicas", 2)), "metadata": child["metadata"]}
        if key.kind == "Deployment"
        else child
        for key, child in snapshot.children.items()
    }
    for child in children.values():
        if child["kind"] == "Deployment":
            child["status"] = {**child["status"], "observedGeneration": child["metadata"]["generation"]}
    pods = tuple(
        stamp(pod, find_deployment(snapshot, pod["metadata"]["labels"][names.LABEL_COMPONENT])) for pod in snapshot.pods
    )
    return replace(snapshot, children=children, pods=pods)


def test_a_model_that_new_workers_cannot_load_leaves_the_service_ready_and_says_how_to_go_back() -> None:
    snapshot = carry_out(edit(begin(), model=MISSING_MODEL))
    broken = roll(snapshot, "worker", old=2, new=1, ready=2, pod=crashed(78, "no such repository"))
    plan = decide(broken)
    ready, loaded = find(plan, "Ready"), find(plan, "ModelLoaded")
    assert (ready["status"], ready["reason"]) == ("True", "ServingPreviousRevision")
    assert "2 of 3 worker pods still serve the previous revision" in ready["message"]
    assert "no such repository" in ready["message"]
    assert (
        'set spec.model to {"source":{"huggingFace":{"repository":"stabilityai/sdxl-turbo"}}} again'
        in (ready["message"])
    )
    assert "kubectl rollout undo doesn't last" in ready["message"]
    assert (loaded["status"], loaded["reason"]) == ("False", "ModelLoadFailed")
    assert "2 of 3" in loaded["message"]
    assert "no such repository" in loaded["message"]
    progressing = find(plan, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "ModelLoadFailed")
    assert find(plan, "Stalled")["status"] == "True"


@pytest.mark.parametrize(
    ("component", "pod", "reason"),
    [
        ("worker", crashed(139), "CrashLoop"),
        ("worker", pulling("worker"), "ImagePullFailed"),
        ("gateway", pulling("gateway"), "ImagePullFailed"),
    ],
)
def test_new_pods_that_do_not_come_up_leave_the_service_ready_with_the_old_ones(
    component: str, pod: Json, reason: str
) -> None:
    changed = {"gateway": {"image": "new:1"}, "worker": {"image": "new:1"}}
    snapshot = carry_out(edit(begin(), **changed))
    old = 2
    plan = decide(roll(snapshot, component, old=old, new=1, ready=old, pod=pod))
    ready, progressing = find(plan, "Ready"), find(plan, "Progressing")
    assert (ready["status"], ready["reason"]) == ("True", "ServingPreviousRevision")
    assert f"2 of {3 if component == 'worker' else 2} {component} pods still serve" in ready["message"]
    assert "apply the previous spec again" in ready["message"]
    assert (progressing["status"], progressing["reason"]) == ("False", reason)
    assert reason in [event.reason for event in plan.events]


def test_while_the_mended_spec_rolls_out_the_trouble_of_earlier_pods_does_not_count_as_its_own() -> None:
    snapshot = carry_out(edit(begin(1), model=MISSING_MODEL))
    broken = carry_out(roll(snapshot, "worker", old=0, new=1, ready=0, pod=crashed(78, "no such repository")))
    assert find_stored(broken, "Stalled")["status"] == "True"
    mended = carry_out(edit(broken, model=HUB_MODEL))
    for step in (mended, carry_out(mended)):
        assert find_stored(step, "Stalled")["status"] == "False"
        assert find_stored(step, "Reconciling")["status"] == "True"


def find_stored(snapshot: Snapshot, kind: str) -> Json:
    """A condition of the stored status."""
    return next(each for each in snapshot.service["status"]["conditions"] if each["type"] == kind)


def passes_kubectl_wait(snapshot: Snapshot, kind: str) -> bool:
    """What ``kubectl wait --for=condition=KIND`` asks: the condition is True, and of no earlier generation.

    https://github.com/kubernetes/kubectl/blob/v0.37.2/pkg/cmd/wait/condition.go (the condition's own)
    """
    condition = find_stored(snapshot, kind)
    return (
        condition["status"] == "True"
        and condition["observedGeneration"] >= (snapshot.service["metadata"]["generation"])
    )


def compute_kstatus(snapshot: Snapshot) -> str:
    """What kstatus makes of a resource of a kind that it doesn't know.

    https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
    """
    if snapshot.service["status"]["observedGeneration"] != snapshot.service["metadata"]["generation"]:
        return "InProgress"
    if find_stored(snapshot, "Reconciling")["status"] == "True":
        return "InProgress"
    if find_stored(snapshot, "Stalled")["status"] == "True":
        return "Failed"
    return "Current" if find_stored(snapshot, "Ready")["status"] == "True" else "InProgress"


def test_kubectl_wait_after_an_edit_waits_until_no_earlier_pod_is_left() -> None:
    running = begin()
    assert passes_kubectl_wait(running, "Ready")
    assert compute_kstatus(running) == "Current"
    assert (find_stored(running, "Progressing")["status"], find_stored(running, "Progressing")["reason"]) == (
        "True",
        "Complete",
    ), "as a Deployment's"
    edited = edit(running, model={**HUB_MODEL, "dtype": "Float16"})
    steps = [edited, carry_out(edited)]
    steps.append(carry_out(steps[-1]))  # written, and not yet looked at by the Deployment controller
    loading = build_pod("worker", is_ready=False)
    steps.append(carry_out(roll(steps[-1], "worker", old=2, new=1, ready=2, pod=loading)))
    steps.append(carry_out(roll(steps[-1], "worker", old=1, new=2, ready=2, pod=build_pod("worker"))))
    for number, step in enumerate(steps):
        assert not passes_kubectl_wait(step, "Ready"), f"step {number}"
        assert not passes_kubectl_wait(step, "ModelLoaded"), f"step {number}"
        assert compute_kstatus(step) == "InProgress", f"step {number}"
        assert find_stored(step, "Ready")["status"] == "True", "clients go on getting images"
    done = carry_out(settle_all(steps[-1]))
    assert passes_kubectl_wait(done, "Ready")
    assert passes_kubectl_wait(done, "ModelLoaded")
    assert compute_kstatus(done) == "Current"


def test_a_roll_out_that_fails_is_failed_for_kstatus_and_never_met_for_kubectl_wait() -> None:
    snapshot = carry_out(edit(begin(), model=MISSING_MODEL))
    broken = carry_out(roll(snapshot, "worker", old=2, new=1, ready=2, pod=crashed(78, "no such repository")))
    assert compute_kstatus(broken) == "Failed"
    assert not passes_kubectl_wait(broken, "Ready")


def test_an_edit_that_needs_no_new_pods_is_met_at_once() -> None:
    done = carry_out(carry_out(edit(begin(), replicas=3, tracing={})))
    assert passes_kubectl_wait(done, "Ready")


def test_workers_that_follow_the_work_are_no_roll_out() -> None:
    service = build_service({"model": HUB_MODEL, "scaling": {"maxReplicas": 8}})
    pods = (build_pod("gateway"), build_pod("worker"))
    running = carry_out(build_running(service, *pods, workers=1))
    assert compute_kstatus(running) == "Current"
    key = ObjectKey("Deployment", "studio", "painter-worker")
    live = running.children[key]
    counts = {"replicas": 4, "updatedReplicas": 4, "availableReplicas": 1}
    scaled = {**live, "spec": {**live["spec"], "replicas": 4}, "status": {**live["status"], **counts}}
    more = carry_out(replace(running, children={**running.children, key: scaled}, now=NOW))
    assert compute_kstatus(more) == "Current"
    assert passes_kubectl_wait(more, "Ready")


@pytest.mark.parametrize("reason", ["NewReplicaSetAvailable", "ReplicaSetUpdated"])
def test_an_edit_that_needs_no_new_workers_is_not_held_up_by_those_that_no_node_takes(reason: str) -> None:
    """What the Deployment controller has called available stays so while the number of pods follows the work."""
    service = build_service({"model": HUB_MODEL, "scaling": {"maxReplicas": 8}})
    running = carry_out(build_running(service, build_pod("gateway"), build_pod("worker"), workers=1))
    key = ObjectKey("Deployment", "studio", "painter-worker")
    live = running.children[key]
    counts = {"replicas": 8, "updatedReplicas": 8, "availableReplicas": 1}
    progress = {"type": "Progressing", "status": "True", "reason": reason}
    full = {**live, "spec": {**live["spec"], "replicas": 8}, "status": {**live["status"], **counts}}
    full["status"]["conditions"] = [progress]
    edited = edit(replace(running, children={**running.children, key: full}), scaling={"maxReplicas": 9})
    written = carry_out(carry_out(edited))
    settled = {**written.children, key: {**written.children[key], "status": full["status"]}}
    for name in ("painter-worker", "painter-gateway"):
        deployment = settled[ObjectKey("Deployment", "studio", name)]
        observed = {"observedGeneration": deployment["metadata"]["generation"]}
        settled[ObjectKey("Deployment", "studio", name)] = {
            **deployment,
            "status": {**deployment["status"], **observed},
        }
    after = carry_out(replace(written, children=settled))
    assert (compute_kstatus(after) == "Current") is (reason == "NewReplicaSetAvailable")


def test_a_missing_secret_of_new_workers_is_named_while_the_old_ones_serve() -> None:
    source = {"huggingFace": {**HUB_MODEL["source"]["huggingFace"], "tokenSecretName": "hub"}}
    edited = carry_out(edit(begin(), model={"source": source}))
    plan = decide(replace(edited, missing=frozenset({ObjectKey("Secret", "studio", "hub")})))
    ready = find(plan, "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "ServingPreviousRevision")
    assert "Secret studio/hub doesn't exist" in ready["message"]
    assert "spec.model.source.huggingFace.tokenSecretName" in ready["message"]
    assert find(plan, "Progressing")["reason"] == "ReferenceMissing"
    assert find(plan, "ModelLoaded")["reason"] == "ReferenceMissing"


def test_old_gateways_that_do_not_check_the_keys_of_the_spec_are_not_ready_in_silence() -> None:
    edited = carry_out(edit(begin(), gateway={"apiKeysSecretName": "kyes"}))
    plan = decide(replace(edited, missing=frozenset({ObjectKey("Secret", "studio", "kyes")})))
    ready = find(plan, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ReferenceMissing")
    assert "Secret studio/kyes doesn't exist" in ready["message"]
    assert "go on: by the keys that they have, or, without any, they refuse everybody" in ready["message"]


@pytest.mark.parametrize(
    ("spec", "kind", "name", "field"),
    [
        ({"gateway": {"apiKeysSecretName": "x"}}, "Secret", "x", "spec.gateway.apiKeysSecretName"),
        ({"gateway": {"webhook": {"signingSecretName": "x"}}}, "Secret", "x", "spec.gateway.webhook.signingSecretName"),
        (
            {"gateway": {"results": {"bucket": {"name": "images", "region": "eu", "credentialsSecretName": "x"}}}},
            "Secret",
            "x",
            "spec.gateway.results.bucket.credentialsSecretName",
        ),
        (
            {"model": {"source": {"persistentVolumeClaim": {"claimName": "x"}}}},
            "PersistentVolumeClaim",
            "x",
            "spec.model.source.persistentVolumeClaim.claimName",
        ),
        (
            {
                "adapters": [
                    {"name": "ink", "source": {"persistentVolumeClaim": {"claimName": "x", "path": "ink.safetensors"}}}
                ]
            },
            "PersistentVolumeClaim",
            "x",
            "spec.adapters[ink].source.persistentVolumeClaim.claimName",
        ),
        (
            {"upscalers": [{"name": "x4", "source": {"s3": {"uri": "s3://weights/x4", "credentialsSecretName": "x"}}}]},
            "Secret",
            "x",
            "spec.upscalers[x4].source.s3.credentialsSecretName",
        ),
        ({"downloads": {"tokenSecretName": "x"}}, "Secret", "x", "spec.downloads.tokenSecretName"),
        (
            {"model": {**HUB_MODEL, "refiner": {"source": {"persistentVolumeClaim": {"claimName": "x"}}}}},
            "PersistentVolumeClaim",
            "x",
            "spec.model.refiner.source.persistentVolumeClaim.claimName",
        ),
        (
            {
                "model": {
                    **HUB_MODEL,
                    "refiner": {"source": {"huggingFace": {"repository": "a/b", "tokenSecretName": "x"}}},
                }
            },
            "Secret",
            "x",
            "spec.model.refiner.source.huggingFace.tokenSecretName",
        ),
        ({"worker": {"cacheClaimName": "x"}}, "PersistentVolumeClaim", "x", "spec.worker.cacheClaimName"),
    ],
)
def test_whatever_the_spec_names_and_does_not_exist_is_named_with_its_field(
    spec: Json, kind: str, name: str, field: str
) -> None:
    plan = decide(replace(edit(begin(), **spec), missing=frozenset({ObjectKey(kind, "studio", name)})))
    said = [find(plan, each)["message"] for each in ("Ready", "Progressing")]
    for message in said:
        assert f"{kind} studio/{name} doesn't exist" in message
        assert field in message
    assert "ReferenceMissing" in [event.reason for event in plan.events]


def test_a_secret_that_goes_later_leaves_those_that_have_read_it_at_work() -> None:
    running = begin(1, model={"source": {"huggingFace": {"repository": "a/b", "tokenSecretName": "hub"}}})
    plan = decide(replace(running, missing=frozenset({ObjectKey("Secret", "studio", "hub")})))
    ready = find(plan, "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Degraded")
    assert "Secret studio/hub doesn't exist, so no new worker pod can start" in ready["message"]
    assert find(plan, "ModelLoaded")["status"] == "True"
    assert find(plan, "Progressing")["reason"] == "Complete"
