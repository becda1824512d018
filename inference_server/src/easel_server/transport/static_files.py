"""Files that pages for browsers consist of, and what they are served with: no right beyond their own host."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import Request, Response

MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# A page holds a key and shows what customers ask for: it takes nothing from elsewhere and sends nothing there.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",  # images that were fetched with a key, and the history's
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": f"{POLICY}; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",  # asked for each time, answered by 304: a new version shows at once
}


@dataclass(frozen=True)
class StaticFile:
    """A file as it is served."""

    content: bytes
    media_type: str
    etag: str  # changes with the content


def read_static_file(file: Traversable) -> StaticFile:
    """The file; its name must end as one of MEDIA_TYPES."""
    content = file.read_bytes()
    media_type = MEDIA_TYPES["." + file.name.rpartition(".")[2]]
    return StaticFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def serve_file(file: StaticFile, request: Request, headers: Mapping[str, str] = HEADERS) -> Response:
    """The file, or 304 to who has it."""
    headers = {**headers, "ETag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
