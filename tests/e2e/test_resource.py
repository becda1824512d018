"""The resource's life: changes reach pods, children come back, deletion cleans up, bad resources are refused."""

import base64
import json
import time
from io import BytesIO
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from demo.cluster import NAMESPACE
from demo.load import forwarded
from tests.e2e.waiting import Services, quick, tiny, wait_until


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scaling__minReplicas": 5}, "minReplicas must not be greater than maxReplicas"),
        ({"replicas": 2}, "exactly one of replicas (a fixed number) and scaling must be set"),
        ({"model__source": {}}, "exactly one of huggingFace, persistentVolumeClaim, image and s3 must be set"),
        ({"model__dtype": "Int4"}, 'Unsupported value: "Int4": supported values: "Auto"'),
        ({"scaling__maxReplicas": 0}, "should be greater than or equal to 1"),
        ({"worker__gpus": 2}, 'unknown field "spec.worker.gpus"'),
    ],
)
def test_a_bad_resource_is_refused_with_words_that_help(
    services: Services, changes: dict[str, object], words: str
) -> None:
    assert words in services.refused(tiny("bad", **changes))


def test_a_change_reaches_the_pods_and_a_gateway_change_leaves_the_gpu_pods_alone(services: Services) -> None:
    name = services.apply(quick("changing", replicas=1, scaling=None))
    services.wait_for(name, "ModelLoaded", "True")
    workers, gateways = (
        [pod["metadata"]["uid"] for pod in services.pods(name, component)] for component in ("worker", "gateway")
    )

    services.apply(quick("changing", replicas=1, scaling=None, gateway__limits={"maxSteps": 7}))
    wait_until(
        lambda: [pod["metadata"]["uid"] for pod in services.pods(name, "gateway")],
        lambda now: bool(now) and not set(now) & set(gateways),
        "new gateway pods",
        60,
    )
    services.wait_for(name, "Progressing", "True", "Complete")
    assert [pod["metadata"]["uid"] for pod in services.pods(name, "worker")] == workers
    with (
        forwarded(services.cluster, name) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client,
        pytest.raises(openai.BadRequestError, match="num_inference_steps: is 8, allowed are 1 to 7"),
    ):
        client.images.generate(prompt="a fox", extra_body={"num_inference_steps": 8})

    services.cluster.kubectl("scale", "sds", name, "--replicas=2")
    wait_until(lambda: len(services.pods(name, "worker")), lambda number: number == 2, "two workers", 30)


def test_a_running_gateway_serves_another_model_within_seconds_of_the_edit(services: Services) -> None:
    """A kubelet left alone renews the mounted configuration up to a minute later; till then jobs ask for the old."""
    fields: dict[str, object] = {"replicas": 0, "scaling": None, "worker__engine": {"kind": "Synthetic"}}

    def model(repository: str) -> dict[str, object]:
        return tiny("renewed", **fields, model={"source": {"huggingFace": {"repository": repository}}})

    name = services.apply(model("studio/first"))
    services.wait_for(name, "Progressing", "True", "Complete")
    gateways = [pod["metadata"]["uid"] for pod in services.pods(name, "gateway")]
    with forwarded(services.cluster, name) as url:

        def served() -> list[str]:
            return [entry["id"] for entry in httpx2.get(f"{url}/v1/models").json()["data"]]

        assert served() == ["studio/first"]
        services.apply(model("studio/second"))
        wait_until(served, lambda now: now == ["studio/second"], "the new model", 15)
    assert [pod["metadata"]["uid"] for pod in services.pods(name, "gateway")] == gateways


