"""What one loop finds out and another needs: one small shared place, instead of loops that call each other."""

from collections import Counter
from collections.abc import Callable

from easel_operator.decide.rollouts.tally import Tally
from easel_operator.decide.rollouts.turns import grant_turns
from easel_operator.decide.snapshot import Capabilities, FetchProgress, ScalingDecision, ScrapeReport, Stage, Standing
from easel_operator.objects import ServiceKey
from easel_operator.operator_metrics import ROLLOUT_SERVICES


class SharedState:
    """Written by the scaling loop and the probe, read by the reconciler."""

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.decisions: dict[ServiceKey, ScalingDecision] = {}
        self.scrapes: dict[ServiceKey, ScrapeReport] = {}
        self.fetches: dict[ServiceKey, FetchProgress] = {}
        self.tallies: dict[ServiceKey, Tally] = {}

    def forget(self, key: ServiceKey) -> None:
        """Drop a service that is gone."""
        self.decisions.pop(key, None)
        self.scrapes.pop(key, None)
        self.fetches.pop(key, None)
        self.tallies.pop(key, None)


class RolloutTurns:
    """Whose turn it is to take a newer release of the installation, from what reconciles say; nothing is stored.

    A turn is granted only while every known service has been looked at: after a restart some of them may be in the
    midst of a roll-out.
    """

    def __init__(
        self, *, max_services: int, count_services: Callable[[], int], on_turn: Callable[[ServiceKey], None]
    ) -> None:
        self._max_services = max_services
        self._count_services = count_services
        self._on_turn = on_turn
        self._standings: dict[ServiceKey, Standing] = {}
        self._stages: Counter[Stage] = Counter()
        self._granted: frozenset[ServiceKey] = frozenset()

    def has_turn(self, key: ServiceKey) -> bool:
        """Whether a service may take the installation's release."""
        return key in self._granted

    def report(self, key: ServiceKey, standing: Standing) -> None:
        """A reconcile has found a service so; ``on_turn`` is called for those whose turn comes by it."""
        if self._standings.get(key) == standing:
            return
        self._drop(key)
        self._standings[key] = standing
        self._stages[standing.stage] += 1
        self._grant()

    def forget(self, key: ServiceKey) -> None:
        """Drop a service that is gone."""
        if self._drop(key):
            self._grant()

    def _drop(self, key: ServiceKey) -> bool:
        known = self._standings.pop(key, None)
        if known is not None:
            self._stages[known.stage] -= 1
        return known is not None

    def _grant(self) -> None:
        for stage in Stage:
            ROLLOUT_SERVICES.labels(stage).set(self._stages[stage])
        if len(self._standings) < self._count_services() or not self._stages[Stage.WAITING]:
            self._granted = frozenset(key for key in self._granted if key in self._standings)
            return
        before = self._granted
        self._granted = grant_turns(self._standings, before, self._max_services)
        for key in sorted(self._granted - before):
            self._on_turn(key)
