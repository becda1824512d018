"""Adapters from the request to the image, from outside: a gateway and a worker over Redis, a volume and a Hub."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from easel_contract.add_ons import AdapterConfig, AddOnsConfig
from easel_contract.server_config import ModelConfig, ServerConfig
from easel_server.generation.encoding import read_recipe_text
from PIL import Image

from tests.inference_server.engine.add_ons.adapters import write_adapter
from tests.support.hub_server import HubServer, serve_hub
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess
from tests.support.tiny_engine import tiny_model_directory

pytestmark = [pytest.mark.torch, pytest.mark.redis]


class System:
    """A service with an adapter on a volume, ``ink``, and one on the Hub, ``clay``."""

    def __init__(self, gateway: ServerProcess, volume: Path, hub: HubServer) -> None:
        self.gateway, self.volume, self.hub = gateway, volume, hub

    def ask(self, **given: Any) -> httpx.Response:
        body = {"size": "64x64", "num_inference_steps": 4, **given}
        # What is sent again within ten seconds without such a header is answered with the same bytes, unread.
        headers = {"Cache-Control": "max-age=3600"}
        answer = httpx.post(f"{self.gateway.url}/v1/images/generations", json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer


def image_of(answer: httpx.Response) -> bytes:
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def recipe_of(answer: httpx.Response) -> str:
    with Image.open(BytesIO(image_of(answer))) as image:
        return read_recipe_text(image)


def digest_in(recipe: str) -> str:
    [adapter] = json.loads(recipe)["model"]["adapters"]
    return str(adapter["digest"])


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("adapters")
    volume, repository = directory / "volume", directory / "hub" / "owner" / "clay"
    for each in (volume, repository):
        each.mkdir(parents=True)
    write_adapter(volume, "ink", seed=1)
    write_adapter(repository, "clay", seed=2)
    adapters = (
        AdapterConfig(name="ink", source=str(volume), file="ink.safetensors"),
        AdapterConfig(name="clay", source="owner/clay", file="clay.safetensors"),
    )
    config = ServerConfig(
        model=ModelConfig(name="tiny", source=str(tiny_model_directory("sd15"))),
        add_ons=AddOnsConfig(adapters=adapters),
    )
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        hub = stack.enter_context(serve_hub(directory / "hub"))
        environment: dict[str, Any] = {
            "EASEL_REDIS_URL": redis.url,
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(directory / "cache"),
        }
        worker, gateway = (
            stack.enter_context(ServerProcess("--role", role, config=config, **environment))
            for role in ("worker", "gateway")
        )
        worker.wait_until_ready()
        gateway.wait_until_ready()
        yield System(gateway, volume, hub)


def test_an_adapters_image_is_cached_until_its_file_changes_and_a_recipe_of_before_says_so(system: System) -> None:
    asked: dict[str, Any] = {"prompt": "a cat", "seed": 5, "loras": {"ink": 0.8}}
    first, again = system.ask(**asked), system.ask(**asked)
    assert (first.headers["X-Cache"], again.headers["X-Cache"]) == ("miss", "hit")
    assert image_of(first) == image_of(again)
    recipe = recipe_of(first)
    same = system.ask(recipe=recipe)
    assert image_of(same) == image_of(first)
    assert "warnings" not in same.json()

    new = write_adapter(system.volume, "new", seed=3)
    shutil.move(new.source, system.volume / "ink.safetensors")
    system.ask(**{**asked, "seed": 6})  # the first job that has it says what it holds; without one, a minute's look
    changed = system.ask(**asked)
    assert changed.headers["X-Cache"] == "miss"
    assert image_of(changed) != image_of(first)
    before, now = digest_in(recipe), digest_in(recipe_of(changed))
    assert before != now
    repeated = system.ask(recipe=recipe)
    [warning] = repeated.json()["warnings"]
    assert "the file of adapter 'ink' has changed since" in warning
    assert before[:23] in warning
    assert now[:23] in warning
    assert warning.partition(":")[0] in repeated.headers["Warning"]
    assert image_of(repeated) == image_of(changed)


def test_an_adapter_from_the_hub_is_fetched_once_and_changes_the_image(system: System) -> None:
    asked: dict[str, Any] = {"prompt": "a dog", "seed": 7}
    plain = system.ask(**asked)
    system.hub.forget()
    one = system.ask(**asked, loras={"clay": 1.0})
    another = system.ask(**{**asked, "seed": 8}, loras={"clay": 1.0})
    assert len({image_of(each) for each in (plain, one, another)}) == 3
    size = (system.hub.root / "owner/clay/clay.safetensors").stat().st_size
    assert system.hub.sent_bytes == {"owner/clay/clay.safetensors": size}
    assert digest_in(recipe_of(one)) == digest_in(recipe_of(another))
    assert system.ask(**asked, loras={"clay": 1.0}).headers["X-Cache"] == "hit"
