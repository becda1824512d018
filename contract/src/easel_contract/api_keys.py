"""What a value of the API keys' Secret may hold: a customer's keys, and what the customer may do.

The Secret's key is the customer's name. The value is either the keys alone, one a line, or this model as JSON:

    {"keys": ["sha256:5e88…", "esl_live_…"], "weight": 2, "rateLimit": {"requestsPerMinute": 600}}

A key is given as it is sent, or as ``sha256:`` and the hexadecimal digest of it, which is enough to check it.
"""

from typing import Annotated

from pydantic import Field

from easel_contract.schema import Model
from easel_contract.server_config import Priority, RateLimitConfig

ApiKey = Annotated[str, Field(min_length=8, max_length=512, pattern=r"^[!-~]+$")]


class ApiKeyEntry(Model):
    """One customer."""

    keys: tuple[ApiKey, ...] = Field(min_length=1, max_length=100)
    weight: int = Field(default=1, ge=1, le=1000)  # share of the GPUs beside other customers who wait
    max_priority: Priority = Priority.NORMAL  # the highest that its requests may ask for
    rate_limit: RateLimitConfig | None = None  # None: the service's rate limit for each key
