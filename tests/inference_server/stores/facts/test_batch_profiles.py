"""What one worker has measured of batches, the next one reads."""

import json
from pathlib import Path

import pytest
from easel_server.stores.facts.batch_profiles import MAX_PROFILES, share_profiles, take_profiles
from easel_server.stores.facts.interface import FactStore
from easel_server.stores.opening import Stores

NAME = f"{'a' * 64}.json"
CONTENT = json.dumps({"step_seconds": {"1": 0.5, "2": 0.6}})


def list_names(directory: Path) -> list[str]:
    return [file.name for file in directory.iterdir()]


async def exchange(facts: FactStore, source: Path, target: Path) -> None:
    await share_profiles(facts, "model", source)
    await take_profiles(facts, "model", target)


@pytest.fixture
def facts(stores: Stores) -> FactStore:
    return stores.facts


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


async def test_the_next_worker_of_the_model_reads_what_was_measured(facts: FactStore, source: Path, target: Path):
    (source / NAME).write_text(CONTENT)
    await exchange(facts, source, target)
    assert (target / NAME).read_text() == CONTENT
    await take_profiles(facts, "another model", source)
    assert list_names(source) == [NAME]


async def test_what_a_worker_has_measured_itself_is_kept(facts: FactStore, source: Path, target: Path):
    (source / NAME).write_text(CONTENT)
    (target / NAME).write_text("its own")
    await exchange(facts, source, target)
    assert (target / NAME).read_text() == "its own"


async def test_they_are_bounded_in_number_and_size(facts: FactStore, source: Path, target: Path):
    for number in range(MAX_PROFILES + 4):
        (source / f"{number:064x}.json").write_text(CONTENT)
    (source / f"{'b' * 64}.json").write_text("x" * 5000)
    await exchange(facts, source, target)
    assert len(list_names(target)) == MAX_PROFILES


@pytest.mark.parametrize("damaged", [b"\xff", b"[]", b'{"../../evil.json": "x"}', b'{"a.json": 3}'])
async def test_a_damaged_fact_writes_nothing(facts: FactStore, target: Path, damaged: bytes):
    await facts.put("batch-profiles/model", damaged, ttl_seconds=60)
    await take_profiles(facts, "model", target)
    assert list_names(target) == []
