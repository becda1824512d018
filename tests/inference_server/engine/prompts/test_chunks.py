"""Where a prompt is cut into chunks, as AUTOMATIC1111 cuts it."""

import pytest
from easel_server.engine.prompts.chunks import MAX_CHUNKS, Chunk, build_chunks
from easel_server.generation.prompts.syntax import parse_prompt
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.torch

ROOM = 75  # of 77 tokens, which are characters here


class Tokenizers:
    """Of a CLIP model, made once."""

    def __init__(self) -> None:
        from tests.support.tiny_models import build_tokenizer  # noqa: PLC0415  # loads torch

        self.own = build_tokenizer()
        self.with_other_padding = build_tokenizer(pad_token="!")


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    return Tokenizers()


def read_words(chunk: Chunk, tokenizer: object) -> str:
    """What is between the marks, without blanks, in which the tokenizer has no interest."""
    end = chunk.ids.index(tokenizer.eos_token_id)  # type: ignore[attr-defined]
    return "".join(tokenizer.convert_ids_to_tokens(list(chunk.ids[1:end]))).replace("</w>", "")  # type: ignore[attr-defined]


def cut(prompt: str, tokenizers: Tokenizers) -> list[str]:
    return [read_words(chunk, tokenizers.own) for chunk in build_chunks(parse_prompt(prompt), tokenizers.own).chunks]


@pytest.mark.parametrize(
    ("prompt", "chunks"),
    [
        ("", [""]),
        ("x" * 75, ["x" * 75]),
        ("x" * 76, ["x" * 75, "x"]),
        ("x" * 60 + "," + "y" * 20, ["x" * 60 + ",", "y" * 20]),  # the comma is among the last 20
        ("x" * 54 + "," + "y" * 21, ["x" * 54 + "," + "y" * 20, "y"]),  # one further away isn't looked for
        ("x" * 74 + "," + "y", ["x" * 74 + ",", "y"]),
        ("x" * 60 + "," + "y" * 14 + ",z", ["x" * 60 + "," + "y" * 14, ",z"]),  # a comma itself is no reason to look
        ("a BREAK b", ["a", "b"]),
        ("a BREAK", ["a", ""]),
        ("x" * 76 + " BREAK b", ["x" * 75, "x", "b"]),
    ],
)
def test_a_prompt_is_cut_behind_commas_and_at_breaks(prompt: str, chunks: list[str], tokenizers: Tokenizers) -> None:
    assert cut(prompt, tokenizers) == chunks


def test_a_chunk_has_marks_and_is_filled_up_as_the_pipelines_fill_it(tokenizers: Tokenizers) -> None:
    for tokenizer in (tokenizers.own, tokenizers.with_other_padding):
        [chunk] = build_chunks(parse_prompt("a (bc:1.3)"), tokenizer).chunks
        stock = tokenizer("a bc", padding="max_length", max_length=77, truncation=True).input_ids
        assert list(chunk.ids) == stock
        assert chunk.weights == (1, 1, 1.3, 1.3, *(1,) * 73)


def test_no_more_chunks_than_the_bound_are_made_and_the_rest_is_counted(tokenizers: Tokenizers) -> None:
    made = build_chunks(parse_prompt("ab BREAK " * 1000), tokenizers.own)
    assert (len(made.chunks), made.tokens, made.left_out) == (MAX_CHUNKS, 2000, 2 * (1000 - MAX_CHUNKS))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["abc, ", "x" * 30, "y", ",", "(z:1.2) ", "[w] ", " BREAK "]), max_size=40).map("".join)
)
def test_no_word_is_lost_or_moved(prompt: str) -> None:
    from tests.support.tiny_models import build_tokenizer  # noqa: PLC0415  # loads torch

    tokenizer = build_tokenizer()
    made = build_chunks(parse_prompt(prompt), tokenizer)
    assert all(len(chunk.ids) == len(chunk.weights) == 77 for chunk in made.chunks)
    if not made.left_out:
        words = "".join(read_words(chunk, tokenizer) for chunk in made.chunks)
        assert words == parse_prompt(prompt).text.replace(" ", "")
