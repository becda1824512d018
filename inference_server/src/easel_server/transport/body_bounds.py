"""Bounds on the bodies that are read at a time: in bytes of all together, a fair part of them for each client.

How slowly one may come is the connection's business (``protocol.py``), what it may hold its reader's (``bodies.py``).
"""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easel_server.gateway.api_keys import KeyRing
from easel_server.gateway.refusals import RefusalError, refuse_body_size, refuse_for_bodies, refuse_slow_body
from easel_server.generation.request import ANONYMOUS
from easel_server.transport.protocol import BODY_TOO_SLOW

# Of all bodies together, in the largest that are allowed: eight edits of 16 MiB, or forty of a camera's photograph.
# What is made of them while they are read takes about as much again.
BUDGET_BODIES: Final = 8
SMALL_BYTES: Final = 64 << 10  # a prompt and its parameters: counted, and refused only when nothing at all is free
HOLD: Final = "easel.body_hold"  # in a scope


class BodyBudget:
    """Bytes of bodies that a process holds; each client may have as many as are left for others.

    That is the dynamic threshold of shared-memory switches (Choudhury and Hahne, https://doi.org/10.1109/90.664262):
    one client that takes all it can gets half of the budget, two get a third each, and there is always something left
    for the next.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._used_bytes = 0
        self._of_client: dict[str, int] = {}

    @property
    def used_bytes(self) -> int:
        """By all clients together."""
        return self._used_bytes

    def take(self, client: str, size_bytes: int, *, is_small: bool) -> bool:
        """Take so many bytes more for a client, or none: False."""
        left = self._total_bytes - self._used_bytes - size_bytes
        own = self._of_client.get(client, 0) + size_bytes
        if left < 0 or (own > left and not is_small):
            return False
        self._used_bytes += size_bytes
        self._of_client[client] = own
        return True

    def free(self, client: str, size_bytes: int) -> None:
        """The client holds so many bytes less."""
        self._used_bytes -= size_bytes
        left = self._of_client.get(client, 0) - size_bytes
        if left > 0:
            self._of_client[client] = left
        else:
            self._of_client.pop(client, None)


class BodyHold:
    """What one request's body takes of the budget, until it is released."""

    def __init__(self, budget: BodyBudget, client: str) -> None:
        self._budget = budget
        self._client = client
        self._taken_bytes = 0

    def cover(self, size_bytes: int) -> bool:
        """Hold so many bytes at the least; False if that isn't to be had."""
        more = size_bytes - self._taken_bytes
        if more <= 0:
            return True
        if not self._budget.take(self._client, more, is_small=size_bytes <= SMALL_BYTES):
            return False
        self._taken_bytes = size_bytes
        return True

    def release(self) -> None:
        """Nothing of the body is in memory any more."""
        if self._taken_bytes:
            self._budget.free(self._client, self._taken_bytes)
            self._taken_bytes = 0


class BodyBoundsMiddleware:
    """Refuses a body that is too slow (408), too large (413), or that there is no room for (503).

    A body whose length is declared is judged before its first byte is asked for. What is left of a body that was
    refused is never read: the connection is closed.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, max_body_bytes: int) -> None:
        self._app = app
        self._keys = keys
        self._max_body_bytes = max_body_bytes
        self._budget = BodyBudget(BUDGET_BODIES * max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or (declared_bytes := _read_length(scope)) == 0:
            await self._app(scope, receive, send)
            return
        hold = scope[HOLD] = BodyHold(self._budget, self._find_client(scope, declared_bytes))
        came_bytes = 0
        is_complete = False
        is_too_large = (declared_bytes or 0) > self._max_body_bytes
        refusal: RefusalError | None = refuse_body_size(self._max_body_bytes) if is_too_large else None

        async def receive_bounded() -> Message:
            nonlocal came_bytes, is_complete, refusal
            if is_complete:
                return await receive()
            if refusal is None and not hold.cover(declared_bytes or 0):
                refusal = refuse_for_bodies()
            if refusal is not None:
                raise refusal
            message = await receive()
            if message["type"] == "http.request":
                came_bytes += len(message.get("body", b""))
                is_complete = not message.get("more_body", False)
            if not is_complete and BODY_TOO_SLOW in scope:
                refusal = refuse_slow_body()
            elif not hold.cover(came_bytes):
                refusal = refuse_for_bodies()
            if refusal is not None:
                raise refusal
            return message

        try:
            await self._app(scope, receive_bounded, send)
        finally:
            hold.release()

    def _find_client(self, scope: Scope, declared_bytes: int | None) -> str:
        """Whose part of the budget it is: the customer's, or that of the address that calls."""
        if declared_bytes is not None and declared_bytes <= SMALL_BYTES:
            return ""  # of no consequence, and most requests are so
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        try:
            customer = self._keys.find_customer(authorization.decode("latin-1") or None)
        except RefusalError:  # its route says so, and reads nothing
            return ""
        host = (scope.get("client") or ("", 0))[0]
        return f"{customer.name}@{host}" if customer is ANONYMOUS else customer.name


def release_body(scope: Scope) -> None:
    """The body was read and made use of: nothing of it is kept. Without this it counts until the request ends."""
    hold: BodyHold | None = scope.get(HOLD)
    if hold is not None:
        hold.release()


def _read_length(scope: Scope) -> int | None:
    """The body's length in bytes; None where it isn't known ahead."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)  # the parser takes nothing else than digits
        if name == b"transfer-encoding":
            return None
    return 0
