"""What the pods of a busy service answer to GET /metrics, step by step: rendered by the server's own ServerMetrics.

A gateway and two workers with about one job a second; the queue grows and shrinks over five minutes. Seeded.
"""

import math
import random
from typing import cast

from easel_contract import names
from easel_server.generation.job import JobState
from easel_server.generation.models import EngineDescription
from easel_server.stores.jobs.interface import JobQueue, QueueDepth
from easel_server.telemetry.gateway_metrics import CacheResult
from easel_server.telemetry.metrics import JobTiming, ServerMetrics

STEPS = 120  # ten minutes of answers; a pod begins anywhere, and over again at the end, as after a restart
STEP_SECONDS = 5.0
JOBS_PER_STEP = 6.0
GPU_SECONDS = 1.6
STEPS_PER_WAVE = 60
DEEPEST_QUEUE = 24
ENGINE = EngineDescription("diffusers", "AutoPipeline", "cuda:0", "bfloat16", "stabilityai/sdxl-turbo", 41.5)
HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Tue, 24 Nov 2026 12:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/plain; version=1.0.0; charset=utf-8\r\ncontent-length: %d\r\n\r\n"
)


class Queue:
    """The part of the job store that a rendering asks."""

    def __init__(self, step: int) -> None:
        self._waiting = round(DEEPEST_QUEUE / 2 * (1 - math.cos(2 * math.pi * step / STEPS_PER_WAVE)))

    async def depth(self) -> QueueDepth:
        """The same for all pods of a service at a step."""
        waiting = self._waiting
        return QueueDepth(waiting, 2, waiting * GPU_SECONDS / 2, waiting * GPU_SECONDS, GPU_SECONDS, 2)


async def build_answers(role: str) -> list[bytes]:
    """HTTP answers of a pod in a role, one a scrape."""
    is_gateway = role == names.COMPONENT_GATEWAY
    pod = ServerMetrics(gateway=is_gateway, worker=not is_gateway)
    if not is_gateway:
        pod.describe_engine(ENGINE)
    source = random.Random(role)  # noqa: S311 - a load, not a secret
    answers = []
    for step in range(STEPS):
        for _ in range(round(source.uniform(0.5, 1.5) * JOBS_PER_STEP)):
            if is_gateway:
                _accept(pod, source)
            else:
                _finish(pod, source)
        page = await pod.render(cast(JobQueue, Queue(step)))
        answers.append(HEAD % len(page) + page)
    return answers


def _accept(pod: ServerMetrics, source: random.Random) -> None:
    pod.count_submitted()
    pod.count_predicted(GPU_SECONDS, GPU_SECONDS)
    pod.count_cache(source.choice([CacheResult.HIT, CacheResult.MISS, CacheResult.MISS, CacheResult.SHARED]))
    route = source.choice(["/v1/images/generations", "/v1/predictions", "/v1/predictions/{prediction_id}"])
    pod.count_request(route, source.choice([200, 200, 200, 429]), "POST", source.random())
    pod.count_webhook("delivered")


def _finish(pod: ServerMetrics, source: random.Random) -> None:
    run = source.lognormvariate(math.log(GPU_SECONDS), 0.3)
    pod.count_batch(1)
    pod.count_job(JobState.SUCCEEDED, JobTiming(source.expovariate(1 / 8), 0.0, run, 0.1))
