"""Mirror, proxy and offline mode: the same variables in workers and in the Job that fills their cache."""

from dataclasses import replace
from typing import Any

import pytest
from easel_contract import names
from easel_contract.resource import ServiceDefaults, StableDiffusionServiceSpec
from easel_operator.decide.references import list_references
from easel_operator.manifests.children import build_children
from easel_operator.manifests.metadata import ChildContext
from easel_operator.manifests.worker import hash_worker_spec
from easel_operator.objects import Json
from pydantic import ValidationError

from tests.operator.objects import HUB_MODEL, OWNER, RELEASE

CACHED = {"model": {**HUB_MODEL, "cache": {"claimName": "models"}}, "replicas": 1}
PROXY = {"address": "http://proxy.example.com:3128", "exceptions": [".example.com", "10.0.0.0/8"]}
NAMES = {"HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"}


def read_env(downloads: Json, defaults: Json | None = None) -> dict[str, dict[str, Any]]:
    """Of each kind of pod, the variables that say how the Hub is reached."""
    spec = StableDiffusionServiceSpec.model_validate({**CACHED, "downloads": downloads})
    release = replace(RELEASE, defaults=ServiceDefaults.model_validate({"downloads": defaults or {}}))
    found = {}
    for child in build_children(ChildContext(OWNER, spec, release, 60), has_hpa=False, is_tolerance_supported=True):
        if child["kind"] in {"Deployment", "Job"}:
            env = child["spec"]["template"]["spec"]["containers"][0]["env"]
            role = child["metadata"]["labels"][names.LABEL_COMPONENT]
            found[role] = {each["name"]: each.get("value") for each in env if each["name"] in NAMES}
    return found


def test_workers_and_the_job_reach_the_hub_alike_and_gateways_ask_it_for_nothing() -> None:
    env = read_env({"hubEndpoint": "https://hub.example.com", "proxy": PROXY, "offline": True})
    assert env["worker"] == {
        "HF_ENDPOINT": "https://hub.example.com",
        "HF_HUB_OFFLINE": "1",
        "HTTPS_PROXY": "http://proxy.example.com:3128",
        "HTTP_PROXY": "http://proxy.example.com:3128",
        "NO_PROXY": "localhost,127.0.0.1,::1,.svc,.cluster.local,.example.com,10.0.0.0/8",
    }
    assert env["model-cache"] == env["worker"]
    assert env["gateway"] == {}


def test_a_service_that_says_nothing_has_the_installations_and_what_it_says_is_its_own() -> None:
    defaults = {"hubEndpoint": "https://hub.example.com", "offline": True}
    assert read_env({}, defaults)["worker"] == {"HF_ENDPOINT": "https://hub.example.com", "HF_HUB_OFFLINE": "1"}
    own = read_env({"hubEndpoint": "https://other.example.com", "offline": False}, defaults)["worker"]
    assert own == {"HF_ENDPOINT": "https://other.example.com"}
    assert read_env({})["worker"] == {}


@pytest.mark.parametrize("place", ["spec", "the installation's defaults"])
def test_a_proxys_secret_that_is_missing_is_named(place: str) -> None:
    proxy = {"proxy": {"secretName": "way-out"}}
    spec = StableDiffusionServiceSpec.model_validate({**CACHED, "downloads": proxy if place == "spec" else {}})
    defaults = ServiceDefaults.model_validate({"downloads": {} if place == "spec" else proxy})
    named = {each.key.name: each.field for each in list_references("studio", spec, defaults)}
    assert named["way-out"] == f"{place}.downloads.proxy.secretName"


def test_only_what_concerns_pods_makes_other_workers() -> None:
    def digest(**downloads: Any) -> str:
        return hash_worker_spec(StableDiffusionServiceSpec.model_validate({**CACHED, "downloads": downloads}))

    assert digest(hubEndpoint="https://hub.example.com") != digest()
    assert digest(allowedHosts=["example.com"]) == digest()


@pytest.mark.parametrize(
    ("downloads", "word"),
    [
        ({"proxy": {}}, "set one"),
        ({"proxy": {"address": "http://p:1", "secretName": "s"}}, "set one"),
        ({"proxy": {"address": "http://user:password@proxy:3128"}}, "belong in a Secret"),
        ({"hubEndpoint": "hub.example.com"}, "must be http:// or https://"),
        ({"proxy": {"address": "http://p:1", "exceptions": ["a,b"]}}, "pattern"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_with_what_may(downloads: Json, word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        StableDiffusionServiceSpec.model_validate({**CACHED, "downloads": downloads})
