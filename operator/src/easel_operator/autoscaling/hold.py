"""The largest number of pods wanted within a sliding time: a pod is given up only when it was long unneeded."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Want:
    """A number of pods, and when it was last wanted."""

    replicas: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Hold:
    """Wants in the order of their times. Only those larger than every later one can still matter: one a pod count."""

    wants: tuple[Want, ...] = ()

    def remember(self, replicas: int, now: datetime, duration: timedelta) -> "Hold":
        """The hold with this tick's want; what is ``duration`` old or older is forgotten."""
        kept = tuple(want for want in self.wants if want.replicas > replicas and now - want.at < duration)
        return Hold((*kept, Want(replicas, now)))

    def postpone(self, pause: timedelta) -> "Hold":
        """The hold as if its clock had stood still for ``pause``: time that nobody watched isn't time without need."""
        return Hold(tuple(Want(want.replicas, want.at + pause) for want in self.wants))

    @property
    def replicas(self) -> int:
        """The largest number still held; 0 if nothing was ever wanted."""
        return self.wants[0].replicas if self.wants else 0
