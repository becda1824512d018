"""What the service's answers to clients of AUTOMATIC1111 hold."""

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import httpx2
from PIL import Image


@dataclass(frozen=True)
class Result:
    """An image, and what was said of how it was made."""

    image: Image.Image
    text: str  # AUTOMATIC1111's, of the image itself
    warnings: list[str]

    def differs_from(self, other: "Result") -> bool:
        """Whether any pixel does, of two of one size."""
        assert self.image.size == other.image.size
        return self.image.tobytes() != other.image.tobytes()


def open_base64(text: str) -> Image.Image:
    """An image as this API's answers have it."""
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image


def read_result(answer: httpx2.Response) -> Result:
    """The one image of an answer of txt2img or img2img."""
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    [image] = map(open_base64, content["images"])
    info = json.loads(content["info"])
    assert info["infotexts"] == [image.info["parameters"]]
    return Result(image.convert("RGB"), image.info["parameters"], info["warnings"])


def to_base64(image: Image.Image) -> str:
    """As clients send one."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
