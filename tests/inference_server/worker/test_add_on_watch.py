"""A worker says what lies on its volumes before a request asks for it: what isn't there, and what was written anew."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from easel_contract.add_ons import AdapterConfig, AddOnsConfig, ControlNetConfig
from easel_contract.server_config import ModelConfig, ServerConfig
from easel_server.stores.facts.add_on_contents import AddOnContents
from easel_server.stores.facts.memory import MemoryFacts
from easel_server.stores.jobs.interface import Claim
from easel_server.telemetry.add_on_problems import AddOnProblems
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.worker.gathering import Gatherer, watch_add_ons
from easel_server.worker.job_run import JobRun

from tests.support.eventually import eventually
from tests.support.fake_engine import FakeEngine
from tests.support.jobs import build_job


@asynccontextmanager
async def watching(add_ons: AddOnsConfig, file: Path | None = None) -> AsyncIterator[AddOnProblems]:
    problems = AddOnProblems()
    task = asyncio.create_task(watch_add_ons(add_ons, file, problems, period_seconds=0.01))
    try:
        yield problems
    finally:
        task.cancel()


async def said_of(problems: AddOnProblems, *names: str) -> list[str]:
    """The messages, as soon as they are about these add-ons."""

    async def are_these() -> bool:
        return [each.name for each in problems.list_problems()] == list(names)

    await eventually(are_these)
    return [each.message for each in problems.list_problems()]


async def test_a_file_that_a_volume_lacks_is_said_with_what_lies_beside_it_until_it_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ink-v2.safetensors").touch()
    ink = AdapterConfig(name="ink", source=str(tmp_path), file="ink.safetensors")
    there = AdapterConfig(name="there", source=str(tmp_path), file="ink-v2.safetensors")
    async with watching(AddOnsConfig(adapters=(ink, there))) as problems:
        assert await said_of(problems, "ink") == [
            f"ink ({tmp_path}) has no ink.safetensors; correct its path, beside it are: ink-v2.safetensors"
        ]
        (tmp_path / "ink.safetensors").touch()
        await said_of(problems)
    assert len([each for each in caplog.records if "has no ink.safetensors" in each.message]) == 1, "said once"


async def test_a_file_that_workers_may_not_read_is_said_with_their_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ink.safetensors").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may read everything
    ink = AdapterConfig(name="ink", source=str(tmp_path), file="ink.safetensors")
    async with watching(AddOnsConfig(adapters=(ink,))) as problems:
        [message] = await said_of(problems, "ink")
    assert f"can't be read by user {os.getuid()}" in message


async def test_what_has_to_be_fetched_isnt_looked_for(tmp_path: Path) -> None:
    gone = ControlNetConfig(name="gone", source=str(tmp_path / "gone"))
    afar = AdapterConfig(name="afar", source="someone/afar")
    async with watching(AddOnsConfig(adapters=(afar,), control_nets=(gone,))) as problems:
        await said_of(problems, "gone")


async def test_an_add_on_that_is_added_while_a_worker_runs_is_looked_for_too(tmp_path: Path) -> None:
    file = tmp_path / "worker.json"
    async with watching(AddOnsConfig(), file) as problems:
        await said_of(problems)
        added = AddOnsConfig(adapters=(AdapterConfig(name="late", source=str(tmp_path), file="late.safetensors"),))
        config = ServerConfig(model=ModelConfig(name="sd15", source="/models/sd15"), add_ons=added)
        new = tmp_path / "new"
        new.write_text(json.dumps(config.to_wire()))
        new.replace(file)
        await said_of(problems, "late")


async def test_a_file_that_was_written_anew_is_reported_though_every_request_for_it_is_cached() -> None:
    facts, engine = MemoryFacts(lambda: datetime.now(UTC)), FakeEngine()
    ink = AdapterConfig(name="ink", source="/loras/ink.safetensors")
    afar = AdapterConfig(name="afar", source="someone/afar")
    gathered = asyncio.Event()
    gatherer = Gatherer(
        engine,
        ServerMetrics(gateway=False, worker=True),
        on_gathered=lambda _: gathered.set(),
        pause_seconds=0.0,
        contents=AddOnContents(facts),
    )
    at_a_gateway = AddOnContents(facts)
    gatherer.begin(JobRun(Claim(build_job("a").model_copy(update={"add_ons": (ink, afar)}), "token", 10.0)))
    await gathered.wait()
    assert await at_a_gateway.find([ink]) == {"ink": "sha256:1"}
    watching = asyncio.create_task(gatherer.watch_contents(period_seconds=0.01))
    try:
        engine.digests = {"ink": "sha256:2", "afar": "sha256:2"}
        engine.brought.clear()

        async def is_known() -> bool:
            return await at_a_gateway.find([ink]) == {"ink": "sha256:2"}

        await eventually(is_known)
        assert set(engine.brought) == {"ink"}, "the Hub isn't asked without need"
    finally:
        watching.cancel()
        gatherer.close()
