"""Durable jobs a second: Easel through HTTP, beside task queues whose clients enqueue directly, in turns on one Redis.

Easel's turn lasts from the first POST to the moment at which the last job was completed by Redis' clock; the others'
from the first call to the last stored result. Each turn starts from an empty Redis and processes of its own.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.server.contenders import build_contenders
from benchmarks.server.deployment import Deployment, build_config, deployed
from benchmarks.server.load import generate
from benchmarks.server.queues.payload import CONCURRENCY, PARAMETERS
from benchmarks.server.raw_http import build_request
from benchmarks.server.samples import summarize
from tests.support.redis_server import RedisServer

PATH = "/v1/predictions"
WORKERS = (1, 2)  # processes; each queue counts with the number that suits it best
WARM_UP_JOBS = 100
MAX_BATCH_IMAGES = 16
IDLE_TIMEOUT_SECONDS = 300.0

Turn = Callable[[], float]


@dataclass(frozen=True)
class OwnTurn:
    """What a turn of Easel's gave."""

    jobs_per_second: float
    cpu_microseconds_a_job: dict[str, float]  # by kind of process


def measure(redis: RedisServer, *, rounds: int, jobs: int) -> dict[str, Any]:
    """Jobs a second of each, by number of worker processes, and Easel's share of the fastest durable one."""
    image_bytes = measure_image(redis)
    turns: dict[tuple[str, int], Turn] = {}
    own: dict[int, list[OwnTurn]] = {workers: [] for workers in WORKERS}

    def take_own(workers: int) -> float:
        own[workers].append(take_turn(redis, jobs, workers))
        return own[workers][-1].jobs_per_second

    for workers in WORKERS:
        turns["Easel", workers] = lambda workers=workers: take_own(workers)  # type: ignore[misc]
        for contender in build_contenders():
            turns[contender.name, workers] = lambda contender=contender, workers=workers: (  # type: ignore[misc]
                contender.take_turn(redis, jobs, workers, image_bytes)
            )
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in turns}
    for _ in range(rounds):
        for key, turn in turns.items():
            rates[key].append(turn())
    costs = {f"workers={workers}": _summarize_costs(turns_taken) for workers, turns_taken in own.items()}
    return {
        "jobs_of_a_turn": jobs,
        "picture_bytes": image_bytes,
        **_compare(rates, rounds),
        "easel_cpu_microseconds_a_job": costs,
    }


def _summarize_costs(turns: Sequence[OwnTurn]) -> dict[str, Any]:
    kinds = turns[0].cpu_microseconds_a_job
    return {kind: summarize([turn.cpu_microseconds_a_job[kind] for turn in turns]).to_record(0) for kind in kinds}


def _compare(rates: dict[tuple[str, int], list[float]], rounds: int) -> dict[str, Any]:
    summaries = {key: summarize(samples) for key, samples in rates.items()}
    durable = [
        key for contender in build_contenders() if contender.is_durable for key in rates if key[0] == contender.name
    ]
    fastest = max(durable, key=lambda key: summaries[key].median)
    own = max((key for key in rates if key[0] == "Easel"), key=lambda key: summaries[key].median)
    shares = [rates[own][number] / rates[fastest][number] for number in range(rounds)]
    return {
        "jobs_per_second": {f"{name}, workers={workers}": s.to_record(0) for (name, workers), s in summaries.items()},
        "fastest": f"{fastest[0]}, workers={fastest[1]}",
        "easel": f"{own[0]}, workers={own[1]}",
        "share_of_fastest": summarize(shares).to_record(),
    }


def measure_image(redis: RedisServer) -> int:
    """Bytes of the image that Easel's worker returns."""
    with deployed(build_config(), redis, workers=1) as deployment:
        job = deployment.post(f"{PATH}", {"input": PARAMETERS}).json()
        deployment.wait_until_idle(IDLE_TIMEOUT_SECONDS)
        return len(deployment.fetch(f"{PATH}/{job['id']}/output/0"))


def take_turn(redis: RedisServer, jobs: int, workers: int) -> OwnTurn:
    """Easel's."""
    config = build_config(max_batch_images=MAX_BATCH_IMAGES)
    with deployed(config, redis, workers) as deployment:
        run_jobs(deployment, WARM_UP_JOBS)
        before = deployment.cpu_seconds()
        seen = run_jobs(deployment, jobs)
        after = deployment.cpu_seconds()
        used = {kind: (after[kind] - before[kind]) / jobs * 1e6 for kind in after}
        return OwnTurn(jobs / count_seconds(deployment, seen), used)


def run_jobs(deployment: Deployment, jobs: int) -> dict[str, Any]:
    """What the load generator saw of so many jobs, once nothing waits or runs any more."""
    request = build_request("POST", PATH, json.dumps({"input": PARAMETERS}).encode())
    order = {"kind": "count", "port": deployment.port, "connections": CONCURRENCY, "count": jobs}
    seen = generate(order, request)
    deployment.wait_until_idle(IDLE_TIMEOUT_SECONDS)
    return seen


def count_seconds(deployment: Deployment, seen: dict[str, Any]) -> float:
    """From the first request to the last completion; all jobs have succeeded, or this raises."""
    ids = [json.loads(body)["id"] for body in seen["bodies"]]
    assert len(set(ids)) == len(ids), f"{len(set(ids))} ids for {len(ids)} jobs"
    return deployment.last_completion(ids) - float(seen["began_at"])
