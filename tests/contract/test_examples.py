"""What examples/ shows is accepted: by the resource's models, and by the gateway that reads the keys' Secret."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from easel_contract import names
from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.manifests.metadata import Owner, build_labels
from easel_server.gateway.api_keys import KeyRing

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((Path(__file__).parent.parent.parent / "examples").glob("*.yaml"))


def _list_pieces() -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The specs in the YAML blocks of the documents: file, line, spec."""
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = file.read_text()
        for found in re.finditer(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            shown = yaml.safe_load(found[1])
            if isinstance(shown, dict) and "spec" in shown and shown.get("kind", names.KIND) == names.KIND:
                yield str(file.relative_to(ROOT)), text[: found.start()].count("\n") + 1, shown["spec"]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_a_service_in_an_example_is_valid(file: Path) -> None:
    services = [document for document in _documents(file) if document["kind"] == names.KIND]
    assert services or file.stem == "network-policies"
    for service in services:
        assert service["apiVersion"] == f"{names.API_GROUP}/{names.SERVED_API_VERSIONS[0]}"
        StableDiffusionServiceSpec.model_validate(service["spec"])


def test_the_keys_of_the_production_example_are_read_as_it_says(tmp_path: Path) -> None:
    production = next(file for file in EXAMPLES if file.stem == "production")
    secret = next(document for document in _documents(production) if document["metadata"]["name"] == "painters")
    for customer, value in secret["stringData"].items():
        (tmp_path / customer).write_text(value)
    keys = KeyRing(tmp_path)
    assert keys.find_customer("Bearer acme-key-2025-replace-me").name == "acme"
    assert keys.find_customer("Bearer acme-key-2026-replace-me").weight == 1
    studio = keys.find_customer("Bearer studio-key-replace-me")
    assert (studio.name, studio.weight) == ("studio", 3)
    assert studio.rate_limit is not None
    assert studio.rate_limit.gpu_seconds_per_minute == 240


@pytest.mark.parametrize(("document", "line", "shown"), list(_list_pieces()))
def test_what_a_document_shows_of_a_resource_is_valid(document: str, line: int, shown: dict[str, Any]) -> None:
    del document, line
    hub = {"source": {"huggingFace": {"repository": "stabilityai/sdxl-turbo"}}}
    number = {} if "scaling" in shown else {"replicas": 1}
    StableDiffusionServiceSpec.model_validate({"model": hub, **number, **shown})


def test_the_network_policies_let_through_what_the_pods_of_a_service_need() -> None:
    file = next(each for each in EXAMPLES if each.stem == "network-policies")
    policies = {each["metadata"]["name"]: each["spec"] for each in _documents(file)}
    owner = Owner("studio", "painter", "8f3b4c52-0000-4000-8000-000000000001")
    ports = {names.COMPONENT_WORKER: {"metrics"}, names.COMPONENT_GATEWAY: {"metrics", "http"}}
    for component, named in ports.items():
        policy = policies[f"easel-{component}s"]
        assert policy["podSelector"]["matchLabels"].items() <= build_labels(owner, component).items()
        assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == named
        outward = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
        assert {53, 443, 6379} <= outward


def _documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))
