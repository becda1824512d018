"""``make walk``: how far a reader walks through Easel's files to follow one request, one scaling tick, one reconcile.

Each is done for real in this process, once to warm up and once traced (``sys.setprofile`` in every thread). Counted are
calls of functions of Easel's own packages, and a coroutine that goes on after a wait; not comprehensions and lambdas,
which are read where they stand, nor what a library generates (dataclasses' ``__init__``). What a process does all the
time beside (the reaper, facts, the server's own loop) doesn't count: on an event loop, a task that is older than the
walk, unless it is the worker's. Changes of file are counted in the event loop's thread, from one call to the next: an
engine's thread runs beside it, and chance says how the calls of the two fall between each other. (By two or three they
differ from run to run all the same: what the loop does first after a wait is chance too.)
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.error import URLError

import aiohttp
from easel_contract import names
from easel_contract.resource import ServiceDefaults
from easel_operator.cluster.external_metrics import ExternalMetricsServer
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.scraper import Scraper
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.handlers.reconciler import Reconciler
from easel_operator.handlers.references import ReferenceLookups
from easel_operator.handlers.scaling_loop import ScalingLoop
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.handlers.shared_state import RolloutTurns, SharedState
from easel_operator.handlers.tenancy.secrets_access import SecretsAccess
from easel_operator.handlers.work_queue import WorkQueue
from easel_operator.objects import SERVICES_OF_EASEL, Json
from easel_server.config import read_settings
from easel_server.main import Process
from easel_server.telemetry.worker_start import begin_with_process

from benchmarks.scale.fleet import fill
from benchmarks.scale.pages import build_answers
from benchmarks.scale.pod_server import address_of
from tests.operator.fake_api import FakeApi
from tests.operator.objects import CAPABLE, OWNER, RELEASE, build_service

PACKAGES = ("easel_contract", "easel_operator", "easel_server")
WORKER_TASKS = {"worker", "claiming"}  # as the server names them: older than any request, and part of each
SYNTHETIC = "synthetic"
START_SECONDS = 120.0  # with torch to import
REQUEST_SECONDS = 60.0
QUIET_SECONDS = 0.3  # after an answer, until nothing more is done for the request
TICK_SECONDS = 2
LAST_STEP = 30  # of the pods' prepared pages: the queue is at its deepest, so the tick decides something
WARM_UP_TICKS = 3


@dataclass(frozen=True)
class Call:
    """A function that was entered, or a coroutine that went on."""

    file: str  # within the sources, such as easel_server/gateway/submit.py
    function: str
    is_on_loop: bool


@dataclass(frozen=True)
class Walk:
    """All calls, in their order."""

    name: str
    calls: tuple[Call, ...]

    def files(self) -> list[str]:
        """Each once, in the order of their first call."""
        return list(dict.fromkeys(call.file for call in self.calls))

    def steps(self) -> list[str]:
        """Each function once, as file:function, in the order of their first call."""
        return list(dict.fromkeys(f"{call.file}:{call.function}" for call in self.calls))

    def count(self) -> dict[str, int]:
        """The figures."""
        on_loop = [call.file for call in self.calls if call.is_on_loop]
        changes = sum(file != following for file, following in pairwise(on_loop))
        return {"files": len(self.files()), "functions": len(self.steps()), "changes_of_file": changes}


class Tracer:
    """Records the calls of all threads that start after it was installed, between `begin` and `end`."""

    def __init__(self) -> None:
        self._roots = [_sources_of(package) for package in PACKAGES]
        self._names: dict[str, str | None] = {}  # of files by path; None: not Easel's
        self._older: set[asyncio.Task[Any]] = set()
        self._calls: list[Call] = []
        self._is_recording = False

    def install(self) -> None:
        """In this thread, and in each that is started from now on."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, calls count."""
        self._older = {task for task in asyncio.all_tasks(loop) if task.get_name() not in WORKER_TASKS}
        self._calls = []
        self._is_recording = True

    def begin_here(self) -> None:
        """The same for a walk that the running task itself takes."""
        self.begin(asyncio.get_running_loop())
        self._older.discard(asyncio.current_task())

    def end(self, name: str) -> Walk:
        """What was called since ``begin``."""
        self._is_recording = False
        return Walk(name, tuple(self._calls))

    def count(self) -> int:
        """How many calls so far."""
        return len(self._calls)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not self._is_recording:
            return
        code = frame.f_code
        if code.co_filename not in self._names:
            self._names[code.co_filename] = self._name(code.co_filename)
        file = self._names[code.co_filename]
        if file is None or code.co_name.startswith("<"):
            return
        is_on_loop = threading.current_thread() is threading.main_thread()
        if is_on_loop and _current_task() in self._older:
            return
        self._calls.append(Call(file, code.co_qualname, is_on_loop))

    def _name(self, path: str) -> str | None:
        for root in self._roots:
            if path.startswith(f"{root}{os.sep}"):
                return str(Path(path).relative_to(root.parent))
        return None


