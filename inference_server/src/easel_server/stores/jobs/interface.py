"""What gateways and workers ask of the job store: protocols, frozen values and errors. No I/O lives here.

A job is executed at least once and completed exactly once: ``finish`` is accepted from the holder of the current
claim only. Every method may raise StoreUnavailableError, and every method may be repeated safely after it.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

from easel_contract.server_config import Priority

from easel_server.generation.cost import CostSums, Measurement
from easel_server.generation.images import ImageReference
from easel_server.generation.job import Job, JobState
from easel_server.generation.models import ModelIdentity
from easel_server.generation.shares import count_ends
from easel_server.stores.errors import StoreError
from easel_server.stores.images.interface import RoomBounds, StoredImages

MAX_LISTED: Final = 1000  # jobs of an owner, however many there are; jobs/lua/fields.lua keeps as many
MAX_FOLLOWERS: Final = 1000  # of one flight; the next equal job starts another
MAX_CHECKPOINT_BYTES: Final = 8 << 20  # a larger one isn't kept: the job begins anew
CHECKPOINT_SECONDS: Final = 3600.0  # how long one is kept while its job waits
MAX_PREVIEWS: Final = 64  # of one job; further ones are dropped
MODEL_UNSERVED_SECONDS: Final = 60.0  # after which jobs of a model that nobody serves fail; old pods end within that
RUNNING_GRACE_SECONDS: Final = 10.0  # that jobs under way have left when their service is deleted
WORKER_SEEN_SECONDS: Final = 10.0  # how long a silent worker still counts; an idle one claims about every second


NO_BOUNDS: Final[Mapping[str, int]] = MappingProxyType({})


class QueueFullError(StoreError):
    """As many jobs wait as are allowed to, or as many of this owner; the job was not stored."""

    def __init__(self, depth: int, held: int, owners: int, bounds: "JobBounds") -> None:
        """``held`` of those that wait are the owner's; so many owners' jobs are claimed in turn."""
        self.depth = depth
        self.held = held
        self.bound = bounds.max_queue_depth
        self.is_shared = bounds.is_shared
        self.claims_before_a_place = 1 + depth - bounds.max_queue_depth
        if bounds.is_shared:
            self.claims_before_a_place = count_ends(
                held=held, taken=depth, bound=bounds.max_queue_depth, customers=owners
            )
        whose = f", {held} of them this customer's" if bounds.is_shared else ""
        super().__init__(f"the queue is full: {depth} jobs wait{whose}, at most {bounds.max_queue_depth} may")


class ServiceClosingError(StoreError):
    """The service is being deleted and takes no new jobs; the job was not stored. Never in memory."""


class JobConflictError(StoreError):
    """The id belongs to a job with another owner, other parameters or another webhook; that job is untouched."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} exists already with different content; choose another id or repeat the same")


@dataclass(frozen=True)
class JobBounds:
    """Bounds that travel with a job, so that whoever handles it next needs no configuration of its own."""

    max_queue_depth: int = 10_000  # waiting jobs, checked by submit
    result_ttl_seconds: float = 3600  # how long a final job and its images are kept, recorded by submit
    max_attempts: int = 3  # lost claims before a job fails, recorded by claim
    # Of all images, those that jobs under way may become among them; checked by submit.
    max_image_bytes: int = 256 << 20
    max_input_bytes: int | None = (
        None  # of input images of jobs that wait or run; they count among max_image_bytes, too
    )
    # Whether several customers share these bounds, so that each may have a share only; see generation/shares.py.
    is_shared: bool = False
    max_bucket_jobs: int | None = None  # with images in a bucket, since their bytes alone don't bound the books of them

    @property
    def room(self) -> RoomBounds:
        """Those that the books of images keep."""
        return RoomBounds(self.max_image_bytes, self.max_input_bytes, is_shared=self.is_shared)


@dataclass(frozen=True, slots=True)
class QueueTerms:
    """How long after its submission a job may start, and be overtaken, if its service has a target for the wait.

    A job without terms is taken first come first served.
    """

    # At the latest, if it is to finish within the target; negative if one that starts at once doesn't.
    start_within_seconds: float
    overtaken_within_seconds: float  # by later ones of the same customer; from then on it goes first, late or not


@dataclass(frozen=True)
class QueuePosition:
    """What goes before a waiting job, as things stand; later work of customers who had less may still pass it."""

    jobs_ahead: int
    gpu_seconds_ahead: float  # predicted, of waiting jobs


@dataclass(frozen=True)
class SubmitReply:
    """What became of a submit."""

    job: Job  # as stored, with the store's times
    created: bool  # False: the same job had been submitted before
    shared: bool = False  # it follows an equal job that was under way
    position: QueuePosition | None = None  # of a job that was queued by this submit


@dataclass(frozen=True)
class Claim:
    """The right to run a job, until its lease expires."""

    job: Job
    token: str
    lease_seconds: float
    inputs: Mapping[str, bytes] = field(default_factory=dict)  # input images by their digest
    # Of those that are still to be fetched.
    input_references: Mapping[str, ImageReference] = field(default_factory=dict)
    checkpoint: bytes | None = None  # what an earlier worker got to, as its engine wrote it
    is_alone: bool = False  # to be generated by itself: its last attempt shall not fail for another job's fault


