"""What prompts mean in AUTOMATIC1111's syntax: text with weights, in sections. Pure; nothing here raises.

    (a cat)        1.1 times as much attention, (a cat:1.3) 1.3 times, [a cat] a 1.1th; nested ones multiply
    \\( \\) \\[ \\]    parentheses of the prompt's own
    a cat BREAK b  what follows begins a section of its own, which the text encoder sees apart from the rest

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis. Parentheses that are never
closed weigh what follows, to the end; those that were never opened are words, and so is a lone backslash. What there is
besides, schedules ([from:to:0.5], [one|other]) and AND, is done by no engine here and taken as words, with a warning;
<lora:name:1> is of ``prompts/networks.py``. Every pattern takes time linear in the prompt's length.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from easel_server.generation.messages import truncate_repr

STEP: Final = 1.1  # of one pair of parentheses
MAX_WEIGHT: Final = 10.0  # and -10 the least: beyond it an image is noise
# (words:1.3), the inner ones of nested.
WEIGHT: Final = re.compile(r"(?<!\\)\((?:[^()\\]|\\.)*?:\s*+[+-]?(?:\d++\.?\d*+|\.\d++)\s*+\)")
# [from:to:0.5] and [to:10], and [one|other]: words that change under way.
SCHEDULE: Final = re.compile(
    r"(?<!\\)\[(?:(?:[^\[\]\\]|\\.)*?:\s*+(?:\d++\.?\d*+|\.\d++)\s*+|(?:[^\[\]\\|]|\\.)*+\|(?:[^\[\]\\]|\\.)*+)\]"
)
AND: Final = re.compile(r"\bAND\b")
BREAK: Final = re.compile(r"\bBREAK\b")
_SIGN: Final = re.compile(
    r"(?P<escaped>\\[()\[\]\\])|(?P<weight>:\s*+(?P<number>[+-]?(?:\d++\.?\d*+|\.\d++))\s*+\))|(?P<bracket>[()\[\]])"
)
_MULTIPLIERS: Final = {"(": STEP, "[": 1 / STEP}
_OPENING: Final = {")": "(", "]": "["}


@dataclass(frozen=True)
class Weighted:
    """Some text of a prompt, and how much of it is meant."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt's sections, which are one where it has no BREAK; and what of it is taken otherwise than written."""

    sections: tuple[tuple[Weighted, ...], ...]
    oddities: tuple[str, ...] = ()  # in sentences

    @property
    def text(self) -> str:
        """All of its words."""
        return " ".join("".join(span.text for span in section) for section in self.sections)

    @property
    def is_weighted(self) -> bool:
        """Whether any weight isn't 1."""
        return any(span.weight != 1 for section in self.sections for span in section)

    def is_plain(self, prompt: str) -> bool:
        """Whether the prompt that it was read of says just that, without any sign."""
        return len(self.sections) == 1 and self.text == prompt and not self.is_weighted


def parse_prompt(prompt: str) -> ParsedPrompt:
    """What a prompt means."""
    if not any(sign in prompt for sign in ("(", "[", "\\", "BREAK")):
        return ParsedPrompt(((Weighted(prompt),),))
    pieces = list(_split(prompt))
    weights, oddities = _weigh(pieces)
    sections: list[list[Weighted]] = [[]]
    for piece, weight in zip(pieces, weights, strict=True):
        if piece.sign:
            continue
        for number, part in enumerate([piece.text] if piece.is_escaped else BREAK.split(piece.text)):
            if number:
                sections[-1] = _strip(sections[-1], str.rstrip)
                sections.append([])
            # Blanks around BREAK belong to neither side.
            text = part if sections[-1] or len(sections) == 1 else part.lstrip()
            if text and sections[-1] and sections[-1][-1].weight == weight:
                sections[-1][-1] = Weighted(sections[-1][-1].text + text, weight)
            elif text:
                sections[-1].append(Weighted(text, weight))
    return ParsedPrompt(tuple(tuple(section) for section in sections), oddities)


def find_words(text: str) -> tuple[str, ...]:
    """What a prompt means by signs that no engine reads; each kind once, by its first example."""
    warnings: list[str] = []
    if "[" in text:
        warnings += _describe(SCHEDULE.findall(text), "changes under way such as {} aren't applied but taken as words")
    if "AND" in text:
        warnings += _describe(AND.findall(text), "{}, which composes prompts, isn't applied but taken as a word")
    return tuple(warnings)


