"""What is loaded stays within its budgets, and what jobs use stays where it is."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from easel_contract.server_config import AddOnMemory, EngineConfig, ModelConfig
from easel_server.engine.add_ons import residency as residency_module
from easel_server.engine.add_ons.residency import (
    PATIENT_SECONDS,
    REMEMBER_FAILURE_SECONDS,
    AddOnKey,
    AddOnsBusyError,
    Residency,
    choose_budgets,
)
from easel_server.engine.interface import GatheringError, GenerationError
from easel_server.engine.loading import load_engine
from easel_server.engine.stepping.stepper import SteppedCall, take_turns
from easel_server.worker.engine_errors import is_engine_error

from tests.inference_server.engine.add_ons.adapters import adapter_job, begin, write_adapter
from tests.support.tiny_engine import tiny_model_directory

CPU = torch.device("cpu")
FAR = torch.device("meta")  # a device that isn't the host's memory, on any machine


@dataclass(frozen=True)
class Weights:
    name: str
    size_bytes: int = 10
    device: torch.device = CPU

    def to(self, device: torch.device, /) -> Self:
        return type(self)(self.name, self.size_bytes, device)


class Files:
    """Which were read, in order."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def hold(self, residency: Residency, name: str, size_bytes: int = 10) -> Weights:
        with residency.hold(name, lambda: self.load(name, size_bytes)) as weights:
            return weights

    def load(self, name: str, size_bytes: int = 10) -> Weights:
        self.read.append(name)
        return Weights(name, size_bytes)


def test_the_least_recently_used_goes_first_and_what_is_used_again_is_not_read_again() -> None:
    files, residency = Files(), Residency(CPU, device_bytes=20, host_bytes=0)
    for name in ("a", "b", "a", "c", "a", "b"):
        files.hold(residency, name)
    assert files.read == ["a", "b", "c", "b"]
    assert residency.count_bytes() == (20, 0)


def test_what_leaves_the_device_waits_in_the_hosts_memory_and_the_oldest_of_those_is_dropped() -> None:
    files, residency = Files(), Residency(FAR, device_bytes=10, host_bytes=10)
    for name in ("a", "b", "a", "b", "c"):
        assert files.hold(residency, name).device == FAR
    assert files.read == ["a", "b", "c"]
    assert residency.count_bytes() == (10, 10)
    files.hold(residency, "a")
    assert files.read == ["a", "b", "c", "a"]


def test_what_jobs_hold_never_leaves_and_another_waits_until_one_is_released() -> None:
    files, residency = Files(), Residency(FAR, device_bytes=20, host_bytes=20)
    with ExitStack() as jobs:
        for name in ("a", "b", "a"):
            jobs.enter_context(residency.hold(name, lambda name=name: files.load(name)))  # type: ignore[misc]
        with pytest.raises(AddOnsBusyError, match=r"hold 0\.0 MiB"):
            files.hold(residency, "c")
        assert residency.is_on_device("a")
        assert residency.is_on_device("b")
    assert files.hold(residency, "c").device == FAR
    assert residency.count_bytes() == (20, 10)


def test_one_that_is_larger_than_the_budget_is_refused_with_both_sizes() -> None:
    residency = Residency(CPU, device_bytes=2 << 20, host_bytes=0)
    with pytest.raises(GenerationError, match=r"big takes 3.0 MiB, and add-ons may take 2.0 MiB"):
        Files().hold(residency, "big", 3 << 20)
    assert residency.count_bytes() == (0, 0)


def test_what_was_prefetched_is_not_read_again_and_prefetching_stays_within_the_budget() -> None:
    files, residency = Files(), Residency(FAR, device_bytes=10, host_bytes=20)
    for name in ("a", "b", "c"):
        residency.prefetch(name, lambda name=name: files.load(name))  # type: ignore[misc]
    assert residency.count_bytes() == (0, 20)
    files.hold(residency, "c")
    assert files.read == ["a", "b", "c"]


def test_one_that_cant_be_read_leaves_nothing_and_is_read_again_after_a_while_only() -> None:
    now = [0.0]
    residency = Residency(CPU, device_bytes=20, host_bytes=0, clock=lambda: now[0])
    tried: list[str] = []

    def fail() -> Weights:
        tried.append("a")
        raise GenerationError("the file is damaged")

    for _ in range(5):
        with pytest.raises(GenerationError, match="damaged"):
            residency.prefetch("a", fail)
        with pytest.raises(GenerationError, match="damaged"), residency.hold("a", fail):
            pass
    assert tried == ["a"], "a large file isn't read for each request that it is no good for"
    now[0] += REMEMBER_FAILURE_SECONDS
    assert Files().hold(residency, "a").name == "a"


@pytest.mark.parametrize("error", [IndexError("rank"), AttributeError("items"), RecursionError(), TypeError("None")])
def test_a_file_that_is_wrong_in_a_way_nobody_foresaw_is_the_fault_of_who_asked_for_it(error: Exception) -> None:
    residency = Residency(CPU, device_bytes=20, host_bytes=0)

    def fail() -> Weights:
        raise error

    with pytest.raises(GenerationError, match=r"adapter ink can't be read.*damaged"):
        residency.prefetch(AddOnKey("adapter", "ink", "sha256:1"), fail)


def test_a_file_that_a_job_cant_read_any_more_is_no_fault_of_the_engine() -> None:
    def fail() -> Weights:
        raise OSError(errno.ESTALE, "Stale file handle")

    residency = Residency(CPU, device_bytes=20, host_bytes=0)
    with (
        pytest.raises(GatheringError, match="Stale file handle") as caught,
        residency.hold(AddOnKey("adapter", "ink", "sha256:1"), fail),
    ):
        pass
    assert not is_engine_error(caught.value)