@dataclass(frozen=True)
class Joining:
    """Jobs that are being generated, as far as it matters for who may join them."""

    batch_key: str
    priority: Priority  # the highest of theirs: work of a lower one doesn't slow them down


class HeartbeatReply(StrEnum):
    """What a worker learns about its claim from a heartbeat."""

    CONTINUE = "Continue"
    CANCEL = "Cancel"  # stop at the next step and finish with Canceled
    DEADLINE_PASSED = "DeadlinePassed"  # stop at the next step and finish with Failed
    LOST = "Lost"  # the claim is no longer held: stop, and finish nothing


@dataclass(frozen=True)
class Succeeded:
    """The job's images, in order, as the image store has them."""

    images: StoredImages
    warnings: tuple[str, ...] = ()  # what was done otherwise than asked


@dataclass(frozen=True)
class Failed:
    """The job can't be completed; a sentence that the client reads."""

    error: str


@dataclass(frozen=True)
class Canceled:
    """The job was stopped because its client asked for it."""


Outcome = Succeeded | Failed | Canceled


@dataclass(frozen=True)
class QueueDepth:
    """How much work there is. Followers of an equal job don't count: they are no work."""

    waiting: int
    running: int
    oldest_waiting_age_seconds: float  # 0 when nothing waits
    waiting_gpu_seconds: float = 0.0  # predicted
    running_gpu_seconds: float = 0.0  # predicted, what is left of it
    # Of that, what one pod can do of each job until its target is over; of jobs without a target all of it.
    bounded_waiting_gpu_seconds: float = 0.0
    bounded_running_gpu_seconds: float = 0.0  # as of the jobs' claims and last heartbeats
    overrunning: int = 0  # running jobs that had run for longer than their target at their last heartbeat
    workers: int = 0  # that were heard of lately
    engine_failures: int = 0  # attempts that were retried or failed by ``retry``, ever


@dataclass(frozen=True)
class ReapReport:
    """How many jobs a reap moved."""

    requeued: int = 0
    failed: int = 0
    canceled: int = 0
    closed: int = 0  # ended because the service is being deleted


@dataclass(frozen=True)
class JobPage:
    """Some of an owner's jobs, newest first."""

    jobs: tuple[Job, ...]
    older_than: int | None  # where the next page begins; None: there are no older ones


class JobStore(Protocol):
    """A job as its client sees it."""

    async def submit(
        self,
        job: Job,
        *,
        answer: tuple[bytes, ...] | None = None,
        inputs: Mapping[str, bytes] | None = None,
        flight_key: str | None = None,
        terms: QueueTerms | None = None,
        target_seconds: float | None = None,
    ) -> SubmitReply:
        """Store a Waiting job and queue it; return the stored one if its id is known already.

        ``submitted_at`` becomes the store's time, and ``deadline_at`` moves by the same offset. ``answer`` is for
        images that are known already (from the cache): the job is stored as Succeeded, with its ``generated_by`` and
        ``generation_warnings``, and not queued. ``inputs`` are
        the input images by digest. Room is reserved for them and for what the job's images may become. With a
        ``flight_key``, the job follows the one under way that was submitted with the same key and model, if there is
        one: see job.py. ``target_seconds`` bounds what ``depth`` counts of the job's work: however many workers there
        are, one of them does the job.

        Customers share the workers by weight: a job's place among those of its priority is the virtual time at which
        its owner's earlier work, in predicted GPU-seconds over weight, would be done (start-time fair queueing:
        https://doi.org/10.1109/90.649569). What an owner cancels is not held against it. Which of its jobs an owner's
        turn takes depends on their ``terms``: the oldest, or the oldest that is in time; see fair_queue.py.
        Raises QueueFullError, StoreFullError, ServiceClosingError, and JobConflictError when the known job differs in
        owner, parameters or webhook (so a seed that a gateway chooses for a client's id must be derived from that id).
        """
        ...

    async def get(self, job_id: str) -> Job | None:
        """The job, or None if it was never submitted or its result has expired."""
        ...

    async def list_newest(self, owner: str, *, older_than: int | None = None, limit: int) -> JobPage:
        """The owner's jobs, of those that there still are; MAX_LISTED in all pages together."""
        ...

    async def remove_data(self, job_id: str) -> None:
        """Remove the images of a Succeeded job; they are deleted once no job of its flight has them any more."""
        ...

    async def cancel(self, job_id: str) -> Job | None:
        """Cancel a Waiting job at once, ask a Running one to stop, leave a final one; return it as it is now."""
        ...

    async def wait(self, job_id: str, timeout_seconds: float) -> Job | None:
        """The job once it is final, or as it is after the time-out; None if unknown. Outlives short outages."""
        ...

    def watch(self, job_id: str) -> AsyncGenerator[Job]:
        """The job now, then whenever it has changed (its state, steps_done, previews), until it is final.

        Changes that come close together may be seen as one. Ends at once for an unknown job. Close it (``aclose``)
        when it isn't read to its end. Outlives short outages.
        """
        ...

    async def previews(self, job_id: str) -> tuple[bytes, ...]:
        """The unfinished images so far, encoded, in order; they may be gone once the job is final."""
        ...

    async def position(self, job_id: str) -> QueuePosition | None:
        """What goes before the job; None if it doesn't wait. A follower's is its leader's.

        Work of a higher priority counts whatever its model, work of the job's own priority if it has its model. Of
        the owner's own work that counts which its turns would take before it now: a late job falls behind later ones.
        """
        ...

    async def estimate_position(self, job: Job, terms: QueueTerms | None = None) -> QueuePosition:
        """What would go before the job if it were submitted now with these terms, as ``position`` would report it."""
        ...


