"""What is varied between simulations of one trace (``--sweep coldStart=30,90,300``), and a run of each policy."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from easel_contract.resource import ScalingSpec
from pydantic import ValidationError

from easel_operator.simulation.outcome import Outcome
from easel_operator.simulation.policies.registry import ORACLE, build_policy
from easel_operator.simulation.settings import Settings
from easel_operator.simulation.simulation import simulate
from easel_operator.simulation.trace import Trace

COLD_START: Final = "coldStart"
ALIASES: Final = {"target": "targetLatencySeconds"}
SWEPT_FIELDS: Final = tuple(str(field.alias) for field in ScalingSpec.model_fields.values())

FindOracle = Callable[[Trace, Settings, float | None], Outcome]  # the last: step of the timeline, in seconds


class SweepError(Exception):
    """A sweep of something that can't be varied, or over values that aren't allowed."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One combination of swept values, and the settings that it makes."""

    values: Mapping[str, float]
    settings: Settings


def parse_sweep(text: str) -> tuple[str, list[float]]:
    """``KEY=VALUE,VALUE…``. Raises SweepError."""
    key, equals, rest = text.partition("=")
    try:
        values = [float(value) for value in rest.split(",")]
    except ValueError:
        values = []
    if not equals or not values:
        raise SweepError(f"--sweep {text}: KEY=NUMBER,NUMBER… is expected, such as {COLD_START}=30,90,300")
    return key.strip(), values


def build_scenarios(settings: Settings, sweeps: Sequence[tuple[str, Sequence[float]]]) -> list[Scenario]:
    """Every combination; one scenario without values where nothing is swept. Raises SweepError."""
    keys = [key for key, _ in sweeps]
    combinations = itertools.product(*(values for _, values in sweeps))
    return [_build_scenario(settings, dict(zip(keys, values, strict=True))) for values in combinations]


def run_scenario(
    trace: Trace,
    scenario: Scenario,
    policies: Sequence[str],
    find_oracle: FindOracle,
    timeline_step_seconds: float | None = None,
) -> list[Outcome]:
    """The outcome of each policy, in their order. Raises PolicyError."""
    settings = scenario.settings
    built = [None if name == ORACLE else build_policy(name, settings) for name in policies]
    return [
        find_oracle(trace, settings, timeline_step_seconds)
        if policy is None
        else simulate(trace, policy, settings, timeline_step_seconds=timeline_step_seconds)
        for policy in built
    ]


def _build_scenario(settings: Settings, values: Mapping[str, float]) -> Scenario:
    scaling = settings.scaling.to_wire()
    cold_start = settings.cold_start
    for key, value in values.items():
        if key == COLD_START:
            if value < 0:
                raise SweepError(f"--sweep {COLD_START}: {value:g} is less than 0")
            spread = min(cold_start.spread_seconds, value)
            cold_start = replace(cold_start, seconds=value, spread_seconds=spread)
        elif ALIASES.get(key, key) in SWEPT_FIELDS:
            scaling[ALIASES.get(key, key)] = value
        else:
            known = ", ".join([COLD_START, *ALIASES, *SWEPT_FIELDS])
            raise SweepError(f"--sweep: nothing is called {key!r}; there are {known}")
    try:
        spec = settings.spec.model_copy(update={"scaling": ScalingSpec.model_validate(scaling)})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "scaling"
        raise SweepError(f"--sweep: {field} is {first['input']!r}: {first['msg']}") from None
    return Scenario(values, replace(settings, spec=spec, cold_start=cold_start))
