"""How far a job is, in words, and the files that its images become."""

from pathlib import Path

import pytest
from easel_cli.decide.image_job import Event, JobEnd, choose_files, describe_progress, parse_events

STREAM = """: a comment keeps it open

id: step-1
event: progress
data: {"status": "processing",
data:  "steps_done": 4, "steps": 30}

event: logs
data: warning: no watermark
data: warning: another sampler

event: done
data: {"reason": "canceled"}

event: unfinished
""".splitlines()


def test_events_are_read_as_the_standard_says() -> None:
    events = list(parse_events(STREAM))
    assert [event.name for event in events] == ["progress", "logs", "done"]
    assert events[0].read() == {"status": "processing", "steps_done": 4, "steps": 30}
    assert Event("logs", "no json").read() == Event("logs", "[1]").read() == {}


def test_the_end_says_whether_it_was_stopped_and_what_was_warned_of() -> None:
    end = JobEnd()
    for event in parse_events(STREAM):
        end.note(event)
    assert (end.is_over, end.is_canceled, end.error) == (True, True, "")
    assert end.warnings == ["no watermark", "another sampler"]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"status": "starting", "workers": 0, "eta_seconds": 92.4}, "waiting for the first worker to start, some 92 s"),
        ({"status": "starting", "workers": 2, "queue_position": 3}, "waiting, number 3 in the queue"),
        ({"status": "processing", "steps_done": 4, "steps": 30, "eta_seconds": 2}, "step 4 of 30, some 2 s to go"),
        ({"status": "succeeded"}, "succeeded"),
        ({}, ""),
    ],
)
def test_progress_is_said_in_a_line(said: dict[str, object], text: str) -> None:
    assert describe_progress(said).startswith(text)


@pytest.mark.parametrize(
    ("output", "is_directory", "kinds", "files"),
    [
        (None, False, ["image/png"], ["easel-0123456789ab.png"]),
        (None, False, ["image/webp", "image/webp"], ["easel-0123456789ab-1.webp", "easel-0123456789ab-2.webp"]),
        ("fox.png", False, ["image/png"], ["fox.png"]),
        ("a/fox.png", False, ["image/png"] * 2, ["a/fox-1.png", "a/fox-2.png"]),
        ("a.b/fox", False, ["image/jpeg; q=1"], ["a.b/fox.jpg"]),
        ("out.d", True, ["image/png"], ["out.d/easel-0123456789ab.png"]),
    ],
)
def test_files_are_named_after_the_job_or_as_asked(
    output: str | None, is_directory: bool, kinds: list[str], files: list[str]
) -> None:
    chosen = choose_files(
        None if output is None else Path(output), "0123456789abcdef", kinds, is_directory=is_directory
    )
    assert [str(file) for file in chosen] == files
