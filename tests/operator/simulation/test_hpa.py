import pytest
from easel_operator.simulation.hpa.controller import Memory, step
from easel_operator.simulation.hpa.spec import AutoscalerSpec, parse_milli

from tests.operator.simulation.hpa_cases import Case, build_manifest_spec, load_cases

CASES = load_cases()


@pytest.mark.parametrize("case", CASES, ids=[case.sentence for case in CASES])
def test_the_controller_decides_as_its_source_says(case: Case) -> None:
    memory, replicas = Memory(), 0
    for tick in case.ticks:
        replicas = replicas if tick.replicas is None else tick.replicas
        decision = step(tick.spec, tick.build_sight(replicas), memory, case.settings, tick.at_seconds)
        memory, replicas = decision.memory, decision.replicas
        assert replicas == tick.expected_replicas, f"at {tick.at_seconds} s: {decision}"
        assert tick.reason in {None, decision.reason}
        assert tick.limited in {None, decision.limited_by}


def test_what_the_controller_remembers_is_bounded() -> None:
    spec = AutoscalerSpec.from_manifest(
        build_manifest_spec({"maxReplicas": 9, "external": {"queue": {"averageValue": "1"}}, "behavior": {}})
    )
    case = next(case for case in CASES if "passes every order through" in case.sentence)
    memory, replicas = Memory(), 1
    for second in range(0, 36_000, 15):
        sight = case.ticks[0].build_sight(replicas)
        decision = step(spec, sight, memory, case.settings, float(second))
        memory, replicas = decision.memory, decision.replicas
    assert len(memory.proposals or ()) <= 22
    assert len(memory.ups) + len(memory.downs) <= 4


@pytest.mark.parametrize(
    ("quantity", "milli"), [("1", 1000), ("500m", 500), (3, 3000), ("0.0005", 1), ("2k", 2_000_000), ("1.5", 1500)]
)
def test_quantities_are_read_in_thousandths(quantity: str | int, milli: int) -> None:
    assert parse_milli(quantity) == milli


def test_a_quantity_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'many' is not a quantity"):
        parse_milli("many")


def test_metrics_that_are_not_emulated_are_refused() -> None:
    with pytest.raises(ValueError, match="'Resource' are not emulated"):
        AutoscalerSpec.from_manifest({"maxReplicas": 3, "metrics": [{"type": "Resource"}]})
