"""RQ (https://python-rq.org): run as ``rq_queue work`` or ``rq_queue enqueue JOBS``.

The worker is RQ's SimpleWorker, which runs jobs in its own process: much faster than the default, which forks for each.
"""

import json
import sys
import time
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker

from benchmarks.server.queues import payload
from benchmarks.server.queues.turn import POLL_SECONDS, WARM_UP_JOBS

TASK = "benchmarks.server.queues.rq_queue.generate"  # by name: the client runs this file as __main__


def generate(parameters: dict[str, Any]) -> bytes:  # noqa: ARG001
    """The task."""
    return payload.IMAGE


def run_jobs(queue: Queue, jobs: int) -> None:
    """Enqueue and wait until all have finished."""
    registry = queue.finished_job_registry
    expected = registry.get_job_count(cleanup=False) + jobs
    for _ in range(jobs):
        queue.enqueue(TASK, payload.PARAMETERS, result_ttl=payload.RESULT_TTL_SECONDS)
    while registry.get_job_count(cleanup=False) < expected:
        time.sleep(POLL_SECONDS)


def main() -> None:
    """Work until killed, or a turn."""
    connection = Redis.from_url(payload.REDIS_URL)
    queue = Queue(connection=connection)
    if sys.argv[1] == "work":
        SimpleWorker([queue], connection=connection).work(logging_level="WARNING")
        return
    run_jobs(queue, WARM_UP_JOBS)
    began = time.time()
    run_jobs(queue, int(sys.argv[2]))
    sys.stdout.write(json.dumps({"jobs": int(sys.argv[2]), "seconds": time.time() - began}))


if __name__ == "__main__":
    main()
