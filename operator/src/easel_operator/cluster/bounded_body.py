"""Reading what another server answers, but not without end."""

from typing import Final

import aiohttp

CHUNK_BYTES: Final = 1 << 16


async def read_bounded(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The body, decompressed. Raises ValueError as soon as it is longer than ``limit_bytes``."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        body += chunk
        if len(body) > limit_bytes:
            raise ValueError(f"answered with more than {limit_bytes} bytes")
    return bytes(body)
