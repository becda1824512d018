"""What the Secrets with keys may hold: API keys of customers, with what a customer may do, and the keys of links.

In that of API keys, the Secret's key is the customer's name. The value is either the keys alone, one a line, or this
model as JSON:

    {"keys": ["sha256:5e88…", "esl_live_…"], "weight": 2, "rateLimit": {"requestsPerMinute": 600}}

A key is given as it is sent, or as ``sha256:`` and the hexadecimal digest of it, which is enough to check it.
"""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, ValidationError
from pydantic.alias_generators import to_camel

from easel_contract.gateway_config import RateLimitConfig
from easel_contract.schema import Model
from easel_contract.server_config import Priority

MIN_LINK_KEY_CHARACTERS: Final = 32
MAX_LINK_KEYS: Final = 8
DIGEST_PREFIX: Final = "sha256:"
DIGEST_PATTERN: Final = re.compile(r"[0-9a-fA-F]{64}")


def _check_digest(key: str) -> str:
    if key.startswith(DIGEST_PREFIX) and not DIGEST_PATTERN.fullmatch(key.removeprefix(DIGEST_PREFIX)):
        raise ValueError(f"{DIGEST_PREFIX} must be followed by 64 hexadecimal digits")
    return key


ApiKey = Annotated[str, Field(min_length=8, max_length=512, pattern=r"^[!-~]+$"), AfterValidator(_check_digest)]


class ApiKeyEntry(Model):
    """One customer."""

    keys: tuple[ApiKey, ...] = Field(min_length=1, max_length=100)
    weight: int = Field(default=1, ge=1, le=1000)  # share of the GPUs beside other customers who wait
    max_priority: Priority = Priority.NORMAL  # the highest that its requests may ask for
    rate_limit: RateLimitConfig | None = None  # None: the service's rate limit for each key


def parse_api_key_entry(value: bytes) -> ApiKeyEntry:
    """The entry that a Secret's value describes. Raises ValueError that says what is wrong, without a word of it."""
    try:
        text = value.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("the value is not UTF-8 text") from None
    try:
        if text.startswith("{"):
            return ApiKeyEntry.model_validate_json(text)
        return ApiKeyEntry(keys=tuple(line.strip() for line in text.splitlines() if line.strip()))
    except ValidationError as error:
        raise ValueError("; ".join(sorted(_describe_faults(error)))) from None


def _describe_faults(error: ValidationError) -> set[str]:
    """What is wrong and where. Neither values nor names of unknown fields: either may be a key."""
    faults = set()
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        if fault["type"] == "extra_forbidden":
            where, model = (" of rateLimit", RateLimitConfig) if len(fault["loc"]) > 1 else ("", ApiKeyEntry)
            allowed = ", ".join(to_camel(name) for name in model.model_fields)
            faults.add(f"a field{where} is not known, allowed are {allowed}")
        elif fault["type"] == "json_invalid":
            faults.add("the value begins like JSON and is none")
        else:
            faults.add(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
    return faults


def parse_link_keys(text: str) -> tuple[bytes, ...]:
    """The keys in the text of the Secret of links' keys, separated by white space: the first signs, all verify.

    So that keys can change without breaking a link that is out: the new one is put last until every gateway has read
    it, then first, and the old one goes when its last link has expired. Those that are too short to be safe are left
    out.
    """
    return tuple(word.encode() for word in text.split()[:MAX_LINK_KEYS] if len(word) >= MIN_LINK_KEY_CHARACTERS)
