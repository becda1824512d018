"""``make soak-faults``: what clients get while something is wrong that a soak's kills don't cause. Into
benchmarks/results/soak-faults.json, as ``before`` (an older commit's server, REV) and ``after`` (this tree's).

Five variants, each with processes and a Redis of its own, on loopback and with the synthetic engine: a full Redis, one
that evicts, one that is wiped, a gateway that is rolled while requests wait, and two customers of whom one floods. Both
commits run in this tree's environment; only the server's sources differ.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import httpx2
import redis

from benchmarks.record import build_provenance
from chaos.observations import describe
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks/results/soak-faults.json"
SOURCES: Final = ("contract/src", "inference_server/src")
REQUEST_TIMEOUT_SECONDS: Final = 90.0
READY_WITHIN_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.1
FULL_SECONDS: Final = 8.0
ENDED_WITHIN_SECONDS: Final = 60.0
FLOOD_SECONDS: Final = 20.0
FLOODING_CLIENTS: Final = 40
FINAL: Final = frozenset({"succeeded", "failed", "canceled"})
INPUT: Final = {"width": 64, "height": 64, "num_inference_steps": 1}


@dataclass
class Answers:
    """What clients were answered: by kind, and after how long at the most."""

    kinds: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0

    def note(self, answer: httpx2.Response | None, seconds: float) -> None:
        """Count an answer; None: the connection broke, or there was none in time."""
        self.kinds[describe(answer)] += 1
        self.slowest_seconds = max(self.slowest_seconds, seconds)

    def to_record(self) -> dict[str, Any]:
        """For the file of results."""
        return {"answers": dict(sorted(self.kinds.items())), "slowest_seconds": round(self.slowest_seconds, 2)}


class Fleet:
    """A Redis, gateways and a worker of one checkout. Start as a context manager."""

    def __init__(self, tree: Path, *redis_arguments: str, gateways: int = 1, **settings: Any) -> None:
        self._tree = tree
        self._redis_arguments = redis_arguments
        self._gateways = gateways
        self._settings = settings
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.redis = self._stack.enter_context(RedisServer(*self._redis_arguments))
        self.client = self._stack.enter_context(redis.Redis(port=self.redis.port))
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        file = directory / "config.json"
        file.write_text(json.dumps(build_config(directory, **self._settings)))
        self.gateways = [self._start("gateway", number, file) for number in range(self._gateways)]
        self.worker = self._start("worker", 0, file)
        for process in (*self.gateways, self.worker):
            process.wait_until_listening()
        return self

    def _start(self, role: str, number: int, file: Path) -> ServerProcess:
        environment: dict[str, Any] = {
            "PYTHONPATH": ":".join(str(self._tree / source) for source in SOURCES),
            "EASEL_REDIS_URL": self.redis.url,
            "EASEL_POD_NAME": f"{role}-{number}",
        }
        return self._stack.enter_context(ServerProcess("--role", role, "--config", str(file), **environment))

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait_until_ready(self) -> None:
        """Every process serves."""
        for process in (*self.gateways, self.worker):
            process.wait_until_ready()

    def count_dead(self) -> int:
        """Processes that have ended."""
        return sum(process.process.poll() is not None for process in (*self.gateways, self.worker))

    def fill(self, seconds: float) -> None:
        """Write until Redis takes nothing more (or evicts what was there), and keep it so."""
        give_up_at, number, value_bytes = time.monotonic() + seconds, 0, 1 << 20
        while time.monotonic() < give_up_at:
            number += 1
            try:
                self.client.set(f"filler:{number}", b"x" * value_bytes)
            except redis.exceptions.ResponseError:
                value_bytes = max(100, value_bytes // 4)  # what is freed meanwhile is taken too
                time.sleep(0 if value_bytes > 100 else 0.002)

    def empty(self) -> None:
        """Take the filling out again."""
        for key in self.client.scan_iter("filler:*", count=1000):
            self.client.delete(key)


def build_config(
    directory: Path, *, milliseconds_per_image: int = 200, customers: tuple[str, ...] = (), **limits: int
) -> dict[str, Any]:
    """The server's configuration, of fields that both commits know."""
    gateway: dict[str, Any] = {"limits": limits, "cache": {"ttlSeconds": 0}}
    if customers:
        keys = directory / "keys"
        keys.mkdir()
        for customer in customers:
            (keys / customer).write_text(f"key-of-{customer}")
        gateway["apiKeysDirectory"] = str(keys)
    return {
        "namespace": "soak",
        "model": {"name": "synthetic", "source": "soak/synthetic"},
        "engine": {
            "kind": "Synthetic",
            "synthetic": {"millisecondsPerStep": 0, "millisecondsPerImage": milliseconds_per_image},
        },
        "gateway": gateway,
        "worker": {"leaseSeconds": 5},
    }


