"""redis-py's errors, turned into what callers of a store expect."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis import exceptions

from easel_server.stores.errors import StoreOutOfMemoryError, StoreUnavailableError

WAIT_FOR_REDIS: Final = (
    "check that Redis runs and can be reached from this pod; Easel goes on by itself when it is back"
)
GIVE_ACCESS: Final = "check the user, password and permissions (ACL) of the Redis URL"
GIVE_MEMORY: Final = (
    "raise Redis' maxmemory, or lower gateway.results and gateway.cache; finished jobs free memory as they expire"
)

# Error replies that redis-py has no class for: the server is there and can't serve for now.
# https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors
TEMPORARY_REPLIES: Final = ("MISCONF", "NOREPLICAS", "BUSY", "UNBLOCKED")

DAMAGED: Final = "DAMAGED "

# What says that a connection is lost. A write to one that the server has reset while nobody used it (as the kernel does
# for a server that dies with unread commands) is a RuntimeError in uvloop, "the handler is closed", which redis-py
# passes on as it is.
LOST: Final = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, RuntimeError)

# Not a lost connection alone: a server that is loading, or that moves the service's keys, comes back too.
# To a script, keys on the move are neither here nor there, so it is never sent after them (ASK) but tried again.
TEMPORARY_ERRORS: Final = (
    *LOST,
    exceptions.InvalidResponse,  # what answers isn't Redis, or not Redis alone
    exceptions.ReadOnlyError,
    exceptions.ClusterError,
    exceptions.AskError,
    exceptions.TryAgainError,
)


@contextmanager
def translated_errors(address: str, operation: str) -> Iterator[None]:
    """Turn redis-py's errors into StoreUnavailableError; errors that are our own bugs pass through."""
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError) as error:
        raise StoreUnavailableError(address, operation, _describe(error), GIVE_ACCESS) from error
    except exceptions.OutOfMemoryError as error:
        raise StoreOutOfMemoryError(address, operation, _describe(error), GIVE_MEMORY) from error
    except TEMPORARY_ERRORS as error:
        raise StoreUnavailableError(address, operation, _describe(error), WAIT_FOR_REDIS) from error
    except exceptions.ResponseError as error:
        if not str(error).startswith(TEMPORARY_REPLIES):
            raise
        raise StoreUnavailableError(address, operation, _describe(error), WAIT_FOR_REDIS) from error


def find_damaged_key(message: str) -> str | None:
    """The key that a script names which may not drop it itself: see ``drop_obstacle`` in ``lua/shared.lua``."""
    if not message.startswith(DAMAGED):
        return None
    return message.removeprefix(DAMAGED).partition(" script: ")[0]


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
