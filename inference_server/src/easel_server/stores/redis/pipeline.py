"""Sends the commands of concurrent callers together: one write and one read for many.

redis-py takes more processor time for a command than the server does. What has been asked for while a batch was on its
way goes with the next one, so the busier a process is, the less a command costs; a lone command is sent at once.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import hiredis
from redis import exceptions
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

CONNECTIONS: Final = 2  # so that a batch with large images doesn't hold up all others
MAX_BATCH: Final = 64  # commands
ATTEMPTS: Final = 2  # every command of a store can be repeated
CANCEL_AGAIN_SECONDS: Final = 0.2

pack_command: Final[Callable[..., bytes]] = hiredis.pack_command  # its types allow one word only

Words = tuple[str | bytes | float, ...]


@dataclass(eq=False)
class _Command:
    words: Words
    reply: asyncio.Future[Any]

    def succeed(self, reply: Any) -> None:
        if not self.reply.done():  # its caller may have been cancelled
            self.reply.set_result(reply)

    def fail(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class Pipeline:
    """Commands to one server. They must not block there."""

    def __init__(self, pool: ConnectionPool) -> None:
        """``pool`` says how to connect; the connections are this pipeline's own."""
        self._make_connection: Callable[[], AbstractConnection] = pool.make_connection
        self._waiting: deque[_Command] = deque()
        self._idle: list[AbstractConnection] = []
        self._senders: set[asyncio.Task[None]] = set()

    async def execute(self, *words: str | bytes | float) -> Any:
        """The reply, undecoded. Raises redis-py's errors."""
        command = _Command(words, asyncio.get_running_loop().create_future())
        self._waiting.append(command)
        if len(self._senders) < CONNECTIONS:
            self._senders.add(asyncio.create_task(self._send_batches(), name="redis-pipeline"))
        return await command.reply

    async def close(self) -> None:
        """Close the connections; commands under way fail."""
        error = exceptions.ConnectionError("the connection was closed")
        while self._waiting:
            self._waiting.popleft().fail(error)
        # One that is cancelled before its first step never gets as far as leaving the set.
        while senders := {sender for sender in self._senders if not sender.done()}:
            for sender in senders:
                sender.cancel()  # again and again: redis-py may swallow it while it sends
            await asyncio.wait(senders, timeout=CANCEL_AGAIN_SECONDS)
        for connection in self._idle:
            await connection.disconnect()

    async def _send_batches(self) -> None:
        """Send batches until nothing waits."""
        connection: AbstractConnection | None = None
        try:
            connection = self._idle.pop() if self._idle else self._make_connection()
            while self._waiting:
                size = min(len(self._waiting), MAX_BATCH)
                await _exchange(connection, [self._waiting.popleft() for _ in range(size)])
        except Exception as error:  # of a pool that can't make a connection: no batch would ever be sent
            while self._waiting:
                self._waiting.popleft().fail(error)
        finally:
            if connection is not None:
                self._idle.append(connection)
            # Here and not in a callback: from the last look at what waits to this line, nothing else runs.
            self._senders = {sender for sender in self._senders if sender is not asyncio.current_task()}


async def _exchange(connection: AbstractConnection, batch: list[_Command]) -> None:
    error: Exception = exceptions.ConnectionError("the connection was closed")
    try:
        for _ in range(ATTEMPTS):
            unanswered = [command for command in batch if not command.reply.done()]
            try:
                return await _exchange_once(connection, unanswered)
            except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as caught:
                error = caught
                await connection.disconnect(nowait=True)
    except Exception as unforeseen:
        error = unforeseen
        await connection.disconnect(nowait=True)
    finally:
        for command in batch:
            command.fail(error)  # no effect on those that were answered


async def _exchange_once(connection: AbstractConnection, commands: list[_Command]) -> None:
    # hiredis packs a script's arguments ten times as fast as redis-py's asyncio connection does.
    await connection.send_packed_command([pack_command(command.words) for command in commands])
    for command in commands:
        try:
            command.succeed(await connection.read_response())
        except exceptions.ResponseError as error:  # the server's answer to this one
            command.fail(error)
