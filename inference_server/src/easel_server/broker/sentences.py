"""Errors that a broker itself writes into a job; shared by both implementations. ``%s`` is filled by either."""

from typing import Final

DEADLINE_PASSED: Final = (
    "the deadline passed before the job was finished; allow it more time, or add workers if jobs wait long"
)
# Filled with the number of attempts and the last worker's name.
LOST: Final = (
    "its worker was lost %s times while it ran this job, the last one was %s; the job may need more memory than a "
    "worker has: ask for fewer images or pixels, or look at why that pod ended"
)