def test_an_adapter_that_is_added_later_is_asked_for_without_a_new_pod(services: Services) -> None:
    """Nothing has to be mounted for it; the synthetic engine fetches none, and answers as if it had."""
    fields: dict[str, object] = {"replicas": 1, "scaling": None, "worker__engine": {"kind": "Synthetic"}}
    source = {"huggingFace": {"repository": "studio/ink", "file": "ink.safetensors"}}
    name = services.apply(tiny("adapted", **fields))
    services.wait_for(name, "Progressing", "True", "Complete")
    services.wait_for(name, "ModelLoaded", "True")

    def pods() -> list[str]:
        return sorted(pod["metadata"]["uid"] for part in ("worker", "gateway") for pod in services.pods(name, part))

    before = pods()
    assert len(before) == 2
    asked = {"prompt": "a fox", "loras": [{"name": "ink", "weight": 0.5}], "response_format": "b64_json"}
    with forwarded(services.cluster, name) as url, httpx2.Client(base_url=url, timeout=60) as client:
        refused = client.post("/v1/images/generations", json=asked)
        assert refused.status_code == 400, refused.text
        assert "'ink', which is no adapter of this service; there are none here" in refused.text

        services.apply(tiny("adapted", **fields, adapters=[{"name": "ink", "source": source, "defaultWeight": 0.8}]))
        wait_until(
            lambda: client.get("/v1/models").json()["data"][0]["adapters"],
            lambda listed: listed == [{"name": "ink", "default_weight": 0.8}],
            "the adapter",
            20,
        )
        answer = client.post("/v1/images/generations", json=asked)
        assert answer.status_code == 200, answer.text
        image = Image.open(BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
        assert "<lora:ink:0.5>" in image.info["parameters"]
    services.wait_for(name, "Progressing", "True", "Complete")
    assert pods() == before


def test_a_deleted_or_edited_child_comes_back(services: Services) -> None:
    name = services.apply(quick("healing"))
    services.wait_for(name, "Ready", "True")
    before = services.children(name)
    for child in before:
        services.cluster.kubectl("delete", child, "--wait=false")
    after = wait_until(
        lambda: services.children(name),
        lambda now: set(now) == set(before) and not set(now.values()) & set(before.values()),
        "all children new",
        60,
    )
    assert set(after) == set(before)

    patch = json.dumps({"spec": {"ports": [{"name": "http", "port": 80, "targetPort": 9999}]}})
    services.cluster.kubectl("patch", "service", name, "-p", patch)
    wait_until(
        lambda: services.cluster.get("service", name)["spec"]["ports"][0]["targetPort"],
        lambda port: port == "http",
        "the Service's port mended",
        30,
    )
    services.wait_for(name, "Ready", "True")


def test_deletion_cleans_up(services: Services) -> None:
    name = services.apply(quick("leaving"))
    services.wait_for(name, "Ready", "True")
    services.cluster.kubectl("delete", "sds", name)
    wait_until(lambda: services.children(name), lambda left: not left, "no child left", 60)


def test_a_deleted_service_answers_its_waiters_and_the_next_of_its_name_inherits_nothing(services: Services) -> None:
    asleep = quick("handed-on", replicas=0, scaling=None)  # so that what is asked for waits
    name = services.apply(asleep)
    services.wait_for(name, "Progressing", "True", "Complete")
    with forwarded(services.cluster, name) as url, httpx2.Client(base_url=url, timeout=60) as client:
        first = client.post("/v1/predictions", json={"input": {"prompt": "a secret"}}).json()
        request = {"prompt": "another", "stream": True}
        with client.stream("POST", "/v1/images/generations", json=request) as stream:
            assert stream.status_code == 200
            services.cluster.kubectl("delete", "sds", name, "--wait=false")
            assert "the service was deleted" in "".join(stream.iter_text())
        services.cluster.kubectl("wait", "--for=delete", f"sds/{name}", "--timeout=60s")
    wait_until(lambda: services.children(name), lambda left: not left, "no child left", 60)

    services.apply(asleep)
    services.wait_for(name, "Progressing", "True", "Complete")
    with forwarded(services.cluster, name) as url, httpx2.Client(base_url=url, timeout=60) as client:
        assert client.get(f"/v1/predictions/{first['id']}").status_code == 404
        second = client.post("/v1/predictions", json={"input": {"prompt": "mine"}})
        assert second.status_code == 201, second.text


def test_what_a_redis_that_is_gone_keeps_of_a_deleted_service_is_said(services: Services) -> None:
    kubectl = services.cluster.kubectl
    name = services.apply(quick("let-go", replicas=0, scaling=None))
    services.wait_for(name, "Progressing", "True", "Complete")
    kubectl("scale", "statefulset/easel-redis", "-n", NAMESPACE, "--replicas=0")
    try:
        kubectl("delete", "sds", name, "--timeout=60s")
        events = wait_until(
            lambda: services.cluster.get("events", "--field-selector", "reason=CleanupIncomplete")["items"],
            bool,
            "the event",
            90,
        )
    finally:
        kubectl("scale", "statefulset/easel-redis", "-n", NAMESPACE, "--replicas=1")
    assert [event["involvedObject"]["name"] for event in events] == [name]


def test_a_namespace_with_a_service_can_be_deleted(services: Services) -> None:
    kubectl = services.cluster.kubectl
    kubectl("create", "namespace", "passing")
    # Kubernetes looks again at a namespace that is going after half of its pods' longest grace period.
    service = quick("guest", replicas=0, scaling=None, gateway__terminationGracePeriodSeconds=20)
    kubectl("apply", "-n", "passing", "-f", "-", stdin=json.dumps(service))
    wait_until(
        lambda: services.cluster.get("deployments", "-n", "passing")["items"],
        lambda found: len(found) == 2,
        "the service's children",
        60,
    )
    kubectl("delete", "namespace", "passing", "--timeout=240s")


def test_a_child_that_is_someone_elses_is_not_taken_over(services: Services) -> None:
    services.cluster.kubectl("create", "configmap", "taken-config", "--from-literal=theirs=1")
    name = services.apply(quick("taken"))
    try:
        condition = services.wait_for(name, "Ready", "False", "ChildConflict")
        assert "ConfigMap" in condition["message"]
        assert "taken-config" in condition["message"]
        assert services.cluster.get("configmap", "taken-config")["data"] == {"theirs": "1"}
    finally:
        services.cluster.kubectl("delete", "configmap", "taken-config")


def test_a_restarted_operator_writes_nothing(services: Services) -> None:
    name = services.apply(quick("steady", replicas=1, scaling=None))
    services.wait_for(name, "ModelLoaded", "True")
    services.wait_for(name, "Progressing", "True", "Complete")
    # What is written last: how long the start took is known once the worker has been scraped, a tick later.
    wait_until(
        lambda: services.cluster.get("sds", name).get("status", {}),
        lambda status: "coldStart" in status,
        "the cold start in the status",
        30,
    )

    def look() -> dict[str, Any]:
        kinds = "deployments,services,configmaps,secrets,serviceaccounts"
        listed = services.cluster.get(kinds, "-l", f"easel.dev/service={name}")["items"]
        found = {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in listed}
        service = services.cluster.get("sds", name)
        return {**found, "sds": service["metadata"]["resourceVersion"], "status": service["status"]}

    before = look()
    services.cluster.kubectl("rollout", "restart", "deployment/easel-operator", "-n", "easel-system")
    services.cluster.kubectl("rollout", "status", "deployment/easel-operator", "-n", "easel-system", "--timeout=60s")
    # The new operator has looked at the service once it mends something: use that as the sign.
    services.cluster.kubectl("delete", "configmap", f"{name}-config")
    wait_until(lambda: f"ConfigMap/{name}-config" in services.children(name), bool, "the new operator at work", 60)
    time.sleep(1)
    after = look()
    after.pop(f"ConfigMap/{name}-config")
    before.pop(f"ConfigMap/{name}-config")
    assert after == before
