"""What a command ends with where it can't do what was asked: a sentence with the next step, and an exit status."""

from enum import IntEnum
from typing import Final

from easel_contract import names
from pydantic import ValidationError

INSTALL_SIMULATE: Final = names.install_hint("simulate")


class ExitStatus(IntEnum):
    """Of every command; docs/cli.md says the same."""

    OK = 0
    FAILED = 1  # the cluster, the service or a job says no; of doctor: a check failed
    USAGE = 2  # what was given can't be used
    INTERRUPTED = 130  # Ctrl-C, as shells count signals


class CliError(Exception):
    """What was asked for can't be done. The message says what happened, on what, and the next step."""

    status = ExitStatus.FAILED


class UsageError(CliError):
    """What the user gave can't be used; the message says what, and what is allowed."""

    status = ExitStatus.USAGE


def list_problems(error: ValidationError) -> str:
    """What is wrong with a value of the contract's, and where, in a line."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}" for each in error.errors()
    )
