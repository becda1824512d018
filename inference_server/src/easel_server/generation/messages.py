"""Values of requests as they may be quoted in messages. Pure."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from easel_contract.server_config import SafetyPolicy

SHOWN_CHARACTERS = 80  # of a value that is refused
# What a job keeps, and a header has room for beside everything else: 4 KiB together.
MAX_WARNINGS: Final = 10
MAX_WARNING_CHARACTERS: Final = 400


MAX_NAMED: Final = 50  # of what there is, in a message


def refuse_name(name: str, known: Sequence[str], kind: str) -> str:
    """What is wrong with a name that nothing of this kind has."""
    shown = ", ".join(known[:MAX_NAMED]) + (f" and {len(known) - MAX_NAMED} more" if len(known) > MAX_NAMED else "")
    allowed = f"allowed are {shown}" if known else "there are none here"
    return f"asks for {truncate_repr(name)}, which is no {kind} of this service; {allowed}"


def truncate_repr(value: Any) -> str:
    """A value as it may be quoted in a message: short."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes
        return "a number with thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text)} characters)"


def bound_warnings(warnings: Sequence[str]) -> tuple[str, ...]:
    """Each once, in their order, MAX_WARNINGS of them; the last says so if there are more. Long ones are cut."""
    cut = tuple(dict.fromkeys(_cut_warning(warning) for warning in warnings))
    if len(cut) <= MAX_WARNINGS:
        return cut
    left_out = len(cut) - MAX_WARNINGS + 1
    return (*cut[: MAX_WARNINGS - 1], f"{left_out} further warnings are left out")


def _cut_warning(warning: str) -> str:
    return warning if len(warning) <= MAX_WARNING_CHARACTERS else f"{warning[: MAX_WARNING_CHARACTERS - 1]}…"


# Filled with the model's name.
MODEL_UNSERVED: Final = "this service no longer serves model %s; submit the request again"
DEADLINE_PASSED: Final = (
    "the deadline passed before the job was finished; allow it more time, or add workers if jobs wait long"
)
# Filled with the number of attempts and the last worker's name.
LOST: Final = (
    "its worker was lost %s times while it ran this job, the last one was %s; the job may need more memory than a "
    "worker has: ask for fewer images or pixels, or look at why that pod ended"
)
INPUTS_GONE: Final = "its input images are gone from where they are kept; submit the request again"
RECORD_DAMAGED: Final = "what Redis kept of this request is damaged; submit it again"


# What the model's safety checker flags. The sentence is a warning of the job, so it goes where those go: into each
# answer, and into the cache with images.
CONTENT_REFUSED: Final = "NSFW content: "  # how the error of a job begins that was refused for its images
_WHAT_BECAME: Final[Mapping[SafetyPolicy, str]] = MappingProxyType(
    {
        SafetyPolicy.FLAG: "which are given as they are",
        SafetyPolicy.BLUR: "which are blurred",
        SafetyPolicy.REFUSE: "and this service refuses such images; change the prompt, or the seed",
    }
)
_FLAGGED: Final = re.compile(r"the model's safety checker flagged ([0-9 ,]+) of [0-9]+ images, which")
_SAID: Final = re.compile(r"the model's safety checker flagged ([0-9 ,]+) of [0-9]+ images, (.*)")


def describe_flagged(flagged: Sequence[int], images: int, policy: SafetyPolicy) -> str:
    """The sentence; ``flagged`` are indices, which people count from 1. Empty if there are none."""
    if not flagged:
        return ""
    numbers = ", ".join(str(index + 1) for index in flagged)
    said = f"the model's safety checker flagged {numbers} of {images} images, {_WHAT_BECAME[policy]}"
    return CONTENT_REFUSED + said if policy is SafetyPolicy.REFUSE else said


def count_flagged(said: Sequence[str]) -> Mapping[SafetyPolicy, int]:
    """How many images were flagged, by what became of them, of a job's warnings or its error."""
    found = (_SAID.search(each) for each in said)
    policies = {text: policy for policy, text in _WHAT_BECAME.items()}
    return {policies[match[2]]: match[1].count(",") + 1 for match in found if match and match[2] in policies}


def find_flagged(warnings: Sequence[str]) -> frozenset[int]:
    """The indices of flagged images, of a job's own warnings of its generation."""
    found = (_FLAGGED.match(warning) for warning in warnings)
    return frozenset(int(number) - 1 for match in found if match for number in match[1].split(","))