class JobQueue(Protocol):
    """A job as its worker sees it."""

    async def claim(
        self,
        worker: str,
        models: Sequence[str] = (),
        *,
        lease_seconds: float,
        wait_seconds: float,
        max_jobs: int = 1,
        max_images: int = 1,
        max_images_of: Mapping[str, int] = NO_BOUNDS,
        joining: Joining | None = None,
    ) -> tuple[Claim, ...]:
        """The job that is next, now Running for ``worker``, and waiting jobs that can be generated with it.

        Only jobs are claimed whose model the worker holds (``models`` are the keys of those, see ``model_key``), and
        jobs without a model. Jobs that are claimed together have the same priority, model and ``batch_key`` and come in
        schedule order, ``max_jobs`` and ``max_images`` in all (the first may have more images); ``max_images_of`` has
        the bounds of batch keys for which that isn't right. Empty if no job came within ``wait_seconds``. Outlives
        outages shorter than that. If the caller is cancelled, jobs that were being claimed are released when their
        lease expires.

        What joins others (``joining``) is next in turn, of their batch key, of no lower priority, and fits. Where the
        next in turn isn't like that, nothing is claimed, whatever waits behind it: so nobody is overtaken for ever.
        """
        ...

    async def wait_for_work(self, models: Sequence[str], wait_seconds: float) -> None:
        """Return when something may have come that could join what this worker generates, or the time is up.

        Workers that generate nothing come first. May be cancelled at any time.
        """
        ...

    async def heartbeat(self, claim: Claim, steps_done: int, *, previews: Sequence[bytes] = ()) -> HeartbeatReply:
        """Extend the lease by the claim's ``lease_seconds`` from now, record progress, add unfinished images."""
        ...

    async def finish(
        self,
        claim: Claim,
        outcome: Outcome,
        measured: Measurement | None = None,
        generated_by: ModelIdentity | None = None,
        *,
        gpu_seconds: float = 0.0,
    ) -> bool:
        """Complete the job; False if the claim is no longer held, and then nothing has changed.

        Never refused for want of room: that was reserved by the submit. ``gpu_seconds`` are what this worker spent on
        it, whatever its outcome, for the ledger of usage.

        Of a Succeeded job, ``measured`` is what it took, which is added to the sums that costs are predicted from, and
        ``generated_by`` what the worker holds, which is kept with the job.
        """
        ...

    async def release(
        self, claim: Claim, *, checkpoint: bytes | None = None, steps_done: int = 0, gpu_seconds: float = 0.0
    ) -> bool:
        """Release the job to the head of the queue, the attempt uncounted; False if the claim is no longer held.

        With a ``checkpoint``, after ``steps_done``, its next claim carries that, for CHECKPOINT_SECONDS at most; one
        of more than MAX_CHECKPOINT_BYTES isn't kept. It goes with the job's end, and with an attempt that failed.
        A job whose cancellation was asked for becomes Canceled instead. What this worker spent on it (``gpu_seconds``)
        counts as its customer's if it is of use: with a checkpoint that is kept, or in a job that ends.
        """
        ...

    async def retry(self, claim: Claim, error: str) -> JobState | None:
        """Release the job to the head of the queue for another attempt; the one that failed counts.

        After the last that is allowed the job becomes Failed with the error instead, and Canceled if that was asked
        for. The state that it has now; None if the claim is no longer held, and then nothing has changed.
        """
        ...

    async def depth(self) -> QueueDepth:
        """How much work waits and runs, and since when."""
        ...

    async def cost_sums(self) -> CostSums:
        """What finished jobs have taken."""
        ...


class Reapable(Protocol):
    """What the reaper needs."""

    async def reap(self, models: Sequence[str] = ()) -> ReapReport:
        """Requeue or fail jobs whose lease expired, and fail waiting jobs past their deadline. Anyone may call it.

        Of a service that is being deleted all waiting jobs fail, and after RUNNING_GRACE_SECONDS the running ones.

        ``models`` are the keys of those that the caller serves. Waiting jobs of a model that nobody has said to serve
        for MODEL_UNSERVED_SECONDS fail: no worker will ever claim them, and they shall not count as work.
        """
        ...


class Jobs(JobStore, JobQueue, Reapable, Protocol):
    """All of it, as one store implements it."""