async def ask(
    client: httpx2.AsyncClient, answers: Answers | None, method: str, url: str, **request: Any
) -> httpx2.Response | None:
    """One request, noted; None if there was no answer."""
    started = time.monotonic()
    try:
        answer = await client.request(method, url, **request)
    except httpx2.TransportError:
        answer = None
    if answers is not None:
        answers.note(answer, time.monotonic() - started)
    return answer


async def follow(client: httpx2.AsyncClient, url: str, ids: list[str]) -> Counter[str]:
    """How jobs ended, within ENDED_WITHIN_SECONDS; ``lost`` if they aren't known, ``open`` if they didn't."""
    ends: dict[str, str] = {}
    give_up_at = time.monotonic() + ENDED_WITHIN_SECONDS
    while len(ends) < len(ids) and time.monotonic() < give_up_at:
        for name in ids:
            if name in ends:
                continue
            answer = await ask(client, None, "GET", f"{url}/v1/predictions/{name}")
            if answer is not None and answer.status_code == 404:
                ends[name] = "lost"
            elif answer is not None and answer.status_code == 200 and answer.json()["status"] in FINAL:
                ends[name] = answer.json()["status"]
        await asyncio.sleep(PAUSE_SECONDS)
    return Counter(ends.get(name, "open") for name in ids)


async def submit(client: httpx2.AsyncClient, answers: Answers, url: str, name: str, **request: Any) -> bool:
    """Submit a job under a name; whether it was accepted."""
    body = {"input": {"prompt": name, **INPUT}}
    answer = await ask(client, answers, "PUT", f"{url}/v1/predictions/{name}", json=body, **request)
    return answer is not None and answer.status_code < 300


async def soak_full_redis(tree: Path) -> dict[str, Any]:
    """Redis takes nothing more for FULL_SECONDS, and then has room again."""
    answers = Answers()
    accepted: list[str] = []
    with Fleet(tree, "--maxmemory", "64mb", "--maxmemory-policy", "noeviction") as fleet:
        fleet.wait_until_ready()
        url = fleet.gateways[0].url
        async with httpx2.AsyncClient(timeout=REQUEST_TIMEOUT_SECONDS) as client:
            accepted += [f"soak-early-{number}" for number in range(20)]
            for name in accepted:
                assert await submit(client, Answers(), url, name)
            filling, number = asyncio.create_task(asyncio.to_thread(fleet.fill, FULL_SECONDS)), 0
            while not filling.done():
                number += 1
                if await submit(client, answers, url, f"soak-late-{number}"):
                    accepted.append(f"soak-late-{number}")
                await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.to_thread(fleet.empty)
            ends = await follow(client, url, accepted)
        return {"while_full": answers.to_record(), "accepted_ended": dict(ends), "processes_dead": fleet.count_dead()}


