"""A claimed job on its way through a worker: how far it is, when it reached what, and what became of it."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum

from easel_server.engine.interface import GatheredAddOn, Generation
from easel_server.generation.cost import Measurement, count_add_on_work, work_units
from easel_server.stores.jobs.interface import Claim


class StopReason(StrEnum):
    """Why a job is to end early."""

    CANCEL = "Cancel"
    DEADLINE_PASSED = "DeadlinePassed"
    LOST = "Lost"  # another worker has the job
    DRAIN = "Drain"
    ENGINE_FAILED = "EngineFailed"  # by no fault of this job
    UNHEARD = "Unheard"  # its heartbeats don't reach the store, for another reason than an outage


class JobRun:
    """How far a claimed job is, and what became of it. Times are of the monotonic clock, in seconds.

    Its attributes are plain: one thread writes each, and a reader that sees it late loses nothing.
    """

    def __init__(self, claim: Claim, *, asked_at_seconds: float | None = None) -> None:
        """``asked_at_seconds``: when the claim was asked for."""
        self.claim = claim
        self.job = claim.job
        self.generation: Generation | None = None
        self.steps_done = self.begun_steps = claim.job.steps_done if claim.checkpoint else 0
        self.stop_reason: StopReason | None = None
        self.has_left_engine = False  # nothing is left to do for it in the engine's thread
        self.settling: asyncio.Task[None] | None = None  # brings its outcome to the job store
        self.is_settled = False  # reported, released or lost: nothing is left to do for it
        self.in_hand = ExitStack()  # what shows that the worker has it
        self.images: tuple[bytes, ...] | None = None
        self.checkpoint: bytes | None = None  # for the worker that goes on with it
        self.gathered: tuple[GatheredAddOn, ...] = ()  # what it uses beside the model
        self.warnings: tuple[str, ...] = ()  # of what was done otherwise than asked
        self.error: Exception | None = None
        self.gpu_seconds = 0.0  # its share of what it took part in
        self.most_jobs = 1  # that took a step together with it, and it among them
        self.unsent_previews: deque[bytes] = deque()
        previews = self.job.wanted_previews
        self.preview_steps = deque(choose_preview_steps(self.job.parameters.steps, previews) if previews else ())
        self.claimed_at_seconds = self.heard_at_seconds = time.monotonic()
        self.asked_at_seconds = self.claimed_at_seconds if asked_at_seconds is None else asked_at_seconds
        self.began_at_seconds = self.last_step_at_seconds = self.ended_at_seconds = self.claimed_at_seconds
        self.stepped_at_seconds: list[float] = []

    @property
    def images_count(self) -> int:
        """How many it generates at once."""
        return self.job.parameters.images

    def stop(self, reason: StopReason) -> None:
        """Ask for its end; the first reason stands."""
        if self.stop_reason is None:
            self.stop_reason = reason

    def take_due_preview(self) -> bool:
        """Whether a preview is due; steps that were skipped over don't fall due again."""
        is_due = False
        while self.preview_steps and self.preview_steps[0] <= self.steps_done:
            self.preview_steps.popleft()
            is_due = True
        return is_due and self.stop_reason is None

    def measure(self) -> Measurement | None:
        """What it took, for the cost model; of one that another worker began, this worker's part.

        None for what says nothing of other jobs: an image that was enlarged by interpolation alone.
        """
        parameters = self.job.parameters
        part = 1 - self.begun_steps / parameters.steps
        add_ons = count_add_on_work(parameters)
        if add_ons:
            add_ons = replace(
                add_ons, control_units=add_ons.control_units * part, adapter_units=add_ons.adapter_units * part
            )
        units = work_units(parameters) * part
        return Measurement(units, self.gpu_seconds, add_ons) if units or add_ons else None

    def predict_seconds_left(self) -> float:
        """Until its last step, as its steps went so far; 0 while nothing is known."""
        steps = self.steps_done - self.begun_steps
        if steps <= 0:
            return 0.0
        seconds = self.last_step_at_seconds - self.began_at_seconds
        return seconds / steps * (self.job.parameters.steps - self.steps_done)


def choose_preview_steps(steps: int, previews: int) -> list[int]:
    """After which steps to show the image: evenly spaced, never after the last."""
    return sorted({steps * number // (previews + 1) for number in range(1, previews + 1)} - {0})


def find_unfinishable(runs: Sequence[JobRun], seconds_left: float) -> list[JobRun]:
    """Those that will not be done within this time: the sooner another worker has them, the better."""
    return [run for run in runs if run.predict_seconds_left() > max(0.0, seconds_left)]
