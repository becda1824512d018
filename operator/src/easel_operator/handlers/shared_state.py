"""What one loop finds out and another needs: one small shared place, instead of loops that call each other."""

from easel_operator.decide.snapshot import Capabilities, ScalingDecision, ScrapeReport
from easel_operator.objects import ServiceKey


class SharedState:
    """Written by the scaling loop and the probe, read by the reconciler."""

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.decisions: dict[ServiceKey, ScalingDecision] = {}
        self.scrapes: dict[ServiceKey, ScrapeReport] = {}

    def forget(self, key: ServiceKey) -> None:
        """Drop a service that is gone."""
        self.decisions.pop(key, None)
        self.scrapes.pop(key, None)
