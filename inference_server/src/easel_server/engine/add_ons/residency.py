"""Which add-ons are loaded: within budgets on the device and in the host's memory, the least recently used go first.

where an add-on is      how it comes there               how it leaves
------------------      ------------------               -------------
nowhere                 dropped, or never asked for      ``prefetch`` or ``hold`` reads it
in the host's memory    ``prefetch``, or another took    ``hold`` brings it to the device; dropped where others need
                        its room on the device           the host's budget
on the device           ``hold``                         to the host's memory, where another needs its room
held there              ``hold``                         not before each ``Hold`` is released

It is in one place at a time. Where the device is the CPU there is one place, with the device's budget.

Add-ons are known by their content (``AddOnKey``): another file at the same place is another add-on.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self, TypeVar

import torch
from easel_contract.server_config import AddOnMemory

from easel_server.engine.device_errors import is_out_of_memory
from easel_server.engine.interface import GatheringError, GenerationError
from easel_server.engine.model_files.memory import read_free_host_bytes
from easel_server.engine.speed.weights import count_weight_bytes
from easel_server.engine.stepping.memory import attempt, free_device_memory
from easel_server.engine.stepping.stepper import take_turns

CPU: Final = torch.device("cpu")
MIB: Final = 1 << 20
ASSUMED_FREE_BYTES: Final = 2 << 30
READERS: Final = 2  # that read add-ons at a time: each holds a file's tensors beside what it makes of them
REMEMBER_FAILURE_SECONDS: Final = 60.0  # that a file is no add-on of this model: the same content won't become one
MAX_FAILURES: Final = 256
MAX_SIZES: Final = 4096  # of add-ons that were read, in bytes
PATIENT_SECONDS: Final = 10.0  # that a job lets others have the room that it waits for, as those of one add-on share it

logger = logging.getLogger(__name__)


class Movable(Protocol):
    """What can be kept here; every ``torch.nn.Module`` can. Others have ``size_bytes`` beside it."""

    def to(self, device: torch.device, /) -> Self:
        """The same on a device: itself, or another one."""
        ...


Value = TypeVar("Value", bound=Movable)
Taken = TypeVar("Taken")


class AddOnsBusyError(Exception):
    """There is no room now, since jobs under way use what is there; when they have ended, there is."""


class _OthersFirstError(AddOnsBusyError):
    """Somebody waits for longer."""


# Who takes, of the job's call (greenlets have a context each); None: nobody who would wait.
_TAKER: ContextVar[object | None] = ContextVar("_TAKER", default=None)


@dataclass(frozen=True)
class AddOnKey:
    """Equal for the same use of the same content, whatever it is called and wherever it lies."""

    kind: str
    name: str = field(compare=False)  # for messages
    digest: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass
class _Entry:
    value: Any
    size_bytes: int
    is_on_device: bool
    holds: int = 0


class Residency:
    """All loaded add-ons of an engine, whatever they are. ``prefetch`` in any thread, the rest in the engine's."""

    def __init__(
        self,
        device: torch.device,
        device_bytes: int,
        host_bytes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """With these budgets."""
        self._device = device
        self._is_one_place = device.type == CPU.type
        self._device_bytes = device_bytes
        self._host_bytes = host_bytes
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # the least recently used first
        self._sizes: OrderedDict[Hashable, int] = OrderedDict()  # of all that were read, for a while
        self._waiting: dict[object, float] = {}  # who waits for room, the first of them first, and since when
        self._lock = threading.RLock()
        self._clock = clock
        self._failures: OrderedDict[Hashable, tuple[str, float]] = OrderedDict()  # sentences, and until when
        self._reading: dict[Hashable, threading.Lock] = {}  # of those that are being read, or waited for
        self._readers = threading.BoundedSemaphore(READERS)

    @contextmanager
    def hold(self, key: Hashable, load: Callable[[], Value]) -> Iterator[Value]:
        """The add-on on the device; within, it stays there. An ``ExitStack`` is for those who hold several.

        ``load`` reads it into the host's memory where it isn't loaded; what it raises is raised. Raises AddOnsBusyError
        where jobs under way leave no room, GenerationError where there never is any, GatheringError for a file that
        can't be read now. ``key`` stands for its content.
        """
        # Jobs' calls run in inference mode, and modules made in it are good for nothing outside of it.
        with self._lock, torch.inference_mode(mode=False):
            self._check_turn()
            if key not in self._entries and key in self._sizes:  # nobody reads a file at each turn that he waits
                self._check_room(min(self._sizes[key], self._device_bytes))
            entry = self._entries.get(key) or self._read_now(key, load)
            if entry.size_bytes > self._device_bytes:
                raise GenerationError(
                    f"{key} takes {_in_mib(entry.size_bytes)}, and add-ons may take {_in_mib(self._device_bytes)} of "
                    "the device's memory; ask for a smaller one, or raise spec.worker.engine.addOnMemory"
                )
            if key not in self._entries or not entry.is_on_device:
                self._make_room(entry.size_bytes)
                self._entries[key] = entry  # one that can't be moved is in the host's memory nevertheless
                self._move_to_device(key, entry)
            self._entries.move_to_end(key)
            entry.holds += 1
        try:
            yield entry.value
        finally:
            with self._lock:
                entry.holds -= 1

    def take(self, take: Callable[[ExitStack], Taken], holds: ExitStack) -> Taken:
        """What ``take`` gives, which enters all that a job needs into the stack that it is given; ``holds`` keeps it.

        All of it or nothing: where jobs under way leave no room, the job's call waits here (``take_turns``) and holds
        nothing meanwhile. One that has waited for PATIENT_SECONDS isn't overtaken any more. Raises GenerationError
        where it would wait for itself alone.
        """
        taker = object()
        outer = _TAKER.set(taker)
        try:
            while True:
                try:
                    with ExitStack() as own:
                        taken = take(own)
                        holds.push(own.pop_all())
                        return taken
                except AddOnsBusyError as error:
                    if not self.count_held_bytes() and not isinstance(error, _OthersFirstError):
                        raise GenerationError(
                            f"the add-ons of this job don't fit into memory together ({error}); ask for fewer"
                        ) from error
                self._waiting.setdefault(taker, self._clock())
                take_turns()
        finally:
            self._waiting.pop(taker, None)
            _TAKER.reset(outer)

    def prefetch(self, key: Hashable, load: Callable[[], Movable]) -> None:
        """Read it into the host's memory, if it isn't loaded and there is room. Raises GenerationError, OSError.

        One at a time reads the same, and those who waited find it here.
        """
        with self._lock:
            if key in self._entries:
                return
            reading = self._reading.setdefault(key, threading.Lock())
        try:
            with reading:
                self._prefetch_alone(key, load)
        finally:
            with self._lock:
                self._reading.pop(key, None)

    def _prefetch_alone(self, key: Hashable, load: Callable[[], Movable]) -> None:
        with self._lock:
            if key in self._entries:
                return
        with self._readers:
            entry = self._read(key, load)
        with self._lock:
            self._entries.setdefault(key, entry)
            if self._is_one_place:
                self._drop_until(self._device_bytes)
            else:
                self._drop_until(self._host_bytes)

    def is_on_device(self, key: Hashable) -> bool:
        """Whether ``hold`` has nothing to wait for."""
        with self._lock:
            entry = self._entries.get(key)
            return entry is not None and entry.is_on_device

    def count_bytes(self) -> tuple[int, int]:
        """What is used on the device, and in the host's memory beside it."""
        with self._lock:
            return self._count(on_device=True), self._count(on_device=False)

    def count_held_bytes(self) -> int:
        """Of those on the device, what jobs hold."""
        with self._lock:
            return sum(each.size_bytes for each in self._entries.values() if each.holds)

    def clear(self) -> None:
        """Drop all that nobody holds."""
        with self._lock:
            for key, entry in list(self._entries.items()):
                if not entry.holds:
                    del self._entries[key]

    def _read_now(self, key: Hashable, load: Callable[[], Movable]) -> _Entry:
        """For a job under way. Raises GenerationError, GatheringError, MemoryError."""
        try:
            return self._read(key, load)
        except OSError as error:  # of the file, not of the engine
            raise GatheringError(f"{key} can't be read now ({error.strerror or error})") from error

    def _read(self, key: Hashable, load: Callable[[], Movable]) -> _Entry:
        """Raises GenerationError, of which the same content isn't read again for a while; OSError, MemoryError."""
        named = key, str(key)  # one content may have several names, of which each message has one
        with self._lock:
            message, until = self._failures.get(named, ("", 0.0))
        if message and self._clock() < until:
            raise GenerationError(message)
        try:
            value = self._load(key, load)
        except GenerationError as error:
            with self._lock:
                self._failures[named] = (str(error), self._clock() + REMEMBER_FAILURE_SECONDS)
                if len(self._failures) > MAX_FAILURES:
                    self._failures.popitem(last=False)
            raise
        size = count_weight_bytes(value) if isinstance(value, torch.nn.Module) else value.size_bytes
        with self._lock:
            self._sizes[key] = size
            if len(self._sizes) > MAX_SIZES:
                self._sizes.popitem(last=False)
        return _Entry(value, size, is_on_device=self._is_one_place)

    def _load(self, key: Hashable, load: Callable[[], Movable]) -> Any:
        """Raises GenerationError, OSError, MemoryError."""
        try:
            return load()
        except (GenerationError, OSError, MemoryError):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Files may be wrong in ways that nobody foresaw, and that is no fault of the engine, nor of other jobs.
            logger.warning("%s can't be read", key, exc_info=error)
            raise GenerationError(
                f"{key} can't be read: its file is damaged, or of a form that isn't known here "
                f"({type(error).__name__}); whoever runs this service finds more in the worker's log"
            ) from error

    def _check_turn(self) -> None:
        """Raises AddOnsBusyError where a job has waited for too long to be overtaken by the one that asks."""
        first, since = next(iter(self._waiting.items()), (None, 0.0))
        if _TAKER.get() not in (None, first) and first is not None and self._clock() - since >= PATIENT_SECONDS:
            raise _OthersFirstError("a job that came before waits for room")

    def _check_room(self, size_bytes: int) -> None:
        """Raises AddOnsBusyError if jobs under way leave less on the device."""
        held = self.count_held_bytes()
        if held + size_bytes > self._device_bytes:
            raise AddOnsBusyError(
                f"jobs under way hold {_in_mib(held)} of the {_in_mib(self._device_bytes)} that add-ons may take"
            )

    def _make_room(self, size_bytes: int) -> None:
        """Of this size on the device. Raises AddOnsBusyError, and leaves all where it is, if that can't be had."""
        self._check_room(size_bytes)
        for key, entry in list(self._entries.items()):
            if self._count(on_device=True) + size_bytes <= self._device_bytes:
                return
            if entry.is_on_device and not entry.holds:
                self._move_out(key, entry)

    def _move_out(self, key: Hashable, entry: _Entry) -> None:
        if self._is_one_place or entry.size_bytes > self._host_bytes:
            del self._entries[key]
            return
        entry.value, entry.is_on_device = entry.value.to(CPU), False
        self._drop_until(self._host_bytes)

    def _drop_until(self, budget_bytes: int) -> None:
        """Of those where add-ons are read to, the least recently used, until the rest fits."""
        for key, entry in list(self._entries.items()):
            if self._count(on_device=self._is_one_place) <= budget_bytes:
                return
            if entry.is_on_device == self._is_one_place and not entry.holds:
                del self._entries[key]

    def _move_to_device(self, key: Hashable, entry: _Entry) -> None:
        if self._is_one_place:
            return
        moved, error = attempt(lambda: entry.value.to(self._device))
        if error is not None and is_out_of_memory(error):
            for other, each in list(self._entries.items()):
                if each.is_on_device and not each.holds:
                    self._move_out(other, each)
            free_device_memory()
            moved, error = attempt(lambda: entry.value.to(self._device))
        if error is None:
            entry.value, entry.is_on_device = moved, True
            return
        self._entries.pop(key, None)  # a module may have come half of the way
        if not is_out_of_memory(error):
            raise error
        free_device_memory()
        raise GenerationError(
            f"{key} ({_in_mib(entry.size_bytes)}) doesn't fit into the memory of {self._device} beside the model; "
            "ask for fewer or smaller ones"
        ) from error

    def _count(self, *, on_device: bool) -> int:
        return sum(each.size_bytes for each in self._entries.values() if each.is_on_device is on_device)


def choose_budgets(device: torch.device, memory: AddOnMemory) -> tuple[int, int]:
    """For add-ons, in bytes: on the device, a share of all that it has; in the host's memory one of what is free."""
    free_bytes = read_free_host_bytes()
    host_bytes = ASSUMED_FREE_BYTES if free_bytes is None else free_bytes * memory.host_percent // 100
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory * memory.device_percent // 100, host_bytes
    return host_bytes, host_bytes


def _in_mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.1f} MiB"
