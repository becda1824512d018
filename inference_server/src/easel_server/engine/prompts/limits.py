"""How much of a prompt a pipeline's text encoders take, what they leave out, and which of its signs they don't read."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from easel_server.engine.prompts.encoding import SEQUENCE_LENGTH, ClipEncoding, find_encoding
from easel_server.generation.add_ons import Feature
from easel_server.generation.families import Family
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.prompts.syntax import find_weights, parse_prompt

TEXT_ENCODERS: Final = ("", "_2", "_3")  # tokenizer, tokenizer_2, … and the encoders of the same numbers
MAX_KNOWN_LENGTH: Final = 1_000_000  # transformers' tokenizers say 10^30 where nothing is known


@dataclass(frozen=True)
class PromptLimit:
    """Of one encoder."""

    tokenizer: Any
    tokens: int  # without those that mark beginning and end

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)


@dataclass(frozen=True)
class PromptLimits:
    """Of a pipeline: what its CLIP encoders take in chunks, with weights; else how much each encoder takes."""

    encoding: ClipEncoding | None
    of_t5: PromptLimit | None
    most: PromptLimit | None  # of the encoder that takes most: what that one leaves out, no other has either

    @property
    def features(self) -> tuple[Feature, ...]:
        """What follows for the model."""
        return () if self.encoding is None else (Feature.CLIP_SKIP, Feature.LONG_PROMPTS)

    def choose_length(self, parameters: GenerationParameters, family: Family) -> dict[str, Any]:
        """Arguments of a call whose prompts are longer than T5 is given by default, where it may be given more."""
        longer = family.long_prompt_tokens
        if longer is None or self.of_t5 is None:
            return {}
        counts = [self.of_t5.count(parse_prompt(text).text) for _, text in _list_prompts(parameters, family)]
        return {SEQUENCE_LENGTH: longer} if max(counts) > self.of_t5.tokens else {}

    def list_warnings(self, parameters: GenerationParameters, family: Family) -> tuple[str, ...]:
        """What of a job's prompts has no effect, in sentences. A negative prompt counts where it has one."""
        prompts = _list_prompts(parameters, family)
        if self.encoding is None:
            return tuple(warning for name, text in prompts for warning in self._describe_words(name, text))
        return tuple(warning for name, text in prompts for warning in self._describe_chunks(name, text, family))

    def _describe_words(self, name: str, text: str) -> Iterator[str]:
        for warning in find_weights(text):
            yield f"in the {name}, {warning}"
        if self.most is not None and (tokens := self.most.count(text)) > self.most.tokens:
            yield _describe_cut(name, tokens, self.most.tokens)

    def _describe_chunks(self, name: str, text: str, family: Family) -> Iterator[str]:
        if self.encoding is None or self.encoding.is_stock(text):
            return
        parsed = parse_prompt(text)
        for oddity in parsed.oddities:
            yield f"in the {name}, {oddity}"
        cut = self.encoding.cut(text)
        if cut.left_out:
            yield _describe_cut(name, cut.tokens, cut.tokens - cut.left_out)
        if self.of_t5 is None:
            return
        if parsed.is_weighted:
            yield f"in the {name}, weights have an effect on the CLIP encoders alone, and none on T5"
        longer = (family.long_prompt_tokens or 0) - self.of_t5.tokenizer.num_special_tokens_to_add()
        taken = max(self.of_t5.tokens, longer)
        if (tokens := self.of_t5.count(parsed.text)) > taken:
            yield (
                f"the {name} has {tokens} tokens, T5 takes {taken}: the last {tokens - taken} are read by the CLIP "
                "encoders alone; shorten it, or put what matters first"
            )


def find_prompt_limits(pipeline: Any) -> PromptLimits:
    """Of a loaded pipeline."""
    argument = inspect.signature(pipeline.__call__).parameters.get(SEQUENCE_LENGTH)
    sequence_length = argument.default if argument is not None and isinstance(argument.default, int) else None
    limits, of_t5 = [], None
    for number in TEXT_ENCODERS:
        tokenizer = getattr(pipeline, f"tokenizer{number}", None)
        if tokenizer is None or getattr(pipeline, f"text_encoder{number}", None) is None:
            continue
        tokens = int(min(tokenizer.model_max_length, MAX_KNOWN_LENGTH))
        is_t5 = "t5" in type(tokenizer).__name__.lower()
        if sequence_length is not None and is_t5:
            tokens = sequence_length
        if tokens < MAX_KNOWN_LENGTH:
            limits.append(PromptLimit(tokenizer, tokens - tokenizer.num_special_tokens_to_add()))
            of_t5 = limits[-1] if is_t5 else of_t5
    return PromptLimits(find_encoding(pipeline), of_t5, max(limits, key=lambda limit: limit.tokens, default=None))


def _list_prompts(parameters: GenerationParameters, family: Family) -> list[tuple[str, str]]:
    prompts = [("prompt", parameters.prompt)]
    if family.count_passes(parameters.guidance_scale, parameters.negative_prompt) > 1:
        prompts.append(("negative prompt", parameters.negative_prompt))
    return prompts


def _describe_cut(name: str, tokens: int, taken: int) -> str:
    return (
        f"the {name} has {tokens} tokens, the model takes {taken}: the last {tokens - taken} have no effect; "
        "shorten it, or put what matters first"
    )
