"""What prompts say in AUTOMATIC1111's syntax means what it means there, and what only looks like it is words."""

import time

import pytest
from easel_server.generation.prompts.syntax import (
    MAX_WEIGHT,
    STEP,
    Weighted,
    find_weights,
    find_words,
    parse_prompt,
)
from hypothesis import given
from hypothesis import strategies as st

SIGNS = st.lists(
    st.sampled_from(
        ["(", ")", "[", "]", "\\", ":", ":1.3)", ":-2)", ":99)", "|", " ", "a", "b,", "BREAK", " BREAK ", "1"]
    ),
    max_size=60,
).map("".join)
PROMPTS = st.one_of(SIGNS, st.text(max_size=200))
WORDS = st.text(st.characters(exclude_characters="()[]\\"), max_size=30).filter(lambda text: "BREAK" not in text)


def weigh(prompt: str) -> list[tuple[str, float]]:
    """The spans of a prompt of one section, weights to six digits."""
    [section] = parse_prompt(prompt).sections
    return [(span.text, round(span.weight, 6)) for span in section]


@pytest.mark.parametrize(
    ("prompt", "spans"),
    [
        ("a (cat) on a mat", [("a ", 1), ("cat", 1.1), (" on a mat", 1)]),
        ("a (cat:1.3), happy", [("a ", 1), ("cat", 1.3), (", happy", 1)]),
        ("a [cat]", [("a ", 1), ("cat", round(1 / 1.1, 6))]),
        ("((a))", [("a", 1.21)]),
        ("[[a]]", [("a", round(1 / 1.21, 6))]),
        ("(a (b:1.5) c:1.2)", [("a ", 1.2), ("b", 1.8), (" c", 1.2)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", round(1 / 1.1, 6))]),  # they needn't be nested into each other
        ("(a : .5 )(b:+2)", [("a ", 0.5), ("b", 2)]),
        ("(a:0) (b:-1)", [("a", 0), (" ", 1), ("b", -1)]),
        (r"saber \(fate\)", [("saber (fate)", 1)]),
        (r"(saber \(fate\):1.2)", [("saber (fate)", 1.2)]),
        (r"\[a\] \\", [("[a] \\", 1)]),
        ("a (b", [("a ", 1), ("b", 1.1)]),
        ("a) b]:1.3)", [("a) b]:1.3)", 1)]),
        ("(a:1.3", [("a:1.3", 1.1)]),
        ("(ratio 4:three)", [("ratio 4:three", 1.1)]),
        ("smile :) (x)", [("smile :) ", 1), ("x", 1.1)]),
        (r"\o/", [(r"\o/", 1)]),
        ("[dog:cat:0.5] (x:2)", [("[dog:cat:0.5] ", 1), ("x", 2)]),
        ("(a [b|c]:1.2)", [("a [b|c]", 1.2)]),
        ("", [("", 1)]),
        ("()", []),
    ],
)
def test_a_prompt_means_what_it_means_to_automatic1111(prompt: str, spans: list[tuple[str, float]]) -> None:
    assert weigh(prompt) == spans


def test_break_begins_a_section_and_takes_the_blanks_around_it_along() -> None:
    parsed = parse_prompt("a cat  BREAK  (a dog BREAK a bird:1.2) on BREAKS\nBREAK")
    assert parsed.sections == (
        (Weighted("a cat"),),
        (Weighted("a dog", 1.2),),
        (Weighted("a bird", 1.2), Weighted(" on BREAKS")),
        (),
    )


def test_a_number_that_is_no_weight_is_words_and_said() -> None:
    parsed = parse_prompt("a cat (at 10:30) in the morning")
    assert parsed.sections == ((Weighted("a cat "), Weighted("at 10:30", STEP), Weighted(" in the morning")),)
    assert parsed.oddities == ("':30)' is no weight from -10 to 10: it is taken as words, in parentheses",)


@pytest.mark.parametrize("depth", [1, 30, 3000])
def test_however_deep_parentheses_are_no_weight_is_beyond_the_bound(depth: int) -> None:
    parsed = parse_prompt("(" * depth + "a" + ")" * depth)
    [[span]] = parsed.sections
    assert span.weight == pytest.approx(min(MAX_WEIGHT, STEP**depth))
    assert bool(parsed.oddities) == (STEP**depth > MAX_WEIGHT)


@given(PROMPTS)
def test_any_text_is_a_prompt(prompt: str) -> None:
    parsed = parse_prompt(prompt)
    find_words(prompt)
    find_weights(prompt)
    for span in (span for section in parsed.sections for span in section):
        assert abs(span.weight) <= MAX_WEIGHT
        assert len(span.text) <= len(prompt)
    if parsed.is_plain(prompt):
        assert parsed.sections == ((Weighted(prompt),),)


@given(PROMPTS)
def test_escaped_it_says_exactly_what_it_is(prompt: str) -> None:
    escaped = "".join(f"\\{sign}" if sign in "()[]\\" else sign for sign in prompt.replace("BREAK", "break"))
    assert parse_prompt(escaped).text == prompt.replace("BREAK", "break")
    assert not parse_prompt(escaped).is_weighted


@given(WORDS.filter(bool), st.integers(-40, 40))
def test_a_weight_around_it_multiplies_what_is_inside(words: str, quarters: int) -> None:
    inside = [span for section in parse_prompt(f"(x{words}y:{quarters / 4})").sections for span in section]
    assert {span.weight for span in inside} == {quarters / 4}
    assert "".join(span.text for span in inside) == f"x{words}y"


@pytest.mark.parametrize(
    ("prompt", "example"),
    [
        ("a (cat:1.3) on a mat", "'(cat:1.3)'"),
        ("a ((red (cat:1.2)) on:.5 ) mat", "'(cat:1.2)'"),
        (r"a (cat \(black\): 0.9)", r"'(cat \\(black\\): 0.9)'"),
        ("(ein Kätzchen\nauf:1)", r"'(ein Kätzchen\nauf:1)'"),
        ("a cat BREAK a dog", "'BREAK'"),
    ],
)
def test_what_an_engine_without_weights_takes_as_words_is_found(prompt: str, example: str) -> None:
    [warning] = find_weights(prompt)
    assert example in warning


@pytest.mark.parametrize(
    ("prompt", "example"),
    [
        ("[dog:cat:0.5] on a mat", "'[dog:cat:0.5]'"),
        ("a [cat:10]", "'[cat:10]'"),
        ("a [cow|horse] in a field", "'[cow|horse]'"),
        ("a cat AND a dog", "'AND'"),
    ],
)
def test_schedules_and_composed_prompts_are_named_for_every_engine(prompt: str, example: str) -> None:
    [warning] = find_words(prompt)
    assert example in warning


@pytest.mark.parametrize(
    "prompt", ["a cat (black)", r"a \(black:1.3\)", "(ratio 4:three)", "a (cat:1.3", "[a list] AN AND1", ""]
)
def test_other_words_are_words(prompt: str) -> None:
    assert find_words(prompt) == find_weights(prompt) == ()


def test_several_are_one_warning_with_their_number() -> None:
    assert find_weights("(a:1.1) (b:1.2) [c:d:3]") == (
        "weights such as '(a:1.1)' aren't applied but taken as words, 2 times",
    )
    assert find_words("(a:1.1) (b:1.2) [c:d:3]") == (
        "changes under way such as '[c:d:3]' aren't applied but taken as words",
    )


@pytest.mark.parametrize(
    "piece",
    ["(", "(:", "(a:1", r"(\(", "[:", "(: ", "(a:1 ", "(:1.1", "[|", "[a|", "(:1", "1", " ", "[:1", "BREAK "],
)
@pytest.mark.parametrize("start", ["", "(:", "[:", "[a|"])
def test_hostile_prompts_take_no_time(piece: str, start: str) -> None:
    """A quarter of a second at three times what may be allowed; patterns that look back take minutes."""
    prompt = start + piece * (96_000 // len(piece))
    began = time.thread_time()
    find_words(prompt)
    find_weights(prompt)
    parse_prompt(prompt)
    assert time.thread_time() - began < 20
