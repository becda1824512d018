"""What is said of images that the model's safety checker flags: which they are, in a sentence, and back. Pure.

The sentence is a warning of the job, so it goes where those go: into each answer, and into the cache with images.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from easel_contract.server_config import SafetyPolicy

DEFAULT_POLICY: Final = SafetyPolicy.BLUR  # of a model that is published with a checker
CONTENT_REFUSED: Final = "NSFW content: "  # how the error of a job begins that was refused for its images
_WHAT_BECAME: Final[Mapping[SafetyPolicy, str]] = MappingProxyType(
    {
        SafetyPolicy.FLAG: "which are given as they are",
        SafetyPolicy.BLUR: "which are blurred",
        SafetyPolicy.REFUSE: "and this service refuses such images; change the prompt, or the seed",
    }
)
_FLAGGED: Final = re.compile(r"the model's safety checker flagged ([0-9 ,]+) of [0-9]+ images, which")


def describe_flagged(flagged: Sequence[int], images: int, policy: SafetyPolicy) -> str:
    """The sentence; ``flagged`` are indices, which people count from 1. Empty if there are none."""
    if not flagged:
        return ""
    numbers = ", ".join(str(index + 1) for index in flagged)
    said = f"the model's safety checker flagged {numbers} of {images} images, {_WHAT_BECAME[policy]}"
    return CONTENT_REFUSED + said if policy is SafetyPolicy.REFUSE else said


def find_flagged(warnings: Sequence[str]) -> frozenset[int]:
    """The indices of flagged images, of a job's own warnings of its generation."""
    found = (_FLAGGED.match(warning) for warning in warnings)
    return frozenset(int(number) - 1 for match in found if match for number in match[1].split(","))
