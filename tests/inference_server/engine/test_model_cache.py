"""The model's cache: one process fills it, by the command of its Job, and others load from it without the Hub."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from easel_contract import metrics, names
from easel_server.engine.model_cache.filling import find_damaged
from easel_server.engine.model_cache.progress import Progress
from prometheus_client.parser import text_string_to_metric_families

from tests.inference_server.engine.test_hub import CONFIGURATION, FULL, HALF, UNET, write_repository, write_weights
from tests.support.eventually import eventually
from tests.support.hub_server import COMMIT, TOKEN, HubServer, serve_hub
from tests.support.redis_server import find_free_port

RECORD = "0123456789abcdef"
NOWHERE = "http://127.0.0.1:9"

# What a worker does before it loads; the Hub's address is read when its client is imported, hence a process.
WORKER = """
import json, sys
from easel_contract.server_config import ServerConfig
from easel_server.engine.model_cache.record import open_cache
from easel_server.engine.model_files.gathering import build_gathering, gather_model
from easel_server.engine.model_files.selection import ModelFileError
config = ServerConfig.model_validate_json(open(sys.argv[1]).read()).model
try:
    how = build_gathering(config, "bfloat16", open_cache(config.cache, None), read_pickle=None, find_repository=None)
    model = gather_model(config, how)
    print(json.dumps({"commit": model.commit, "files": list(model.selection.files), "at": str(model.directory)}))
except ModelFileError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    root = tmp_path / "hub-server"
    write_repository(root / "owner/model", *FULL, *HALF)
    # Files of equal contents would be one on the Hub, too.
    for number, name in enumerate((*FULL, *HALF)):
        width = "F16" if name in HALF else "F32"
        write_weights(root / "owner/model" / name, {"weight": (width, [1000 + number])})
    write_repository(root / "private/model", *FULL)
    with serve_hub(root) as server:
        server.has_large_files = True
        yield server


def write_config(volume: Path, *, record: str | None = RECORD, source: str = "owner/model", **model: Any) -> Path:
    """The file of a Job and of its service's workers."""
    cache = {"directory": str(volume), **({"record": record} if record else {})}
    volume.mkdir(exist_ok=True)
    file = volume.parent / f"{record}.json"
    file.write_text(json.dumps({"model": {"name": source, "source": source, "cache": cache, **model}}))
    return file


