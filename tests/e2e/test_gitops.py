"""What the operator keeps for a chart that is rendered without a cluster, on a real kubelet; and `helm test`."""

import base64
import json
from collections.abc import Callable

import openai

from demo.cluster import NAMESPACE, RELEASE, ROOT
from demo.load import forwarded
from tests.e2e.waiting import Services, tiny, wait_until

SECRET = ("secret", "easel-redis", "-n", NAMESPACE)
KEYS = ("secret", "easel-redis-service-users", "-n", NAMESPACE)
SYNTHETIC = {"kind": "Synthetic", "synthetic": {"millisecondsPerStep": 1, "millisecondsPerImage": 1}}


def test_helm_test_makes_an_image(services: Services) -> None:
    chart = str(ROOT / "helm/easel")
    words = ("upgrade", RELEASE, chart, "--namespace", NAMESPACE, "--reset-then-reuse-values", "--wait")
    services.cluster.helm(*words, "--set", "helmTest.enabled=true")
    said = services.cluster.helm("test", RELEASE, "--namespace", NAMESPACE, "--logs", "--timeout", "5m")
    assert "An image of " in said
    assert "Failed" not in said


def read_password(services: Services) -> str:
    return base64.b64decode(services.cluster.get(*SECRET)["data"]["password"]).decode()


def read_restarts(services: Services, name: str) -> dict[str, int]:
    """Pods of the service, and how often their containers were restarted."""
    return {
        pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"]
        for component in ("gateway", "worker")
        for pod in services.pods(name, component)
    }


def test_another_password_and_a_lost_one_cost_no_image_and_no_pod(services: Services) -> None:
    name = services.apply(tiny("steady", replicas=1, scaling=None, worker__gpu={"count": 0}, worker__engine=SYNTHETIC))
    services.wait_for(name, "Ready", "True", "Available")
    before = read_restarts(services, name)
    with forwarded(services.cluster, name) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:

        def make_image(prompt: str) -> None:
            assert client.images.generate(prompt=prompt, size="256x256").data

        make_image("before")
        given = read_served(services, name)
        services.cluster.kubectl("patch", *SECRET, "-p", json.dumps({"stringData": {"password": "another-one"}}))
        services.cluster.kubectl("patch", *KEYS, "-p", json.dumps({"stringData": {"key": "another-one"}}))
        wait_until(lambda: read_served(services, name), lambda url: url != given, "told", 60)
        make_image("after other passwords")
        restart_redis(services)
        wait_until(succeeds(lambda: make_image("after Redis came back with it")), bool, "an image", 120)

        services.cluster.kubectl("delete", *SECRET)
        wait_until(lambda: exists(services), bool, "the Secret is back", 60)
        assert read_password(services) == "another-one"
        make_image("after the Secret was lost")
    assert read_restarts(services, name) == before


def exists(services: Services) -> bool:
    found = services.cluster.get("secrets", "-n", NAMESPACE)["items"]
    return any(item["metadata"]["name"] == "easel-redis" and "users.conf" in item.get("data", {}) for item in found)


def read_served(services: Services, name: str) -> str:
    """The URL that the service was given."""
    return base64.b64decode(services.cluster.get("secret", f"{name}-redis")["data"]["url"]).decode()


def restart_redis(services: Services) -> None:
    """Its pod is made anew, with what the Secret has now."""
    services.cluster.kubectl("delete", "pod", "easel-redis-0", "-n", NAMESPACE)
    services.cluster.kubectl("rollout", "status", "statefulset/easel-redis", "-n", NAMESPACE, "--timeout=120s")


def succeeds(attempt: Callable[[], None]) -> Callable[[], bool]:
    """Whether an attempt does, for one that may fail for a while."""

    def look() -> bool:
        try:
            attempt()
        except openai.APIError:
            return False
        return True

    return look
