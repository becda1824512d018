"""Routes that FastAPI describes and that plain Starlette serves.

FastAPI's injection of arguments takes as long as all the rest of a request for cached images, and bodies are read by
hand anyway, within their bounds. So handlers take the request and the path's parameters, and return a response.
"""

from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response


class HandlerRoute(APIRoute):
    """One path. Its handler's signature is only read for the API's description."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)

        if not self.param_convertors:
            self.app = request_response(self.endpoint)
            return

        async def handle(request: Request) -> Response:
            response: Response = await self.endpoint(request, **request.path_params)
            return response

        self.app = request_response(handle)