async def soak_evicting_redis(tree: Path) -> dict[str, Any]:
    """Redis evicts under pressure: is it refused before anything is lost?"""
    answers = Answers()
    arguments = ("--maxmemory", "32mb", "--maxmemory-policy", "allkeys-lru")
    with Fleet(tree, *arguments, milliseconds_per_image=500) as fleet:
        url = fleet.gateways[0].url
        status, ready = await asyncio.to_thread(fleet.gateways[0].ready)
        async with httpx2.AsyncClient(timeout=REQUEST_TIMEOUT_SECONDS) as client:
            names = [f"soak-job-{number}" for number in range(30)]
            accepted = [name for name in names if await submit(client, answers, url, name)]
            await asyncio.to_thread(fleet.fill, FULL_SECONDS / 4)
            ends = await follow(client, url, accepted)
        return {
            "ready_status": status,
            "names_the_policy": "maxmemory-policy" in json.dumps(ready),
            "submitted": answers.to_record(),
            "accepted_ended": dict(ends),
            "processes_dead": fleet.count_dead(),
        }


async def soak_wiped_redis(tree: Path) -> dict[str, Any]:
    """FLUSHALL while ten clients wait for an image, and ten others look now and then."""
    waiting, looking, after = Answers(), Answers(), Answers()
    with Fleet(tree, milliseconds_per_image=3000) as fleet:
        fleet.wait_until_ready()
        url = fleet.gateways[0].url
        async with httpx2.AsyncClient(timeout=REQUEST_TIMEOUT_SECONDS, limits=httpx2.Limits()) as client:

            async def wait(number: int) -> None:
                await submit(client, waiting, url, f"soak-wait-{number}", headers={"Prefer": "wait=30"})

            async def look(number: int) -> None:
                await submit(client, Answers(), url, f"soak-look-{number}")
                while True:
                    answer = await ask(client, None, "GET", f"{url}/v1/predictions/soak-look-{number}")
                    if answer is None or answer.status_code != 200 or answer.json()["status"] in FINAL:
                        looking.kinds[describe_end(answer)] += 1
                        return
                    await asyncio.sleep(PAUSE_SECONDS)

            tasks = [asyncio.create_task(each(number)) for number in range(10) for each in (wait, look)]
            await asyncio.sleep(1.5)  # of the first job's 3 s
            fleet.client.flushall()
            _, late = await asyncio.wait(tasks, timeout=45)
            for task in late:
                task.cancel()
            names = [f"soak-after-{number}" for number in range(3)]
            for name in names:
                await submit(client, after, url, name)
            ends = await follow(client, url, names)
        return {
            "waited": waiting.to_record(),
            "looked": dict(looking.kinds),
            "without_answer": len(late),
            "afterwards": dict(ends),
            "processes_dead": fleet.count_dead(),
        }


def describe_end(answer: httpx2.Response | None) -> str:
    """How a client that looks learns of the end: the prediction's, or a refusal."""
    if answer is not None and answer.status_code == 200:
        return f"prediction {answer.json()['status']}"
    return describe(answer)


async def soak_rolled_gateway(tree: Path) -> dict[str, Any]:
    """SIGTERM for a gateway at which five requests wait for images that take 10 s each, on one worker."""
    first, repeated, images = Answers(), Answers(), 0
    with Fleet(tree, gateways=2, milliseconds_per_image=10_000) as fleet:
        fleet.wait_until_ready()
        async with httpx2.AsyncClient(timeout=REQUEST_TIMEOUT_SECONDS) as client:

            async def generate(number: int) -> None:
                nonlocal images
                body = {"prompt": f"image {number}", "size": "64x64"}
                headers = {"Idempotency-Key": f"order-{number}"}
                url = f"{fleet.gateways[0].url}/v1/images/generations"
                answer = await ask(client, first, "POST", url, json=body, headers=headers)
                give_up_at = time.monotonic() + ENDED_WITHIN_SECONDS
                while (answer is None or answer.status_code != 200) and time.monotonic() < give_up_at:
                    await asyncio.sleep(1)
                    url = f"{fleet.gateways[1].url}/v1/images/generations"
                    answer = await ask(client, repeated, "POST", url, json=body, headers=headers)
                images += answer is not None and answer.status_code == 200

            tasks = [asyncio.create_task(generate(number)) for number in range(5)]
            await asyncio.sleep(2)  # all of them wait
            fleet.gateways[0].terminate()
            await asyncio.gather(*tasks)
            page = (await client.get(f"{fleet.worker.url}/metrics?labels=none")).text
        found = [
            line.split()[-1] for line in page.splitlines() if line.startswith('easel_jobs_total{outcome="Succeeded"')
        ]
        return {
            "waiting_at_the_rolled_one": first.to_record(),
            "repeated_at_the_other": repeated.to_record(),
            "images": images,
            "jobs_generated": round(sum(map(float, found))),
        }