def find_weights(text: str) -> tuple[str, ...]:
    """What a prompt means by signs that an engine without weights takes as words."""
    warnings: list[str] = []
    if "(" in text:
        warnings += _describe(WEIGHT.findall(text), "weights such as {} aren't applied but taken as words")
    if "BREAK" in text:
        warnings += _describe(BREAK.findall(text), "{}, which begins a section, isn't applied but taken as a word")
    return tuple(warnings)


def _describe(found: Sequence[str], sentence: str) -> Iterator[str]:
    if found:
        yield sentence.format(truncate_repr(found[0])) + (f", {len(found)} times" if len(found) > 1 else "")


@dataclass(frozen=True)
class _Piece:
    """Some text, or a parenthesis that means something: ``sign``."""

    text: str
    sign: str = ""
    number: float | None = None  # of a closing one: what it says that the weight is
    unusable: str = ""  # what it says that can't be one
    is_escaped: bool = False


def _split(prompt: str) -> Iterator[_Piece]:
    schedules = {end for found in SCHEDULE.finditer(prompt) for end in (found.start(), found.end() - 1)}
    done = 0
    for found in _SIGN.finditer(prompt):
        if found.start() > done:
            yield _Piece(prompt[done : found.start()])
        done = found.end()
        if found["escaped"]:
            yield _Piece(found[0][1:], is_escaped=True)
        elif found["weight"] and abs(number := float(found["number"])) <= MAX_WEIGHT:
            yield _Piece(found[0], ")", number)
        elif found["weight"]:
            yield _Piece(found[0][:-1])
            yield _Piece(")", ")", unusable=found[0])
        elif found.start() in schedules:
            yield _Piece(found[0])
        else:
            yield _Piece(found[0], found[0])
    if done < len(prompt):
        yield _Piece(prompt[done:])


def _weigh(pieces: list[_Piece]) -> tuple[list[float], tuple[str, ...]]:
    """The weight of each piece. Signs that turn out to be words become such in the list."""
    multipliers, oddities = _pair(pieces)
    weights: list[float] = []
    # Parentheses and brackets needn't be nested into each other, so there are two stacks of products.
    products: dict[str, list[float]] = {"(": [1.0], "[": [1.0]}
    is_bounded = False
    for number, piece in enumerate(pieces):
        if piece.sign in products:
            product = products[piece.sign][-1] * multipliers.get(number, _MULTIPLIERS[piece.sign])
            products[piece.sign].append(max(-MAX_WEIGHT, min(MAX_WEIGHT, product)))
            is_bounded |= abs(product) > MAX_WEIGHT
        elif piece.sign:
            products[_OPENING[piece.sign]].pop()
        weight = products["("][-1] * products["["][-1]
        weights.append(max(-MAX_WEIGHT, min(MAX_WEIGHT, weight)))
    if is_bounded:
        oddities.append(f"weights that are more than {MAX_WEIGHT:g} together are taken as that")
    return weights, tuple(oddities)


def _pair(pieces: list[_Piece]) -> tuple[dict[int, float], list[str]]:
    """What those that open multiply by, where they were closed with a number; by their places in the list."""
    opened: dict[str, list[int]] = {"(": [], "[": []}
    multipliers: dict[int, float] = {}
    unusable: list[str] = []
    for number, piece in enumerate(pieces):
        if piece.sign in opened:
            opened[piece.sign].append(number)
        elif piece.sign and not opened[_OPENING[piece.sign]]:
            pieces[number] = _Piece(piece.text)  # closes nothing
        elif piece.sign:
            opening = opened[_OPENING[piece.sign]].pop()
            if piece.number is not None:
                multipliers[opening] = piece.number
            elif piece.unusable:
                unusable.append(piece.unusable)
    oddities = list(
        _describe(
            unusable,
            f"{{}} is no weight from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}: it is taken as words, in parentheses",
        )
    )
    return multipliers, oddities


def _strip(section: list[Weighted], strip: Callable[[str], str]) -> list[Weighted]:
    """Without blanks at its end."""
    while section and not (text := strip(section[-1].text)):
        section = section[:-1]
    return [*section[:-1], Weighted(text, section[-1].weight)] if section else []
