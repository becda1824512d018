"""When a webhook that wasn't received is tried again. Pure."""

from typing import Final

# After the first attempt, the second, …: about eight hours in all, as the Standard Webhooks specification suggests
# (long enough for a night's outage of the receiver). https://www.standardwebhooks.com
DELAYS_SECONDS: Final = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0)
MAX_ATTEMPTS: Final = len(DELAYS_SECONDS) + 1
JITTER: Final = 0.2  # so that a receiver that comes back isn't met by everything at once


def retry_delay_seconds(attempt: int, chance: float) -> float | None:
    """Delay after the failure of attempt number ``attempt`` (1 for the first); None if it was the last.

    ``chance`` in [0, 1) is a random number: the delay is lengthened by up to a fifth.
    """
    if attempt >= MAX_ATTEMPTS:
        return None
    return DELAYS_SECONDS[attempt - 1] * (1 + JITTER * chance)
