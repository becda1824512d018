"""AUTOMATIC1111's fields of images that are only enlarged, and what upscalers there are. Pure."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from easel_contract.gateway_config import LimitsConfig
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from easel_server.api.automatic1111.harmless import is_nothing, refuse
from easel_server.api.enlarging import build_enlarge_inputs
from easel_server.api.fields import WireInteger, WireNumber
from easel_server.gateway.input_images import decode_base64
from easel_server.gateway.refusals import FieldFault, refuse_fields
from easel_server.generation.add_ons import LATENT_MODES, NO_UPSCALER, PIXEL_MODES, UpscalingRequest
from easel_server.generation.filling.table import PARAMETERS
from easel_server.generation.request import InputImages

TO_SIZE: Final = 1  # of resize_mode; 0 goes by a factor
DEFAULT_FACTOR: Final = 2.0
DEFAULT_SIDE: Final = 512
MAX_BATCH_IMAGES: Final = 16


class EnlargeBody(BaseModel):
    """What extra-single-image and extra-batch-images share. Unknown fields have no effect, as there."""

    model_config = ConfigDict(extra="ignore")

    NAMES: ClassVar[Mapping[str, str]] = {row.name: row.name for row in PARAMETERS} | {"upscale": "upscaling_resize"}

    resize_mode: WireInteger = Field(default=0, ge=0, le=1, description="0 by a factor, 1 to a size.")
    show_extras_results: bool = True
    gfpgan_visibility: WireNumber | None = Field(default=None, description="0: no faces are restored.")
    codeformer_visibility: WireNumber | None = Field(default=None, description="0: no faces are restored.")
    codeformer_weight: JsonValue = None
    upscaling_resize: WireNumber = Field(default=DEFAULT_FACTOR, gt=0, le=8)
    upscaling_resize_w: WireInteger = Field(default=DEFAULT_SIDE, ge=1)
    upscaling_resize_h: WireInteger = Field(default=DEFAULT_SIDE, ge=1)
    upscaling_crop: bool = True
    upscaler_1: str = NO_UPSCALER
    upscaler_2: str = NO_UPSCALER
    extras_upscaler_2_visibility: WireNumber = Field(default=0.0, ge=0, le=1)
    upscale_first: JsonValue = None

    def check(self) -> None:
        """Raise RefusalError for what would change the image and can't be done."""
        if faults := list(self._find_faults()):
            raise refuse_fields(*faults)

    def _find_faults(self) -> Iterator[FieldFault]:
        for name in ("gfpgan_visibility", "codeformer_visibility"):
            if not is_nothing(getattr(self, name)):
                yield refuse(name, getattr(self, name), "allowed is 0")

    def to_request(self) -> UpscalingRequest:
        """What is asked for. Without an upscaler an image stays as it is, as there."""
        is_to_size = self.resize_mode == TO_SIZE
        if self.upscaler_1 == NO_UPSCALER:
            return UpscalingRequest(factor=1.0, upscaler=NO_UPSCALER)
        return UpscalingRequest(
            factor=None if is_to_size else self.upscaling_resize,
            width_pixels=self.upscaling_resize_w if is_to_size else None,
            height_pixels=self.upscaling_resize_h if is_to_size else None,
            is_cropped=self.upscaling_crop,
            upscaler=self.upscaler_1,
            second=self.upscaler_2,
            second_share=self.extras_upscaler_2_visibility,
        )


class EnlargeImageBody(EnlargeBody):
    """The body of extra-single-image."""

    image: str = Field(description="As base64.")


class NamedImage(BaseModel):
    """An image of a batch."""

    data: str
    name: str


class EnlargeImagesBody(EnlargeBody):
    """The body of extra-batch-images."""

    image_list: list[NamedImage] = Field(min_length=1, max_length=MAX_BATCH_IMAGES, alias="imageList")


class EnlargedAnswer(BaseModel):
    """An enlarged image."""

    html_info: str
    image: str


class EnlargedImagesAnswer(BaseModel):
    """Enlarged images."""

    html_info: str
    images: list[str]


def read_enlarge_inputs(field: str, image: str, limits: LimitsConfig) -> InputImages:
    """The image in its own size. Takes time: run it in ``Decoders``. Raises RefusalError."""
    return build_enlarge_inputs(field, decode_base64(field, image, is_prefix_needed=False), limits)


def encode_images(images: Sequence[bytes]) -> list[str]:
    """As this API's answers have them."""
    return [base64.b64encode(image).decode("ascii") for image in images]


def list_upscalers(configured: Sequence[str]) -> list[dict[str, Any]]:
    """The answer of ``upscalers``."""
    return [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4}
        for name in (*PIXEL_MODES, *configured)
    ]


def list_latent_modes() -> list[dict[str, Any]]:
    """The answer of ``latent-upscale-modes``."""
    return [{"name": name} for name in LATENT_MODES]
