"""A parsed prompt as the chunks that a CLIP text encoder takes, one after another. No torch.

As AUTOMATIC1111 cuts them: an encoder takes 77 tokens, two of which mark beginning and end, so 75 at a time; a cut goes
behind a comma if one is among the last 20 tokens before it, and BREAK begins a new chunk.
https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#infinite-prompt-length
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from easel_server.generation.prompts.syntax import ParsedPrompt

MAX_CHUNKS: Final = 16  # of a prompt: each is a pass of the text encoder, and cross-attention takes as much longer
LOOK_BACK_TOKENS: Final = 20  # for a comma
COMMA: Final = ","


@dataclass(frozen=True)
class Chunk:
    """As many tokens as an encoder takes, those that mark beginning and end and the filling among them."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]  # of each, 1 for those that are no words


@dataclass(frozen=True)
class Chunks:
    """Of a prompt, at least one; and how many of its tokens aren't in them."""

    chunks: tuple[Chunk, ...]
    tokens: int  # of the whole prompt
    left_out: int


Token = tuple[int, float]  # its id and its weight


def build_chunks(parsed: ParsedPrompt, tokenizer: Any) -> Chunks:
    """The first MAX_CHUNKS of a prompt, by one of transformers' CLIP tokenizers."""
    size = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    sections = list(_tokenize(parsed, tokenizer))
    comma = tokenizer(COMMA, add_special_tokens=False).input_ids
    cut = [part for section in sections for part in _cut(section, size, set(comma) if len(comma) == 1 else set())]
    kept = cut[:MAX_CHUNKS]
    return Chunks(
        tuple(_fill(part, size, tokenizer) for part in kept),
        tokens=sum(map(len, sections)),
        left_out=sum(map(len, cut[MAX_CHUNKS:])),
    )


def _tokenize(parsed: ParsedPrompt, tokenizer: Any) -> Iterator[list[Token]]:
    texts = [span.text for section in parsed.sections for span in section]
    encoded = iter(
        tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False).input_ids if texts else []
    )
    for section in parsed.sections:
        yield [(token, span.weight) for span in section for token in next(encoded)]


def _cut(tokens: Sequence[Token], size: int, commas: set[int]) -> Iterator[list[Token]]:
    """A section in parts; one that is empty is a part, too."""
    start = 0
    while True:
        end = start + size
        if end >= len(tokens):
            yield list(tokens[start:])
            return
        if tokens[end][0] not in commas:
            places = range(end - 1, max(start, end - LOOK_BACK_TOKENS) - 1, -1)
            end = next((place + 1 for place in places if tokens[place][0] in commas), end)
        yield list(tokens[start:end])
        start = end


def _fill(tokens: Sequence[Token], size: int, tokenizer: Any) -> Chunk:
    missing = size - len(tokens)
    padding = tokenizer.pad_token_id
    ids = (tokenizer.bos_token_id, *(token for token, _ in tokens), tokenizer.eos_token_id, *(padding,) * missing)
    return Chunk(ids, (1.0, *(weight for _, weight in tokens), 1.0, *(1.0,) * missing))
