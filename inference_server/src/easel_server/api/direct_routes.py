"""Routes ahead of FastAPI's own, for the requests that come most often.

FastAPI's routing and injection of arguments take as long as all the rest of such a request. Its own routes to the same
handlers stay behind these and describe them.
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope


class DirectRoute(Route):
    """One method of one path. The handler takes the request and the path's parameters, and returns a response."""

    def __init__(self, method: str, path: str, handler: Callable[..., Awaitable[Response]]) -> None:
        async def endpoint(request: Request) -> Response:
            return await handler(request, **request.path_params)

        super().__init__(path, endpoint, methods=[method], include_in_schema=False)
        self.methods = {method}  # without the HEAD that Starlette adds to a GET, and FastAPI doesn't

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette's; notes the route in the scope, where metrics and logs look for it, as FastAPI's do."""
        match, child_scope = super().matches(scope)
        if match is not Match.NONE:
            child_scope["route"] = self
        return match, child_scope
