"""The host is one step ahead of its device, and no more. The device's events are fakes: no GPU is needed."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.torch


def build_pace(device: str, build_event: Callable[[Any], Any]) -> Any:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.stepping.stepper import Pace  # noqa: PLC0415  # loads torch

    return Pace(torch.device(device), build_event)


class FakeEvent:
    """Notes in the list when it is recorded and waited for."""

    def __init__(self, notes: list[str], error: Exception | None = None) -> None:
        self._notes = notes
        self._number = sum(note.startswith("recorded") for note in notes)
        self._error = error

    def record(self) -> None:
        self._notes.append(f"recorded {self._number}")

    def synchronize(self) -> None:
        self._notes.append(f"waited for {self._number}")
        if self._error is not None:
            raise self._error


def test_a_step_is_given_to_the_device_before_the_one_before_it_is_waited_for() -> None:
    notes: list[str] = []
    pace = build_pace("cuda", lambda _: FakeEvent(notes))
    for _ in range(3):
        pace.keep()
    assert notes == ["recorded 0", "recorded 1", "waited for 0", "recorded 2", "waited for 1"]


def test_what_the_device_failed_with_comes_to_light_and_only_once() -> None:
    notes: list[str] = []
    errors = iter([RuntimeError("CUDA error: an illegal memory access was encountered")])
    pace = build_pace("cuda", lambda _: FakeEvent(notes, next(errors, None)))
    pace.keep()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        pace.keep()
    pace.keep()


def test_a_processor_is_never_ahead() -> None:
    notes: list[str] = []
    pace = build_pace("cpu", lambda _: FakeEvent(notes))
    pace.keep()
    assert notes == []
