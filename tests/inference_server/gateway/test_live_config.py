"""What a gateway takes over from its configuration file while it runs."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from easel_contract import names
from easel_contract.gateway_config import GatewayConfig, QueueConfig
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig
from easel_server.gateway.live_config import LiveConfig, read_queue_config

from tests.support.eventually import eventually
from tests.support.live_configs import build_live_config

FIRST = ServerConfig(model=ModelConfig(name="first", source="owner/first"))
SECOND = ServerConfig(model=ModelConfig(name="second", source="owner/second"), gateway=GatewayConfig(max_workers=7))


def write(file: Path, text: str) -> None:
    """In the place of the file, at once: as the kubelet renews a ConfigMap's."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def remove(file: Path) -> None:
    file.unlink()


def as_text(config: ServerConfig) -> str:
    return json.dumps(config.to_wire())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.json"
    write(file, as_text(FIRST))
    return file


@asynccontextmanager
async def following(file: Path) -> AsyncIterator[LiveConfig]:
    live = build_live_config(FIRST)
    task = asyncio.create_task(live.follow(file, period_seconds=0.01))
    try:
        yield live
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_another_model_and_another_bound_of_scaling_are_taken_over(file: Path) -> None:
    async with following(file) as live:
        key = live.requested.key
        write(file, as_text(SECOND))

        async def is_taken_over() -> bool:
            return (live.name, live.max_workers) == ("second", 7)

        await eventually(is_taken_over)
        assert live.requested.key != key


async def test_the_order_of_the_queue_is_taken_over_as_it_changes_and_what_is_new_in_it_is_left_alone(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(file) as live:
        assert live.queue.overtaken_seconds is None
        queue = file.with_name(names.CONFIG_KEY_QUEUE)
        write(queue, '{"targetSeconds": 20, "coldStartSeconds": 90, "ofALaterVersion": {"deep": 1}}')

        async def is_taken_over() -> bool:
            return live.queue.overtaken_seconds == 90 + 2 * 20

        await eventually(is_taken_over)
        taken = live.queue
        write(queue, '{"targetSeconds": 20, "order": "ShortestFirst"}')

        async def is_said() -> bool:
            return "queue.json is not valid" in caplog.text

        await eventually(is_said)
        assert live.queue is taken, "requests are taken in either order"
        write(queue, '{"targetSeconds": 20, "order": "FirstComeFirstServed"}')

        async def is_first_come() -> bool:
            return live.queue.overtaken_seconds is None

        await eventually(is_first_come)
        assert live.queue.bound_gpu_seconds(50.0) == 20.0, "a job is no more divisible in that order"


def test_a_gateway_begins_with_the_order_that_stands_beside_its_configuration(file: Path) -> None:
    assert read_queue_config(file) == read_queue_config(None) == QueueConfig()
    write(file.with_name(names.CONFIG_KEY_QUEUE), '{"targetSeconds": 20, "maxOvertakenSeconds": 5}')
    assert read_queue_config(file).overtaken_seconds == 5


async def test_another_engine_is_another_key(file: Path) -> None:
    async with following(file) as live:
        key = live.requested.key
        write(file, as_text(FIRST.model_copy(update={"engine": EngineConfig(kind=EngineKind.SYNTHETIC)})))

        async def is_taken_over() -> bool:
            return live.engine is EngineKind.SYNTHETIC

        await eventually(is_taken_over)
        assert live.requested.key != key


@pytest.mark.parametrize("content", ["{", "{}", '{"model": {"name": ""}}'])
async def test_a_file_that_is_not_valid_or_away_changes_nothing(
    file: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(file) as live:
        write(file, content)

        async def is_said() -> bool:
            return "not valid" in caplog.text

        await eventually(is_said)
        assert live.name == "first"
        remove(file)
        write(file, as_text(SECOND))

        async def is_taken_over() -> bool:
            return live.name == "second"

        await eventually(is_taken_over)


async def test_what_is_equal_stays_the_same_object(file: Path) -> None:
    """What is known of a model goes by it, and is looked for anew with another."""
    live = build_live_config(FIRST)
    before = live.model
    assert await live.change_to(ServerConfig.model_validate_json(as_text(FIRST)))
    assert live.model is before


async def test_requests_go_to_those_that_serve_until_a_worker_holds_the_new_model() -> None:
    """While a roll-out goes on or fails, as for a model that nobody can load, the workers before it still serve."""
    held = set()

    async def is_held(key: str) -> bool:
        return key in held

    live = LiveConfig(FIRST, is_held)
    first = live.requested.key
    held.add(first)
    assert not await live.change_to(SECOND)
    assert (live.requested.key, live.max_workers) == (first, 7), "how far it may scale holds at once"
    held.add(build_live_config(SECOND).requested.key)
    assert await live.change_to(SECOND)
    assert live.name == "second"


async def test_a_model_that_no_worker_holds_any_longer_is_not_waited_for() -> None:
    live = build_live_config(FIRST)
    assert await live.change_to(SECOND)
    assert live.name == "second"