def test_many_who_ask_for_the_same_at_once_read_it_once() -> None:
    residency, files = Residency(CPU, device_bytes=20, host_bytes=0), Files()
    others_wait = threading.Barrier(9)

    def load() -> Weights:
        return files.load("a")

    def prefetch() -> None:
        others_wait.wait()
        residency.prefetch("a", load)

    with ThreadPoolExecutor(8) as executor:
        asked = [executor.submit(prefetch) for _ in range(8)]
        others_wait.wait()
        for each in asked:
            each.result()
    assert files.read == ["a"]


def test_where_the_device_runs_out_of_memory_what_nobody_holds_leaves_it_first() -> None:
    class Greedy(Weights):
        def to(self, device: torch.device, /) -> Self:
            if device == FAR and residency.count_bytes()[0] > 0:
                raise torch.OutOfMemoryError("out of memory")
            return super().to(device)

    files, residency = Files(), Residency(FAR, device_bytes=100, host_bytes=100)
    files.hold(residency, "a")
    with residency.hold("greedy", lambda: Greedy("greedy")) as weights:
        assert weights.device == FAR
        assert not residency.is_on_device("a")
        with pytest.raises(GenerationError, match="fewer or smaller"), residency.hold("next", lambda: Greedy("next")):
            pass
    assert files.hold(residency, "a").device == FAR


def test_a_module_counts_with_its_parameters_and_buffers() -> None:
    residency = Residency(CPU, device_bytes=1000, host_bytes=0)
    module = torch.nn.BatchNorm1d(4)
    with residency.hold("module", lambda: module):
        assert residency.count_bytes() == (4 * (4 * 4) + 8, 0)
    residency.clear()
    assert residency.count_bytes() == (0, 0)


class Job:
    """That holds one for as long as it is told to."""

    def __init__(self, files: Files, residency: Residency, name: str) -> None:
        self.has_it = False
        self._files, self._residency, self._name = files, residency, name
        self.call = SteppedCall(self._run)
        self.call.advance()

    def _run(self) -> None:
        with ExitStack() as holds:
            self._residency.take(
                lambda own: own.enter_context(self._residency.hold(self._name, lambda: self._files.load(self._name))),
                holds,
            )
            self.has_it = True
            while True:
                take_turns()


def served(*jobs: Job) -> list[bool]:
    return [job.has_it for job in jobs]


def step(*jobs: Job) -> None:
    for job in jobs:
        job.call.advance()


def test_a_job_that_waits_for_room_reads_no_file_at_each_turn() -> None:
    files, residency = Files(), Residency(CPU, device_bytes=10, host_bytes=0)
    first, second = (Job(files, residency, name) for name in ("a", "b"))
    for _ in range(20):
        step(first, second)
    first.call.stop()
    step(second)
    assert served(second) == [True]
    assert files.read == ["a", "b", "b"]
    second.call.stop()


def test_who_waits_for_room_is_overtaken_for_a_while_only_and_who_is_stopped_holds_up_nobody() -> None:
    now = [0.0]
    files, residency = Files(), Residency(CPU, device_bytes=10, host_bytes=0, clock=lambda: now[0])
    running, waiting, impatient = (Job(files, residency, name) for name in ("a", "b", "b"))
    sharing = Job(files, residency, "a")
    assert served(running, waiting, impatient, sharing) == [True, False, False, True]
    now[0] = PATIENT_SECONDS
    late = Job(files, residency, "a")
    assert served(late) == [False]
    for job in (running, sharing):
        job.call.stop()
    step(late, impatient)  # the room is free, and yet they aren't next
    assert (served(late, impatient), late.call.error) == ([False, False], None)
    step(waiting)
    assert served(waiting) == [True]
    waiting.call.stop()
    impatient.call.stop()  # it was next
    step(late)
    assert served(late) == [True]
    late.call.stop()
    assert residency.count_held_bytes() == 0


def test_budgets_are_the_configured_shares_of_the_device_and_of_the_hosts_free_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(residency_module, "read_free_host_bytes", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80_000))
    assert choose_budgets(torch.device("cuda"), AddOnMemory()) == (12_000, 250)
    assert choose_budgets(torch.device("cuda"), AddOnMemory(device_percent=30, host_percent=50)) == (24_000, 500)
    assert choose_budgets(CPU, AddOnMemory(device_percent=30, host_percent=50)) == (500, 500)


def test_a_loaded_model_keeps_to_the_services_bounds_of_add_ons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = write_adapter(tmp_path, "style")
    free_bytes = 2 * Path(style.source).stat().st_size
    monkeypatch.setattr(residency_module, "read_free_host_bytes", lambda: free_bytes)
    model = ModelConfig(name="tiny", source=str(tiny_model_directory("sd15")))
    for percent, is_refused in ((75, False), (25, True)):
        memory = AddOnMemory(host_percent=percent)
        engine: Any = load_engine(
            model, hub_token=None, engine=EngineConfig(add_on_memory=memory), max_add_on_file_bytes=1 << 20
        )
        error = begin(engine, adapter_job((style, 1.0)), [style]).error
        assert (error is not None) == is_refused
        assert not is_refused or "or raise spec.worker.engine.addOnMemory" in str(error)
    assert engine._add_on_files._bounds.max_file_bytes == 1 << 20
