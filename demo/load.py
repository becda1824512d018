"""Clients: a port-forward to the service's gateway and a burst of image requests through the ``openai`` package."""

import asyncio
import base64
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import openai

from demo.cluster import Cluster, ClusterError

FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


@contextmanager
def forwarded(cluster: Cluster, service: str, namespace: str = "default") -> Iterator[str]:
    """URL on loopback that reaches the Service for as long as the context is open."""
    command = [
        cluster.kubectl_path,
        "port-forward",
        "-n",
        namespace,
        f"service/{service}",
        ":80",
        "--address=127.0.0.1",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=cluster.environment
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - given stdout=PIPE
            first = process.stdout.readline()
            match = FORWARDING.search(first)
            if match is None:
                raise ClusterError(f"kubectl port-forward service/{service}: {first.strip() or 'ended without a word'}")
            yield f"http://127.0.0.1:{match.group(1)}"
        finally:
            process.terminate()


@dataclass
class Tally:
    """What the clients saw."""

    asked: int = 0
    delivered: int = 0
    failures: list[str] = field(default_factory=list)
    latencies_seconds: list[float] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Requests that got no image."""
        return self.asked - self.delivered

    def percentile_seconds(self, share: float) -> float:
        """Latency that ``share`` of the delivered requests didn't exceed; NaN before the first."""
        ordered = sorted(self.latencies_seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def first_image(url: str, *, seed: int = 7) -> bytes:
    """One image through the ``openai`` client, waiting for a cold start if need be."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=0)
    answer = client.images.generate(
        prompt="an easel at the sea, morning light", size="auto", response_format="b64_json", extra_body={"seed": seed}
    )
    return _decode(answer)


async def burst(
    url: str, tally: Tally, *, requests: int, clients: int, steps: int, on_delivery: Callable[[], None] = lambda: None
) -> None:
    """``requests`` images asked for by ``clients`` at once, each with a prompt of its own (no cache hits)."""
    remaining = iter(range(requests))
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=0)

    async def one_client() -> None:
        for number in remaining:
            tally.asked += 1
            begun = time.monotonic()
            try:
                answer = await client.images.generate(
                    prompt=f"image {number}", response_format="b64_json", extra_body={"num_inference_steps": steps}
                )
                _decode(answer)
            except openai.OpenAIError as error:
                tally.failures.append(f"{type(error).__name__}: {error}")
                continue
            tally.delivered += 1
            tally.latencies_seconds.append(time.monotonic() - begun)
            on_delivery()

    async with client:
        await asyncio.gather(*(one_client() for _ in range(clients)))


def _decode(answer: openai.types.ImagesResponse) -> bytes:
    if not answer.data or not answer.data[0].b64_json:
        raise openai.OpenAIError(f"an answer without an image: {answer}")
    return base64.b64decode(answer.data[0].b64_json)