def _sources_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a callback, or no loop at all
        return None


def walk_request(tracer: Tracer, *, engine: str) -> Walk:
    """One ``POST /v1/images/generations`` through a gateway and a worker, with stores in memory."""
    with _model_arguments(engine) as arguments:
        port = _find_free_port()
        settings = read_settings([*arguments, "--host", "127.0.0.1", "--port", str(port)], {"EASEL_LOG_LEVEL": "error"})
        walks: list[Walk] = []

        def drive(loop: asyncio.AbstractEventLoop) -> None:
            try:
                _wait_until_ready(port)
                _ask(port, "the first one, so that nothing is loaded at the second")
                _wait_until_quiet(tracer)
                tracer.begin(loop)
                _ask(port, "an easel at the sea, morning light")
                _wait_until_quiet(tracer)
                walks.append(tracer.end("request"))
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        async def serve() -> None:
            client = threading.Thread(target=drive, args=[asyncio.get_running_loop()])
            client.start()
            await Process(settings, begin_with_process()).run()
            client.join()

        asyncio.run(serve())
    if not walks:
        raise RuntimeError("the request was not answered; see above for the cause")
    return walks[0]


@contextmanager
def _model_arguments(engine: str) -> Iterator[list[str]]:
    if engine == SYNTHETIC:
        yield ["--engine", SYNTHETIC]
        return
    from tests.support.tiny_models import write_tiny_models  # noqa: PLC0415 - imports torch

    with tempfile.TemporaryDirectory() as directory:
        write_tiny_models(Path(directory))
        yield ["--engine", engine, "--model", f"{directory}/sd15"]


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(port: int) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).close()
        except (URLError, TimeoutError):  # refused, or 503 while the model loads
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)
        else:
            return


def _ask(port: int, prompt: str) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/images/generations",
        json.dumps({"prompt": prompt}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:  # noqa: S310 - a loopback address
        answer.read()


def _wait_until_quiet(tracer: Tracer) -> None:
    """The worker's part ends after the answer: metrics, and asking for the next job."""
    before = -1
    while before != tracer.count():
        before = tracer.count()
        time.sleep(QUIET_SECONDS)


class Clock:
    """Stands still between ticks."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 26, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The time."""
        return self.now

    def advance(self) -> None:
        """To the next tick."""
        self.now += timedelta(seconds=TICK_SECONDS)


class SocketScraper(Scraper):
    """Asks all pods over one socket, since a laptop's port 8080 may be taken; the rest is the scraper's own."""

    def connect(self, path: str) -> None:
        """Inside of the loop."""
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path))


class Pods:
    """A gateway and two workers that answer with prepared pages; a step of them for each tick."""

    def __init__(self, gateway: Sequence[bytes], worker: Sequence[bytes]) -> None:
        self._gateway, self._worker = gateway, worker
        self.step = LAST_STEP - WARM_UP_TICKS

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        while head := await _read_head(reader):
            pages = self._gateway if f"host: {address_of(0)}".encode() in head.lower() else self._worker
            writer.write(pages[self.step])
        writer.close()


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


