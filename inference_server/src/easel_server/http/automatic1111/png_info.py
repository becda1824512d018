"""What a PNG says of how it was made, as AUTOMATIC1111 and this service write it."""

from typing import Any

from easel_server.engine.encoding import PNG_KEY
from easel_server.http.input_images import decode_base64, decode_picture


def read_png_info(image: str, *, max_pixels: int) -> dict[str, Any]:
    """The answer of png-info. Takes time: run it in ``Decoders``. Raises RefusalError."""
    picture = decode_picture("image", decode_base64("image", image, is_prefix_needed=False), max_pixels=max_pixels)
    texts = {str(key): str(value) for key, value in picture.info.items() if isinstance(value, str)}
    return {"info": texts.pop(PNG_KEY, ""), "items": texts, "parameters": {}}
