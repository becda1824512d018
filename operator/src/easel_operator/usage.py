"""What every command for people shares: the error that the command line shows, and how to get what is missing."""

from typing import Final

from easel_contract import names

INSTALL: Final = names.install_hint("simulate")


class UsageError(Exception):
    """What the user gave can't be used; the message says what, and what is allowed."""
