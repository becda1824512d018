"""What examples/ shows is accepted: by the resource's models, and by the gateway that reads the keys' Secret."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from easel_contract import names
from easel_contract.resource import StableDiffusionServiceSpec
from easel_server.gateway.api_keys import KeyRing

EXAMPLES = sorted((Path(__file__).parent.parent.parent / "examples").glob("*.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_a_service_in_an_example_is_valid(file: Path) -> None:
    services = [document for document in _documents(file) if document["kind"] == names.KIND]
    assert services
    for service in services:
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


def _documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))
