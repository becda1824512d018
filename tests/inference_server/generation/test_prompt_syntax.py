"""What prompts say in AUTOMATIC1111's syntax is found, and what only looks like it isn't."""

import time

import pytest
from easel_server.generation.prompt_syntax import find_words


@pytest.mark.parametrize(
    ("prompt", "example"),
    [
        ("a (cat:1.3) on a mat", "'(cat:1.3)'"),
        ("a ((red (cat:1.2)) on:.5 ) mat", "'(cat:1.2)'"),
        (r"a (cat \(black\): 0.9)", r"'(cat \\(black\\): 0.9)'"),
        ("a cat (at 10:30) in the morning", "'(at 10:30)'"),  # to AUTOMATIC1111 too
        ("[dog:cat:0.5] on a mat", "'[dog:cat:0.5]'"),
        ("(ein Kätzchen\nauf:1)", r"'(ein Kätzchen\nauf:1)'"),
    ],
)
def test_weights_and_schedules_are_found(prompt: str, example: str) -> None:
    [warning] = find_words(prompt)
    assert example in warning


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat (black)",
        r"a cat \(black:1.3\)",
        "(ratio 4:three)",
        "a (cat:1.3",
        "[a list] of [things]",
        "",
    ],
)
def test_other_parentheses_are_words(prompt: str) -> None:
    assert find_words(prompt) == ()


def test_several_are_one_warning_with_their_number() -> None:
    assert find_words("(a:1.1) (b:1.2) [c:d:3]") == (
        "weights such as '(a:1.1)' aren't applied but taken as words, 2 times",
        "changes under way such as '[c:d:3]' aren't applied but taken as words",
    )


@pytest.mark.parametrize("piece", ["(", "(:", "(a:1", r"(\(", "[:", "<lora:", "(: ", "(a:1 ", "(:1.1"])
def test_hostile_prompts_take_no_time(piece: str) -> None:
    prompt = piece * (100_000 // len(piece))
    began = time.process_time()
    find_words(prompt)
    assert time.process_time() - began < 2
