"""The queues that durable jobs are measured against: how each one's worker and client are started."""

import json
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.server.processes import ROOT, running
from benchmarks.server.queues import payload
from tests.support.redis_server import RedisServer

PYTHON = ROOT / ".venv/bin/python"
PYTHON_ARQ = ROOT / ".venv-arq/bin/python"
TURN_TIMEOUT_SECONDS = 300.0
TASKIQ_WORKER = ("-m", "taskiq", "worker", "benchmarks.server.queues.taskiq_queue:broker")


@dataclass(frozen=True)
class Contender:
    """One queue."""

    name: str
    python: Path
    work: tuple[str, ...]  # arguments of a worker process
    enqueue: tuple[str, ...]  # arguments of the client; the number of jobs comes last
    is_durable: bool = True  # whether a job outlives its worker; only those count
    environment: dict[str, str] = field(default_factory=dict)

    def take_turn(self, redis: RedisServer, jobs: int, workers: int, image_bytes: int) -> float:
        """Jobs a second, from the first enqueue to the last result."""
        redis.command("FLUSHALL")
        environment = {
            payload.ENV_REDIS_URL: redis.url,
            payload.ENV_IMAGE_BYTES: str(image_bytes),
            **self.environment,
        }
        with ExitStack() as stack:
            for _ in range(workers):
                stack.enter_context(running([self.python, *self.work], environment))
            return self._enqueue(environment, jobs)

    def _enqueue(self, environment: dict[str, str], jobs: int) -> float:
        done = subprocess.run(
            [self.python, *self.enqueue, str(jobs)],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            check=True,
            timeout=TURN_TIMEOUT_SECONDS,
        )
        return jobs / float(json.loads(done.stdout)["seconds"])


def _module(name: str, action: str) -> tuple[str, ...]:
    return ("-m", f"benchmarks.server.queues.{name}", action)


def build_contenders() -> Sequence[Contender]:
    """All of them."""
    taskiq = (*TASKIQ_WORKER, "--workers", "1", "--log-level", "WARNING", "--max-async-tasks", "200")
    return (
        Contender("arq", PYTHON_ARQ, _module("arq_queue", "work"), _module("arq_queue", "enqueue")),
        Contender("taskiq-redis stream", PYTHON, taskiq, _module("taskiq_queue", "enqueue")),
        Contender(
            "taskiq-redis list",
            PYTHON,
            taskiq,
            _module("taskiq_queue", "enqueue"),
            is_durable=False,
            environment={"BENCH_TASKIQ_BROKER": "list"},
        ),
        Contender("RQ", PYTHON, _module("rq_queue", "work"), _module("rq_queue", "enqueue")),
    )
