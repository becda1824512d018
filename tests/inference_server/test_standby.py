"""A worker's standby, with real processes: who follows a worker that ends, and what reaches whom."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from easel_contract.server_config import ModelConfig, ServerConfig
from easel_server.standby import RESTART_SECONDS, find_obstacle

from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess
from tests.support.tiny_engine import tiny_model_directory

# The worker is a stand-in: it notes who it is, then does what its test says, by how many were there before.
PROGRAM = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path
from easel_server.standby import Standby

journal, now = Path(sys.argv[1]), 0.0
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans come here, as to a container's first process

def note(*words):
    with journal.open("a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

def serve(start):
    note("worker", os.getpid())
    return work(start)

def clock():
    global now
    now += seconds_between_ends
    return now

{body}
sys.exit(Standby(serve, 0.0, clock=clock, termination_log=Path(sys.argv[1] + ".end")).run())
"""


class Container:
    """The standby as a container's process."""

    def __init__(self, directory: Path, body: str, *, seconds_between_ends: float) -> None:
        self._journal = directory / "journal"
        self._journal.touch()
        self.end_message = directory / "journal.end"
        self.end_message.touch()
        body = f"seconds_between_ends = {seconds_between_ends}\n{textwrap.dedent(body)}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.replace("{body}", body), str(self._journal)],
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def workers(self) -> list[int]:
        """Their process ids, in the order of their start."""
        return [int(line.split()[1]) for line in self.notes if line.startswith("worker ")]

    @property
    def notes(self) -> list[str]:
        return self._journal.read_text().splitlines()

    def wait_for(self, condition: Callable[[], Any], what: str) -> None:
        give_up_at = time.monotonic() + 180
        while not condition():
            assert time.monotonic() < give_up_at, f"no {what}: {self.notes}"
            time.sleep(0.01)

    def wait(self) -> tuple[int, str]:
        """The exit code, and what was written to standard error."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.fixture
def run_container(tmp_path: Path) -> Iterator[Callable[..., Container]]:
    running: list[Container] = []

    def run(body: str, *, seconds_between_ends: float = RESTART_SECONDS + 1) -> Container:
        running.append(Container(tmp_path, body, seconds_between_ends=seconds_between_ends))
        return running[-1]

    yield run
    for each in running:
        each.process.kill()
        each.process.communicate()


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("end", ["return 70", "os.kill(os.getpid(), signal.SIGSEGV)"])
def test_a_worker_whose_engine_fails_or_crashes_is_followed_by_another_in_the_same_container(run_container, end):
    container = run_container(f"""
    def work(start):
        start.finish()
        if start.restarts == 0:
            {end}
        return 0
    """)
    code, _ = container.wait()
    assert code == 0, "the end of the second one"
    assert len(set(container.workers)) == 2
    assert container.process.pid not in container.workers


@pytest.mark.parametrize(
    ("end", "code"), [("return 78", 78), ("return 70", 70), ("os.kill(os.getpid(), signal.SIGABRT)", 134)]
)
def test_a_worker_that_was_never_ready_ends_the_container_with_its_own_code(run_container, end, code):
    container = run_container(f"""
    def work(start):
        {end}
    """)
    assert container.wait()[0] == code
    assert len(container.workers) == 1


@pytest.mark.parametrize(("end", "code"), [("return 0", 0), ("return 1", 1), ("os.kill(os.getpid(), 9)", 137)])
def test_an_end_that_another_worker_would_meet_too_ends_the_container(run_container, end, code):
    container = run_container(f"""
    def work(start):
        start.finish()
        {end}
    """)
    assert container.wait()[0] == code
    assert len(container.workers) == 1


def test_two_failures_within_minutes_are_left_to_kubernetes_which_backs_off(run_container):
    always = """
    def work(start):
        start.finish()
        return 70 if start.restarts < 4 else 0
    """
    soon = run_container(always, seconds_between_ends=RESTART_SECONDS - 1)
    assert soon.wait()[0] == 70
    assert len(soon.workers) == 2
    rarely = run_container(always)
    assert rarely.wait()[0] == 0
    assert len(rarely.workers) == 2 + 5, "in the same journal"


def test_sigterm_reaches_the_worker_whose_end_is_the_containers(run_container):
    container = run_container("""
    def work(start):
        signal.signal(signal.SIGTERM, lambda *_: (note("drained"), os._exit(0)))
        start.finish()
        note("serving")
        while True:
            signal.pause()
    """)
    container.wait_for(lambda: "serving" in container.notes, "worker")
    container.process.terminate()
    assert container.wait()[0] == 0
    assert container.notes[-1] == "drained"


def test_a_worker_that_fails_while_it_ends_is_the_last(run_container):
    container = run_container("""
    def work(start):
        signal.signal(signal.SIGTERM, lambda *_: os._exit(70))
        start.finish()
        note("serving")
        while True:
            signal.pause()
    """)
    container.wait_for(lambda: "serving" in container.notes, "worker")
    container.process.terminate()
    assert container.wait()[0] == 70
    assert len(container.workers) == 1


def test_nobody_serves_on_when_the_standby_is_killed(run_container):
    container = run_container("""
    def work(start):
        start.finish()
        note("serving")
        while True:
            signal.pause()
    """)
    container.wait_for(lambda: "serving" in container.notes, "worker")
    container.process.kill()
    container.wait_for(lambda: not is_alive(container.workers[0]), "end of the worker")


def test_what_a_worker_leaves_behind_neither_delays_the_next_one_nor_stays_a_zombie(run_container):
    container = run_container("""
    def work(start):
        if start.restarts == 0:
            started = subprocess.Popen(["sleep", "0.2"], close_fds=False)  # it holds the worker's pipes open
            note("left", started.pid)
            start.finish()
            return 70
        note("next")
        left = next(line for line in journal.read_text().splitlines() if line.startswith("left")).split()[1]
        while Path(f"/proc/{left}").exists():
            time.sleep(0.01)
        return 0
    """)
    assert container.wait()[0] == 0
    assert "next" in container.notes


def test_the_reason_of_a_crash_is_there_for_kubernetes_until_the_container_goes_on(run_container):
    container = run_container("""
    def work(start):
        if start.restarts < 2:
            note("left", Path(sys.argv[1] + ".end").read_text() or "nothing")
        start.finish()
        os.kill(os.getpid(), signal.SIGSEGV if start.restarts == 0 else signal.SIGKILL)
    """)
    code, errors = container.wait()
    assert code == 137
    assert [line for line in container.notes if line.startswith("left")] == ["left nothing", "left nothing"]
    assert "the worker was ended by SIGSEGV" in errors
    assert container.end_message.read_text() == "the worker was ended by SIGKILL"


def test_an_exception_that_nobody_foresaw_is_shown_and_ends_the_container(run_container):
    container = run_container("""
    def work(start):
        raise LookupError("of the worker")
    """)
    code, errors = container.wait()
    assert code == 1
    assert "LookupError: of the worker" in errors


def test_nothing_is_forked_from_a_process_with_threads_or_an_open_gpu(tmp_path):
    tasks, descriptors = tmp_path / "task", tmp_path / "fd"
    for directory in (tasks, descriptors):
        directory.mkdir()
    (tasks / "1").touch()
    (descriptors / "0").symlink_to("/dev/null")
    (descriptors / "5").symlink_to("/dev/nvidiactl")  # what counting GPUs opens
    assert find_obstacle(tasks, descriptors) is None
    (descriptors / "6").symlink_to("/dev/nvidia-uvm")
    assert "/dev/nvidia-uvm" in str(find_obstacle(tasks, descriptors))
    (tasks / "2").touch()
    assert "1 threads" in str(find_obstacle(tasks, descriptors))


def catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.redis
def test_a_signal_ends_a_worker_at_once_while_it_imports(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with (
        RedisServer() as redis,
        ServerProcess("--role", "worker", "--model", str(tmp_path), EASEL_REDIS_URL=redis.url) as server,
    ):
        server.wait_for(lambda: catches_sigterm(server.process.pid), "handler")
        assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text(), "it comes before the imports"
        server.terminate()
        assert server.wait() == 0, "a container's first process would ignore a signal that it doesn't catch"


def read_children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.torch
@pytest.mark.redis
def test_a_worker_that_crashes_serves_again_without_importing_anything_anew():
    config = ServerConfig(model=ModelConfig(name="tiny", source=str(tiny_model_directory("sd15"))))
    with (
        RedisServer() as redis,
        ServerProcess("--role", "worker", config=config, EASEL_REDIS_URL=redis.url) as worker,
    ):
        worker.wait_until_ready()
        assert [line["message"] for line in worker.log if line["level"] != "info"] == [], "nothing kept it from forking"
        standby = worker.process.pid
        server = next(child for child in read_children(standby) if is_alive(child))
        os.kill(server, signal.SIGSEGV)
        worker.wait_for(lambda: sum(line["message"] == "ready" for line in worker.log) == 2, "second readiness")
        ready = [line for line in worker.log if line["message"] == "ready"]
        assert list(ready[1]["phase_seconds"]) == ["imported", "weights", "compiled", "warm"]
        assert ready[1]["phase_seconds"]["imported"] < ready[0]["phase_seconds"]["imported"] / 2
        worker.url = f"http://127.0.0.1:{[line for line in worker.log if line['message'] == 'listening'][1]['port']}"
        worker.wait_for(lambda: worker.ready()[0] == 200, "readiness")
        page = httpx2.get(f"{worker.url}/metrics?labels=none", timeout=10).text
        assert "easel_worker_restarts 1.0" in page
        assert 'easel_worker_start_phase_seconds{phase="weights"} ' in page
        worker.terminate()
        assert worker.wait() == 0
        assert worker.errors == "easel-server: the worker was ended by SIGSEGV\n"