async def walk_tick(tracer: Tracer) -> Walk:
    """One tick over one service whose queue grows, on a cluster whose HPA reads the operator's metrics."""
    clock = Clock()
    pods = Pods(await build_answers(names.COMPONENT_GATEWAY), await build_answers(names.COMPONENT_WORKER))
    services, children = ServiceStore(on_change=lambda _: None), ObjectStore(on_change=lambda _: None)
    fill(services, children, 1, clock.now - timedelta(hours=1))
    scraper = SocketScraper(timeout_seconds=5, clock=clock)
    loop = ScalingLoop(
        scraper=scraper,
        metrics_server=ExternalMetricsServer(stale_after=timedelta(seconds=30), clock=clock),
        writer=ClusterWriter(FakeApi(), children, pod_name="operator-a", clock=clock),
        services=services,
        children=children,
        shared=SharedState(CAPABLE),
        on_news=lambda _: None,
        is_leader=lambda: True,
        clock=clock,
    )
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/pods"
        async with await asyncio.start_unix_server(pods.answer, path), scraper:
            scraper.connect(path)
            for _ in range(WARM_UP_TICKS):
                await _tick(loop, pods, clock)
            tracer.begin_here()
            await _tick(loop, pods, clock)
            return tracer.end("tick")


async def _tick(loop: ScalingLoop, pods: Pods, clock: Clock) -> None:
    clock.advance()
    pods.step += 1
    await loop.tick()


async def walk_reconcile(tracer: Tracer) -> Walk:
    """From the news of a new service to its children and its status, against an API server in memory."""
    clock, queue, api = Clock(), WorkQueue(), FakeApi()
    services, children = ServiceStore(on_change=queue.add), ObjectStore(on_change=queue.add)
    access = SecretsAccess(
        api,
        services,
        role="",
        account="easel-operator",
        account_namespace="easel",
        monotonic=time.monotonic,
        resync_seconds=120,
    )
    reconciler = Reconciler(
        client=api,
        writer=ClusterWriter(api, children, pod_name="operator-a", clock=clock),
        services=services,
        references=ReferenceLookups(api, defaults=ServiceDefaults(), on_change=queue.add, monotonic=time.monotonic),
        access=access,
        children=children,
        shared=SharedState(CAPABLE),
        queue=queue,
        turns=RolloutTurns(max_services=5, count_services=lambda: len(services), on_turn=queue.add),
        release=RELEASE,
        clock=clock,
    )

    async def reconcile(name: str) -> None:
        services.put(_store_service(api, name))
        # Children that were just written are news of the service before.
        while (key := await queue.get()).name != name:
            queue.done(key)
        await reconciler.reconcile(key)
        queue.done(key)

    await reconcile("warm-up")
    tracer.begin_here()
    await reconcile("walked")
    return tracer.end("reconcile")


def _store_service(api: FakeApi, name: str) -> Json:
    service = build_service()
    metadata = {**service["metadata"], "name": name, "uid": name}
    return api.store(SERVICES_OF_EASEL.path(OWNER.namespace, name), {**service, "metadata": metadata})


def take_walks(*, engine: str) -> list[Walk]:
    """All three."""
    tracer = Tracer()
    tracer.install()
    try:
        return [
            walk_request(tracer, engine=engine),
            asyncio.run(walk_tick(tracer)),
            asyncio.run(walk_reconcile(tracer)),
        ]
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def render(walks: Sequence[Walk], *, is_verbose: bool) -> str:
    """For a person."""
    lines = [f"{'':12}{'files':>8}{'functions':>12}{'changes of file':>18}"]
    for walk in walks:
        files, functions, changes = walk.count().values()
        lines.append(f"{walk.name:12}{files:>8}{functions:>12}{changes:>18}")
    for walk in walks if is_verbose else ():
        lines += ["", f"{walk.name}, each function at its first call:", *walk.steps()]
    return "\n".join(lines) + "\n"


def render_json(walks: Sequence[Walk], *, is_verbose: bool) -> str:
    """The same for a program."""
    steps = {walk.name: {"steps": walk.steps()} if is_verbose else {} for walk in walks}
    return json.dumps({walk.name: {**walk.count(), **steps[walk.name]} for walk in walks}) + "\n"


def main() -> int:
    """Walk and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=[SYNTHETIC, "diffusers"], default=SYNTHETIC, help="diffusers: a tiny model")
    parser.add_argument("--verbose", action="store_true", help="each function, in the order of their first calls")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    arguments = parser.parse_args()
    walks = take_walks(engine=arguments.engine)
    sys.stdout.write((render_json if arguments.json else render)(walks, is_verbose=arguments.verbose))
    return 0


if __name__ == "__main__":
    sys.exit(main())
