"""What a text encoder leaves out of a prompt is counted, by the tokenizers of real pipelines."""

from types import SimpleNamespace

import pytest
from easel_server.engine.prompt_length import find_prompt_limit

from tests.support.tiny_engine import tiny_engine, tiny_parameters

pytestmark = pytest.mark.torch

TAKEN = 75  # tokens, which are characters here: 77 with those that mark beginning and end


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_prompt_that_is_cut_is_warned_of_with_the_counts(name: str) -> None:
    engine = tiny_engine(name)
    assert engine.list_warnings(tiny_parameters(prompt="x" * TAKEN)) == ()
    assert engine.list_warnings(tiny_parameters(prompt="x" * (TAKEN + 20))) == (
        "the prompt has 95 tokens, the model takes 75: the last 20 have no effect; "
        "shorten it, or put what matters first",
    )


def test_a_negative_prompt_is_warned_of_where_guidance_uses_it() -> None:
    engine, long = tiny_engine(), "x" * 100
    [warning] = engine.list_warnings(tiny_parameters(negative_prompt=long))
    assert warning.startswith("the negative prompt has 100 tokens")
    [warning] = engine.list_warnings(tiny_parameters(negative_prompt=long, guidance_scale=1.0))
    assert warning == "the negative prompt has no effect at a guidance scale of 1; it has one above 1"


def test_the_encoder_that_takes_most_decides_and_one_that_is_absent_does_not() -> None:
    class T5Tokenizer:
        model_max_length = 10**30

        def num_special_tokens_to_add(self) -> int:
            return 1

    class Pipeline(SimpleNamespace):
        def __call__(self, prompt: str, max_sequence_length: int = 256) -> None:
            """As Stable Diffusion 3 has it."""

    from tests.support.tiny_models import build_tokenizer  # noqa: PLC0415  # loads torch

    clip = {"tokenizer": build_tokenizer(), "text_encoder": object()}
    t5 = {"tokenizer_3": T5Tokenizer(), "text_encoder_3": object()}
    with_t5, without = find_prompt_limit(Pipeline(**clip, **t5)), find_prompt_limit(Pipeline(**clip, tokenizer_3=1))
    assert with_t5 is not None
    assert without is not None
    assert (with_t5.tokens, without.tokens) == (255, TAKEN)


def test_a_pipeline_without_a_known_limit_warns_of_nothing() -> None:
    class Pipeline:
        def __call__(self, prompt: str) -> None: ...

    assert find_prompt_limit(Pipeline()) is None
