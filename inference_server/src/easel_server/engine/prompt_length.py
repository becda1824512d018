"""How much of a prompt a pipeline's text encoders take, and what they leave out."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from easel_server.generation.families import Family
from easel_server.generation.parameters import GenerationParameters

TEXT_ENCODERS: Final = ("", "_2", "_3")  # tokenizer, tokenizer_2, … and the encoders of the same numbers
SEQUENCE_ARGUMENT: Final = "max_sequence_length"  # of pipelines with a T5 encoder: what they cut its prompts to
MAX_KNOWN_LENGTH: Final = 1_000_000  # transformers' tokenizers say 10^30 where nothing is known


@dataclass(frozen=True)
class PromptLimit:
    """Of the encoder that takes most of a prompt: what that one leaves out, no other has either."""

    tokenizer: Any
    tokens: int  # without those that mark beginning and end

    def describe_cut(self, name: str, prompt: str) -> str | None:
        """What is left out of a prompt, if anything is."""
        tokens = len(self.tokenizer(prompt, add_special_tokens=False, truncation=False).input_ids)
        if tokens <= self.tokens:
            return None
        return (
            f"the {name} has {tokens} tokens, the model takes {self.tokens}: the last {tokens - self.tokens} have no "
            "effect; shorten it, or put what matters first"
        )


def find_prompt_limit(pipeline: Any) -> PromptLimit | None:
    """Of a loaded pipeline; None where nothing is known."""
    argument = inspect.signature(pipeline.__call__).parameters.get(SEQUENCE_ARGUMENT)
    sequence_length = argument.default if argument is not None and isinstance(argument.default, int) else None
    limits = []
    for number in TEXT_ENCODERS:
        tokenizer = getattr(pipeline, f"tokenizer{number}", None)
        if tokenizer is None or getattr(pipeline, f"text_encoder{number}", None) is None:
            continue
        tokens = int(min(tokenizer.model_max_length, MAX_KNOWN_LENGTH))
        if sequence_length is not None and "t5" in type(tokenizer).__name__.lower():
            tokens = sequence_length
        if tokens < MAX_KNOWN_LENGTH:
            limits.append(PromptLimit(tokenizer, tokens - tokenizer.num_special_tokens_to_add()))
    return max(limits, key=lambda limit: limit.tokens, default=None)


def list_cuts(limit: PromptLimit | None, parameters: GenerationParameters, family: Family) -> tuple[str, ...]:
    """What is left out of a job's prompts. A negative prompt counts where it has an effect."""
    if limit is None:
        return ()
    is_negative_used = family.count_passes(parameters.guidance_scale, parameters.negative_prompt) > 1
    prompts: Sequence[tuple[str, str]] = (
        ("prompt", parameters.prompt),
        ("negative prompt", parameters.negative_prompt if is_negative_used else ""),
    )
    cuts = (limit.describe_cut(name, prompt) for name, prompt in prompts)
    return tuple(cut for cut in cuts if cut is not None)