def start(arguments: list[str], address: str, home: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_fill(config: Path, address: str, home: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    """The command of the Job's container."""
    arguments = ["-m", "easel_server.start", "--role", "model-cache", "--config", str(config), *more]
    return start(arguments, address, home, **environment)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what it said."""
    with process:
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors


def load(config: Path, address: str, home: Path, **environment: str) -> dict[str, Any]:
    """What a worker finds."""
    with start(["-c", WORKER, str(config)], address, home, **environment) as process:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        answer: dict[str, Any] = json.loads(output)
        return answer


def test_one_job_downloads_and_no_worker_after_it_asks_the_hub_for_anything(hub: HubServer, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    config = write_config(volume)
    code, errors = finish(start_fill(config, hub.address, tmp_path / "job"))
    assert code == 0, errors
    assert hub.files == CONFIGURATION | set(HALF)
    hub.forget()
    workers = [load(config, hub.address, tmp_path / f"worker-{number}") for number in range(2)]
    assert [each["commit"] for each in workers] == [COMMIT, COMMIT]
    assert set(workers[0]["files"]) == CONFIGURATION | set(HALF)
    assert Path(workers[0]["at"]).is_relative_to(volume)
    assert hub.requests == []
    # Nor does the Job of another service that shares the claim.
    assert finish(start_fill(config, NOWHERE, tmp_path / "other"))[0] == 0


def test_workers_read_a_cache_that_they_may_not_write(hub: HubServer, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    config = write_config(volume)
    assert finish(start_fill(config, hub.address, tmp_path / "job"))[0] == 0
    before = sorted((str(file), file.lstat().st_mtime_ns) for file in volume.rglob("*"))
    assert load(config, NOWHERE, tmp_path / "worker")["commit"] == COMMIT
    assert sorted((str(file), file.lstat().st_mtime_ns) for file in volume.rglob("*")) == before


@pytest.mark.parametrize("byte", [0, -1])  # of its head, of its weights
def test_a_file_that_came_damaged_is_found_by_its_hash_and_fetched_again(
    hub: HubServer, tmp_path: Path, byte: int
) -> None:
    config = write_config(tmp_path / "volume")
    hub.damaged[f"owner/model/{HALF[0]}"] = [byte]
    assert finish(start_fill(config, hub.address, tmp_path / "job"))[0] == 0
    at = Path(load(config, NOWHERE, tmp_path / "worker")["at"])
    assert (at / HALF[0]).read_bytes() == (hub.root / "owner/model" / HALF[0]).read_bytes()


def test_a_mirror_that_always_damages_a_file_is_named_and_nothing_is_recorded(hub: HubServer, tmp_path: Path) -> None:
    config = write_config(tmp_path / "volume")
    hub.damaged[f"owner/model/{HALF[0]}"] = [-1] * 9
    code, errors = finish(start_fill(config, hub.address, tmp_path / "job"))
    assert code == names.EXIT_MODEL_LOAD_FAILED
    assert f"{Path(HALF[0]).name} came damaged twice" in errors
    assert "isn't whole" in load(config, hub.address, tmp_path / "worker")["error"]


def test_a_job_that_begins_anew_goes_on_where_the_one_before_it_ended(hub: HubServer, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    hub.damaged["owner/model/model_index.json"] = [0]  # no JSON: the first attempt ends after it
    config = write_config(volume)
    assert finish(start_fill(config, hub.address, tmp_path / "first"))[0] == names.EXIT_MODEL_LOAD_FAILED
    index = next(volume.rglob("model_index.json"))
    index.resolve().unlink()
    index.unlink()
    hub.forget()
    assert finish(start_fill(config, hub.address, tmp_path / "second"))[0] == 0
    assert load(config, NOWHERE, tmp_path / "worker")["commit"] == COMMIT


def read_progress(port: int) -> dict[str, int]:
    """Bytes by state, as the operator reads them; none before the process listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            page = answer.read().decode()
    except OSError:
        return {}
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {each.labels["state"]: round(each.value) for each in samples if each.name == metrics.MODEL_CACHE_BYTES}


async def test_how_far_a_download_is_can_be_read_while_it_goes_on(hub: HubServer, tmp_path: Path) -> None:
    held = f"owner/model/{HALF[0]}"
    go_on = hub.held[held] = threading.Event()
    port = find_free_port()
    config = write_config(tmp_path / "volume")
    job = start_fill(config, hub.address, tmp_path / "job", "--metrics-port", str(port))
    size = (hub.root / held).stat().st_size

    async def meet_half_way() -> dict[str, int] | None:
        found = read_progress(port)
        return found if found and found["needed"] - size <= found["fetched"] < found["needed"] else None

    try:
        met = await eventually(meet_half_way)
    finally:
        go_on.set()
    assert finish(job)[0] == 0
    record = json.loads((tmp_path / "volume" / "easel" / f"{RECORD}.json").read_text())
    assert met is not None
    assert met["needed"] == sum(record["files"].values())
    assert met["verified"] == 0


def test_bytes_of_a_file_that_is_being_received_count_as_fetched(tmp_path: Path) -> None:
    progress = Progress()
    assert progress.measure() == {}
    needed = progress.begin(tmp_path)
    repository = tmp_path / "models--owner--model"
    for folder in ("blobs", "snapshots"):
        (repository / folder).mkdir(parents=True)
    needed.sizes = {repository / "snapshots" / name: 100 for name in ("here", "on-its-way")}
    (repository / "snapshots" / "here").write_bytes(bytes(100))
    (repository / "blobs" / "abc.incomplete").write_bytes(bytes(30))
    assert list(find_damaged(needed.sizes, progress)) == [repository / "snapshots" / "on-its-way"]
    assert progress.measure() == {"needed": 200, "fetched": 130, "verified": 100}


def test_of_two_jobs_with_one_claim_the_second_waits_and_downloads_nothing(hub: HubServer, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    config = write_config(volume)
    (volume / "easel").mkdir()
    with (volume / "easel" / f"{RECORD}.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = start_fill(config, NOWHERE, tmp_path / "second")
        assert second.stdout is not None
        line = next(line for line in second.stdout if "waiting for it" in line)
        assert str(volume) in line
        # The first ends with its record, and lets go.
        other = write_config(volume, record="a" * 16)
        assert finish(start_fill(other, hub.address, tmp_path / "first"))[0] == 0
        (volume / "easel" / f"{'a' * 16}.json").rename(volume / "easel" / f"{RECORD}.json")
    assert finish(second)[0] == 0


def test_a_job_whose_node_is_drained_is_not_taken_for_done(hub: HubServer, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    config = write_config(volume)
    (volume / "easel").mkdir()
    with (volume / "easel" / f"{RECORD}.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = start_fill(config, hub.address, tmp_path / "job")
        assert waiting.stdout is not None
        assert any("waiting for it" in line for line in waiting.stdout)
        waiting.terminate()
        assert finish(waiting)[0] == 128 + signal.SIGTERM  # by a handler, which process 1 needs


def test_a_cache_that_lost_a_file_is_filled_again(hub: HubServer, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    config = write_config(volume)
    assert finish(start_fill(config, hub.address, tmp_path / "job"))[0] == 0
    next(volume.rglob(Path(HALF[0]).name)).resolve().unlink()
    assert "delete the Job that filled it" in load(config, NOWHERE, tmp_path / "worker")["error"]
    hub.forget()
    assert finish(start_fill(config, hub.address, tmp_path / "job"))[0] == 0
    assert hub.files == {HALF[0]}
    assert load(config, NOWHERE, tmp_path / "worker")["commit"] == COMMIT


def test_a_cache_that_others_filled_is_enough_without_network(hub: HubServer, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    assert finish(start_fill(write_config(volume), hub.address, tmp_path / "job"))[0] == 0
    for file in (volume / "easel").iterdir():
        file.unlink()
    offline = write_config(volume, record=None)
    assert load(offline, NOWHERE, tmp_path / "worker")["commit"] == COMMIT
    missing = write_config(volume, record=None, source="owner/another")
    answer = load(missing, hub.address, tmp_path / "worker")
    assert f"of owner/another the model cache {volume}/hub lacks revision main; fill it with" in answer["error"]


def test_a_job_has_the_token_and_workers_need_none(hub: HubServer, tmp_path: Path) -> None:
    config = write_config(tmp_path / "volume", source="private/model")
    code, errors = finish(start_fill(config, hub.address, tmp_path / "job"))
    assert code == names.EXIT_MODEL_LOAD_FAILED
    assert "does not exist or is private" in errors
    assert finish(start_fill(config, hub.address, tmp_path / "job", HF_TOKEN=TOKEN))[0] == 0
    assert load(config, NOWHERE, tmp_path / "worker")["files"]


@pytest.mark.parametrize(
    ("dtype", "is_on_gpu", "weights"),
    [("Auto", True, HALF), ("Auto", False, FULL), ("Float32", True, FULL), ("Float16", True, HALF)],
)
def test_what_workers_will_load_is_fetched_though_the_job_has_no_gpu(
    hub: HubServer, tmp_path: Path, dtype: str, is_on_gpu: bool, weights: tuple[str, ...]
) -> None:
    volume = tmp_path / "volume"
    cache = {"directory": str(volume), "record": RECORD, "isOnGpu": is_on_gpu}
    config = write_config(volume, dtype=dtype, cache=cache)
    assert finish(start_fill(config, hub.address, tmp_path / "job"))[0] == 0
    assert {file for file in hub.files if file.startswith(UNET)} == {weights[0]}
