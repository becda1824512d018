"""Sends the commands of concurrent callers together: one write and one read for many.

redis-py takes more processor time for a command than the server does. What has been asked for while a batch was on its
way goes with the next one, so the busier a process is, the less a command costs; a lone command is sent at once.

A server that is away or says nothing costs a caller DOUBT_SECONDS and PING_SECONDS, together under a second, and
those who come after it nothing: they hear the same until PAUSE_SECONDS are over and one of them asks again.
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

from easel_server.stores.redis.errors import LOST

CONNECTIONS: Final = 2  # so that a batch with large images doesn't hold up all others
MAX_BATCH: Final = 64  # commands
ATTEMPTS: Final = 2  # every command of a store can be repeated
CANCEL_AGAIN_SECONDS: Final = 0.2
# A script may take long, and so may a large answer over a slow network: what counts is whether the server answers a
# PING on another connection meanwhile.
DOUBT_SECONDS: Final = 0.35
PING_SECONDS: Final = 0.5  # to connect, authenticate and be answered
PAUSE_SECONDS: Final = 0.5
SLOW_SECONDS: Final = 0.1

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
        self._left: set[asyncio.Task[Any]] = set()  # that hang on a server that is silent; they end by themselves
        self._outage = ""  # why the server is away, if it is
        self._ask_again_at = 0.0

    async def execute(self, *words: str | bytes | float) -> Any:
        """The reply, undecoded. Raises redis-py's errors, within a second if the server is away."""
        if self._outage:
            await self._ask_again()
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
        for task in self._left:
            task.cancel()
        if self._left:
            await asyncio.wait(self._left, timeout=CANCEL_AGAIN_SECONDS)
        # One that doesn't close in time is no reason to leave the others open.
        await asyncio.gather(*(connection.disconnect() for connection in self._idle), return_exceptions=True)

    async def _send_batches(self) -> None:
        """Send batches until nothing waits."""
        connection: AbstractConnection | None = None
        try:
            connection = self._idle.pop() if self._idle else self._make_connection()
            while self._waiting:
                size = min(len(self._waiting), MAX_BATCH)
                await self._exchange_watched(connection, [self._waiting.popleft() for _ in range(size)])
        except Exception as error:  # of a pool that can't make a connection: no batch would ever be sent
            while self._waiting:
                self._waiting.popleft().fail(error)
        finally:
            is_left = asyncio.current_task() not in self._senders
            if connection is not None and not is_left:
                self._idle.append(connection)
            # Here and not in a callback: from the last look at what waits to this line, nothing else runs.
            self._senders = {sender for sender in self._senders if sender is not asyncio.current_task()}
            if connection is not None and is_left:  # it may have been made after all, when nobody waited any more
                await connection.disconnect(nowait=True)

    async def _exchange_watched(self, connection: AbstractConnection, batch: list[_Command]) -> None:
        """Exchange, and look after the server if that takes long."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        sender = asyncio.current_task()
        doubts: list[asyncio.Task[None]] = []
        doubt = loop.call_later(
            DOUBT_SECONDS, lambda: doubts.append(loop.create_task(self._doubt(sender, connection, batch)))
        )
        try:
            error = await _exchange(connection, batch)
        finally:
            doubt.cancel()
            for task in doubts:
                task.cancel()
        if isinstance(error, LOST):  # and so was another one that was made for it
            self._note_outage(error, loop.time() - began_at)

    async def _doubt(
        self, sender: asyncio.Task[None] | None, connection: AbstractConnection, batch: list[_Command]
    ) -> None:
        """Give a batch up once the server answers nothing else either."""
        while any(not command.reply.done() for command in batch):
            try:
                await self._ask()
            except LOST as error:
                self._note_outage(error, DOUBT_SECONDS)
                for command in (*batch, *self._waiting):
                    command.fail(error)
                self._waiting.clear()
                self._leave(sender)
                await connection.disconnect(nowait=True)
                return
            except exceptions.RedisError:
                pass  # it answers, if only to refuse
            await asyncio.sleep(DOUBT_SECONDS)

    def _leave(self, sender: asyncio.Task[None] | None) -> None:
        """Go on without a sender that hangs. It may have to wait for a time-out of the connection that it makes."""
        if sender is not None and sender in self._senders:
            self._senders.discard(sender)
            self._keep_until_done(sender)
            sender.cancel()

    def _keep_until_done(self, task: asyncio.Task[Any]) -> None:
        self._left.add(task)
        task.add_done_callback(self._left.discard)
        task.add_done_callback(_ignore_result)

    def _note_outage(self, error: Exception, lost_seconds: float) -> None:
        """The server is away. Where that is found out at once, as when it refuses, every caller may find out."""
        is_slow = lost_seconds >= SLOW_SECONDS
        self._outage = (str(error) or type(error).__name__) if is_slow else ""
        self._ask_again_at = asyncio.get_running_loop().time() + PAUSE_SECONDS

    async def _ask_again(self) -> None:
        """Return if the server is back. One caller asks; the others hear at once what was the matter last."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._ask_again_at:
            raise exceptions.ConnectionError(self._outage)
        began_at = loop.time()
        self._ask_again_at = began_at + PING_SECONDS + PAUSE_SECONDS
        try:
            await self._ask()
        except LOST as error:
            self._note_outage(error, loop.time() - began_at)
            raise
        except exceptions.RedisError:
            pass  # it answers; what it refuses, the caller hears with its own command
        self._outage = ""

    async def _ask(self) -> None:
        """Return if the server answers a PING on a new connection within PING_SECONDS. Raises redis-py's errors."""
        asking = asyncio.create_task(_ping(self._make_connection()), name="redis-ping")
        # Twice: after a stall of this process, the time is over before the answer that has come is looked at.
        for timeout_seconds in (PING_SECONDS, CANCEL_AGAIN_SECONDS / 10):
            await asyncio.wait({asking}, timeout=timeout_seconds)
            if asking.done():
                return asking.result()
        self._keep_until_done(asking)
        asking.cancel()
        raise exceptions.TimeoutError(f"no answer to a PING within {PING_SECONDS:g} s")


async def _ping(connection: AbstractConnection) -> None:
    try:
        await connection.connect()  # type: ignore[no-untyped-call] # not annotated
        await connection.send_command("PING", check_health=False)
        await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


def _ignore_result(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # asked for, so that it isn't reported as never retrieved


async def _exchange(connection: AbstractConnection, batch: list[_Command]) -> Exception | None:
    """Answer the batch; the error that its commands got instead, if any."""
    error: Exception = exceptions.ConnectionError("the connection was closed")
    try:
        for _ in range(ATTEMPTS):
            unanswered = [command for command in batch if not command.reply.done()]
            if not unanswered:
                return None
            try:
                await _exchange_once(connection, unanswered)
                return None
            except LOST as caught:
                error = caught
                await connection.disconnect(nowait=True)
    except Exception as unforeseen:
        error = unforeseen
        await connection.disconnect(nowait=True)
    finally:
        for command in batch:
            command.fail(error)  # no effect on those that were answered
    return error


async def _exchange_once(connection: AbstractConnection, commands: list[_Command]) -> None:
    if not connection.is_connected:
        await connection.connect()  # type: ignore[no-untyped-call] # which asks Sentinels where; sending alone would not
    # hiredis packs a script's arguments ten times as fast as redis-py's asyncio connection does.
    await connection.send_packed_command([pack_command(command.words) for command in commands])
    for command in commands:
        try:
            command.succeed(await connection.read_response())
        except exceptions.ResponseError as error:  # the server's answer to this one
            command.fail(error)
