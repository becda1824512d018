"""Memory: of an idle gateway, and of gateway, worker and Redis while 100,000 jobs pass through.

Results live for the shortest time that the configuration allows, and each look waits until they have expired: what is
left then is what the processes keep.
"""

import re
import time
from typing import Any, Final

from benchmarks.server.deployment import Deployment, build_config, deployed
from benchmarks.server.jobs import count_seconds, run_jobs
from benchmarks.server.processes import resident_mib
from tests.support.redis_server import RedisServer

RESULT_TTL_SECONDS: Final = 60
EXPIRY_TIMEOUT_SECONDS: Final = 120.0
JOBS_AT_A_TIME: Final = 5_000
LOOKS: Final = (20_000, 60_000, 100_000)
RESULT_KEYS: Final = 50  # fewer keys than this: all results have expired
POLL_SECONDS: Final = 1.0


def measure(redis: RedisServer, looks: tuple[int, ...] = LOOKS) -> dict[str, Any]:
    """MiB after so many jobs."""
    config = build_config(result_ttl_seconds=RESULT_TTL_SECONDS, max_batch_images=16)
    with deployed(config, redis, workers=1) as deployment:
        idle = look(deployment)
        after: dict[str, dict[str, float]] = {}
        done = 0
        for jobs in looks:
            while done < jobs:
                count_seconds(deployment, run_jobs(deployment, min(JOBS_AT_A_TIME, jobs - done)))
                done += min(JOBS_AT_A_TIME, jobs - done)
            wait_until_expired(redis)
            after[str(jobs)] = look(deployment)
    return {"idle_mib": idle, "mib_after_jobs": after, "growth_mib": _growth(after)}


def look(deployment: Deployment) -> dict[str, float]:
    """Resident memory of the processes, and what Redis has allocated."""
    return {
        "gateway": round(resident_mib(deployment.gateway.process.pid), 1),
        "worker": round(resident_mib(deployment.workers[0].process.pid), 1),
        "redis_data": round(redis_used_mib(deployment.redis), 1),
    }


def redis_used_mib(redis: RedisServer) -> float:
    """Memory that Redis has allocated for data and clients."""
    found = re.search(rb"used_memory:([0-9]+)", redis.command("INFO", "memory"))
    assert found is not None
    return int(found[1]) / 2**20


def wait_until_expired(redis: RedisServer) -> None:
    """Return once next to no key is left. Raises TimeoutError."""
    give_up_at = time.monotonic() + EXPIRY_TIMEOUT_SECONDS
    while (keys := int(redis.command("DBSIZE").strip()[1:])) > RESULT_KEYS:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{keys} keys are left {EXPIRY_TIMEOUT_SECONDS:g} s after the last job")
        time.sleep(POLL_SECONDS)


def _growth(after: dict[str, dict[str, float]]) -> dict[str, float]:
    """Between the first look and the last."""
    first, *_, last = after.values()
    return {part: round(last[part] - first[part], 1) for part in first}
