"""What text encoders leave out of a prompt, and what of it they don't read, is said with the counts."""

from types import SimpleNamespace

import pytest
from easel_server.engine.prompts.limits import find_prompt_limits

from tests.inference_server.engine.parity.stock import build_engine
from tests.support.tiny_engine import tiny_engine, tiny_parameters

pytestmark = pytest.mark.torch

CHUNK = 75  # tokens, which are characters here: 77 with those that mark beginning and end
TAKEN = 16 * CHUNK


@pytest.mark.parametrize("name", ["sd15", "sdxl", "lcm", "sd3"])
def test_what_is_left_out_of_a_prompt_of_many_chunks_is_warned_of_with_the_counts(name: str) -> None:
    engine = build_engine(name) if name in ("lcm", "sd3") else tiny_engine(name)
    taken = 500 if name == "sd3" else TAKEN
    assert engine.list_warnings(tiny_parameters(prompt="x" * taken)) == ()
    assert engine.list_warnings(tiny_parameters(prompt="x" * (TAKEN + 20)))[0] == (
        "the prompt has 1220 tokens, the model takes 1200: the last 20 have no effect; "
        "shorten it, or put what matters first"
    )


def test_a_negative_prompt_is_warned_of_where_guidance_uses_it() -> None:
    engine, long = tiny_engine(), "x" * (TAKEN + 100)
    [warning] = engine.list_warnings(tiny_parameters(negative_prompt=long))
    assert warning.startswith("the negative prompt has 1300 tokens")
    [warning] = engine.list_warnings(tiny_parameters(negative_prompt=long, guidance_scale=1.0))
    assert warning == "the negative prompt has no effect at a guidance scale of 1; it has one above 1"


def test_what_parts_of_a_prompt_with_empty_sections_are_over_the_bound_is_counted_in_tokens() -> None:
    [warning] = tiny_engine().list_warnings(tiny_parameters(prompt="a BREAK " * 20))
    assert warning.startswith("the prompt has 20 tokens, the model takes 16: the last 4 have no effect")


@pytest.mark.parametrize(("name", "taken"), [("flux", 511), ("pixart-sigma", 299), ("pixart-alpha", 119)])
def test_t5_alone_takes_so_many_tokens_and_weights_as_words(name: str, taken: int) -> None:
    engine = build_engine(name)
    assert engine.list_warnings(tiny_parameters(prompt="x" * (taken - 1))) == ()
    [warning] = engine.list_warnings(tiny_parameters(prompt="x" * taken))  # one more for the beginning of a word
    assert warning.startswith(f"the prompt has {taken + 1} tokens, the model takes {taken}: the last 1 have no effect")
    assert engine.list_warnings(tiny_parameters(prompt="a (cat:1.3) BREAK b")) == (
        "in the prompt, weights such as '(cat:1.3)' aren't applied but taken as words",
        "in the prompt, 'BREAK', which begins a section, isn't applied but taken as a word",
    )


def test_where_clip_and_t5_read_a_prompt_what_each_of_them_does_is_said() -> None:
    engine = build_engine("sd3")
    assert engine.list_warnings(tiny_parameters(prompt="x" * 510)) == ()
    [warning] = engine.list_warnings(tiny_parameters(prompt="x" * 600))
    assert warning.startswith(
        "the prompt has 601 tokens, T5 takes 511: the last 90 are read by the CLIP encoders alone"
    )
    [warning] = engine.list_warnings(tiny_parameters(prompt="a (cat:1.3)"))
    assert warning == "in the prompt, weights have an effect on the CLIP encoders alone, and none on T5"


def test_a_weight_that_is_none_is_said_where_weights_are_read() -> None:
    [warning] = tiny_engine().list_warnings(tiny_parameters(prompt="a cat (at 10:30)"))
    assert warning == "in the prompt, ':30)' is no weight from -10 to 10: it is taken as words, in parentheses"
    assert tiny_engine().list_warnings(tiny_parameters(prompt=r"(a:1.3) BREAK [b] \(c\)")) == ()


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
    with_t5 = find_prompt_limits(Pipeline(**clip, **t5)).most
    without = find_prompt_limits(Pipeline(**clip, tokenizer_3=1)).most
    assert with_t5 is not None
    assert without is not None
    assert (with_t5.tokens, without.tokens) == (255, CHUNK)


def test_a_pipeline_without_a_known_limit_warns_of_nothing() -> None:
    class Pipeline:
        def __call__(self, prompt: str) -> None: ...

    limits = find_prompt_limits(Pipeline())
    assert (limits.encoding, limits.of_t5, limits.most) == (None, None, None)
