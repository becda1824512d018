"""What only a container engine shows: probes, the end by a signal, limits, and a gateway that has no torch."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from easel_contract.gateway_config import GatewayConfig
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig

from images.engine import UNIFIED_CGROUPS, Engine, EngineError
from tests.images.containers import LIKE_A_POD, Server, read_end, run_python
from tests.support.redis_server import RedisServer

BODY = {"prompt": "a fox", "size": "64x64", "num_inference_steps": 2, "response_format": "b64_json"}
TAKE_TOO_MUCH = "x = [bytearray(10_000_000) for _ in range(100)]"
MEMORY_LIMIT = ("--memory", "128m", "--memory-swap", "128m")
PNG = "iVBORw0KGgo"  # its first bytes, in base64


def write_config(folder: Path, **synthetic: int) -> Path:
    config = ServerConfig(
        model=ModelConfig(name="m", source="m"),
        engine=EngineConfig(kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(**synthetic)),
        gateway=GatewayConfig(drain_seconds=60),
    )
    file = folder / "config.json"
    file.write_text(json.dumps(config.to_wire()))
    file.chmod(0o644)
    folder.chmod(0o755)
    return file


def ask(url: str) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/images/generations", json=BODY, timeout=120)


def count_in_work(server: Server) -> float:
    lines = httpx2.get(f"{server.url}/metrics", timeout=30).text.splitlines()
    own = (line for line in lines if line.startswith("easel_queue_depth{") and 'state="Running"' in line)
    return float(next(own).split()[-1])


@pytest.mark.redis
def test_a_gateway_and_a_worker_without_torch_make_an_image(
    engine: Engine, names: dict[str, str], tmp_path: Path
) -> None:
    """Two containers of the gateway's image: its worker has the synthetic engine."""
    config = write_config(tmp_path, milliseconds_per_step=1, milliseconds_per_image=1)
    with RedisServer() as redis:
        url = {"EASEL_REDIS_URL": redis.url}
        with (
            Server(engine, names["gateway"], "--role", "gateway", config=config, **url) as gateway,
            Server(engine, names["gateway"], "--role", "worker", config=config, **url) as worker,
        ):
            assert gateway.probe("/healthz") == 200
            gateway.wait_until_ready()
            worker.wait_until_ready()
            answer = ask(gateway.url)
            assert answer.status_code == 200, answer.text
            assert answer.json()["data"][0]["b64_json"].startswith(PNG)
            for each in (gateway, worker):
                each.terminate()
            assert (gateway.wait(), worker.wait()) == (0, 0)


def test_a_terminated_container_answers_what_it_has_begun_and_ends_with_0(
    engine: Engine, names: dict[str, str], tmp_path: Path
) -> None:
    config = write_config(tmp_path, milliseconds_per_step=0, milliseconds_per_image=5000)
    with Server(engine, names["gateway"], config=config) as server, ThreadPoolExecutor(1) as pool:
        server.wait_until_ready()
        asked = pool.submit(ask, server.url)
        server.wait_for(lambda: count_in_work(server) == 1)
        server.terminate()
        assert asked.result(timeout=120).status_code == 200
        assert server.wait() == 0


def test_a_worker_asked_of_the_gateways_image_says_what_is_missing(engine: Engine, names: dict[str, str]) -> None:
    """Somebody named the smaller image in worker.image."""
    with pytest.raises(EngineError, match=r"role all needs torch, which isn't installed.*the worker's has it"):
        engine.call("run", "--rm", "--network", "none", *LIKE_A_POD, names["gateway"], "--model", "/models/none")


def test_a_program_that_takes_too_much_memory_is_reported_as_killed_for_it(
    engine: Engine, names: dict[str, str]
) -> None:
    end = read_end(engine, names["gateway"], TAKE_TOO_MUCH, *MEMORY_LIMIT)
    assert end["ExitCode"] == 137
    # With control groups v1 podman's monitor says nothing more; a kubelet does there, too (tests/kind).
    assert end["OOMKilled"] or not UNIFIED_CGROUPS.exists()


def test_it_is_the_containers_own_limit_that_ends_it(engine: Engine, names: dict[str, str]) -> None:
    """Its control group counts the kill, as what watches nodes reads it."""
    code = (
        "import pathlib, subprocess, sys\n"
        f"done = subprocess.run([sys.executable, '-c', {TAKE_TOO_MUCH!r}])\n"
        "files = map(pathlib.Path, ('/sys/fs/cgroup/memory.events', '/sys/fs/cgroup/memory/memory.oom_control'))\n"
        "text = next(each for each in files if each.exists()).read_text()\n"
        "print(done.returncode, [line for line in text.splitlines() if line.startswith('oom_kill ')])"
    )
    assert run_python(engine, names["gateway"], code, *MEMORY_LIMIT) == "-9 ['oom_kill 1']"


@pytest.mark.parametrize(("cpus", "expected"), [("0.5", 1), ("1.5", 2)])
def test_a_cpu_limit_is_seen_as_so_many_processors(
    cpus: str, expected: int, engine: Engine, names: dict[str, str]
) -> None:
    code = "from easel_server.engine.loading import count_processors; print(count_processors())"
    seen = int(run_python(engine, names["gateway"], code, "--cpus", cpus))
    assert seen == min(expected, len(os.sched_getaffinity(0)))
