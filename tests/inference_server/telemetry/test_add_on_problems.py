"""What a worker's page says of add-ons that requests can't have."""

from collections.abc import Iterator

from easel_contract import metrics as contract
from easel_contract.add_ons import AddOnConfig
from easel_server.telemetry.add_on_problems import KEEP_SECONDS, MAX_PROBLEMS, AddOnProblems
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

INK = AddOnConfig(name="ink", source="someone/ink")
CLAY = AddOnConfig(name="clay", source="/add-ons/loras", file="clay.safetensors")


def said_by(problems: AddOnProblems) -> Iterator[dict[str, str]]:
    registry = CollectorRegistry()
    registry.register(problems)
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        yield from (sample.labels for sample in family.samples)


def test_the_page_names_an_add_on_its_source_and_why_in_one_line() -> None:
    problems = AddOnProblems()
    problems.note_met(INK, 'ink (someone/ink):\n  "gated"')
    assert list(said_by(problems)) == [
        {
            contract.LABEL_NAME: "ink",
            contract.LABEL_KEY: INK.key,
            contract.LABEL_MESSAGE: 'ink (someone/ink): "gated"',
        }
    ]


def test_a_job_that_has_an_add_on_ends_what_an_earlier_one_met() -> None:
    problems = AddOnProblems()
    problems.note_met(INK, "gated")
    problems.note_usable(INK)
    assert problems.list_problems() == []


def test_a_file_that_is_there_again_doesnt_end_that_a_job_couldnt_read_it() -> None:
    problems = AddOnProblems()
    problems.set_missing({CLAY: "it isn't there"})
    problems.note_met(CLAY, "it is no LoRA")
    problems.set_missing({})
    assert [each.message for each in problems.list_problems()] == ["it is no LoRA"]


def test_what_a_job_met_is_forgotten_after_an_hour_in_which_nobody_asked() -> None:
    now = 0.0
    problems = AddOnProblems(lambda: now)
    problems.note_met(INK, "gated")
    now = KEEP_SECONDS
    assert len(problems.list_problems()) == 1
    now = KEEP_SECONDS + 1
    assert problems.list_problems() == []


def test_a_volume_that_isnt_there_makes_no_endless_page() -> None:
    problems = AddOnProblems()
    many = [AddOnConfig(name=f"style {number}", source="/gone", file=str(number)) for number in range(500)]
    problems.set_missing(dict.fromkeys(many, "it isn't there " * 100))
    for each in many:
        problems.note_met(each, "it isn't there")
    assert len(list(said_by(problems))) == MAX_PROBLEMS
    assert max(len(each.message) for each in problems.list_problems()) <= 400