async def soak_flood(tree: Path) -> dict[str, Any]:
    """One customer's 40 clients against a queue of 20, while another asks for one image after the other."""
    flooding, other = Answers(), Answers()
    images: list[float] = []
    with Fleet(tree, customers=("flooding", "other"), max_queue_depth=20) as fleet:
        fleet.wait_until_ready()
        url, stop_at = fleet.gateways[0].url, time.monotonic() + FLOOD_SECONDS
        limits = httpx2.Limits(max_connections=FLOODING_CLIENTS + 10)
        async with httpx2.AsyncClient(timeout=REQUEST_TIMEOUT_SECONDS, limits=limits) as client:

            def headers(customer: str) -> dict[str, str]:
                return {"Authorization": f"Bearer key-of-{customer}", "Prefer": "wait=30"}

            async def flood(number: int) -> None:
                turn = 0
                while time.monotonic() < stop_at:
                    turn += 1
                    name = f"soak-flood-{number}-{turn}"
                    if not await submit(client, flooding, url, name, headers=headers("flooding")):
                        await asyncio.sleep(0.5)

            async def ask_one_after_the_other() -> None:
                turn = 0
                while time.monotonic() < stop_at:
                    turn += 1
                    started = time.monotonic()
                    while time.monotonic() < stop_at:
                        if await submit(client, other, url, f"soak-other-{turn}", headers=headers("other")):
                            images.append(time.monotonic() - started)
                            break
                        await asyncio.sleep(1)  # less than any Retry-After: the patient would fare worse

            await asyncio.gather(*(flood(number) for number in range(FLOODING_CLIENTS)), ask_one_after_the_other())
    return {
        "flooding_customer": flooding.to_record(),
        "other_customer": other.to_record(),
        "other_customers_images": len(images),
        "other_customers_longest_wait_seconds": round(max(images, default=FLOOD_SECONDS), 2),
    }


VARIANTS: Final[dict[str, Callable[[Path], Coroutine[Any, Any, dict[str, Any]]]]] = {
    "full_redis": soak_full_redis,
    "evicting_redis": soak_evicting_redis,
    "wiped_redis": soak_wiped_redis,
    "rolled_gateway": soak_rolled_gateway,
    "flooding_customer": soak_flood,
}


@contextmanager
def checked_out(revision: str | None) -> Iterator[Path]:
    """A checkout of the commit, for as long as the block lasts; None: this tree."""
    if revision is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "before"
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), revision], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def main() -> int:
    """Run the variants, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rev", help="measure this older commit, as `before`; default: this tree, as `after`")
    parser.add_argument("variants", nargs="*", help=f"of {', '.join(VARIANTS)}; default: all")
    arguments = parser.parse_args()
    if unknown := set(arguments.variants) - set(VARIANTS):
        parser.error(f"no variant is called {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    side = record.setdefault("before" if arguments.rev else "after", {})
    with checked_out(arguments.rev) as tree:
        provenance = build_provenance() | ({"commit": arguments.rev} if arguments.rev else {})
        for name in arguments.variants or VARIANTS:
            side[name] = {**provenance, **asyncio.run(VARIANTS[name](tree))}
            sys.stdout.write(f"{name}: {json.dumps(side[name], indent=2)}\n")
            RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
