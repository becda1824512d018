"""ControlNets in requests: a field that APIs share, and the images of a request as a worker takes them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from easel_server.api.context import ApiContext
from easel_server.api.fields import WireNumber, parse_json_text
from easel_server.gateway.input_images import RequestedSize, decode_base64
from easel_server.gateway.preprocessing import NONE
from easel_server.gateway.preprocessing.controls import (
    ControlFit,
    ControlUnit,
    add_control_images,
    check_units,
    choose_control_size,
)
from easel_server.generation.add_ons import ControlMode, ControlPasses, ControlType
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.request import Customer, InputImages

MAX_LISTED: Final = 16  # before limits.maxControls is asked


class ControlField(BaseModel):
    """A ControlNet of a request."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="A ControlNet's name.")
    image: str | None = Field(default=None, description="A data: URL; without one, the image to begin with.")
    preprocessor: str = Field(default=NONE, description="Makes the control image of the image, such as canny.")
    threshold_a: WireNumber | None = Field(default=None, description="The preprocessor's first threshold.")
    threshold_b: WireNumber | None = Field(default=None, description="Its second one.")
    weight: WireNumber = 1.0
    start: WireNumber = Field(default=0.0, description="Share of the steps after which it has a say.")
    end: WireNumber = Field(default=1.0, description="Share of the steps after which it has none.")
    mode: ControlMode = ControlMode.BALANCED
    resize_mode: ControlFit = ControlFit.CROP
    control_type: ControlType | None = Field(default=None, description="Of the control image, for a union ControlNet.")
    hr_option: ControlPasses = Field(
        default=ControlPasses.BOTH, description="Beside a second pass: in which it counts."
    )

    def to_unit(self, field: str) -> ControlUnit:
        """As all APIs have it. Raises RefusalError for what is no data: URL."""
        image = None if self.image is None else decode_base64(f"{field}.image", self.image, is_prefix_needed=True)
        return ControlUnit(
            field=field,
            name=self.model,
            image=image,
            preprocessor=self.preprocessor,
            thresholds=(self.threshold_a, self.threshold_b),
            fit=self.resize_mode,
            weight=self.weight,
            start=self.start,
            end=self.end,
            mode=self.mode,
            passes=self.hr_option,
            control_type=self.control_type,
        )


def _read_listed(value: Any) -> Any:
    """One alone is as good as a list of one."""
    read = parse_json_text(value)
    return [read] if isinstance(read, dict | ControlField) else read


_Listed = Annotated[list[ControlField], Field(max_length=MAX_LISTED)]
ControlsField = Annotated[
    _Listed | None,
    BeforeValidator(_read_listed, json_schema_input_type=_Listed | ControlField | None),
    Field(description="ControlNets, each with its control image; or one."),
]


async def prepare_controls(
    context: ApiContext,
    customer: Customer,
    units: Sequence[ControlUnit],
    inputs: InputImages | None,
    *,
    requested: RequestedSize,
    names: Mapping[str, str],
    defaults: GenerationDefaults,
) -> tuple[InputImages | None, dict[str, Any]]:
    """The inputs with the units' control images, and what the job says of them; ``units``: at least one.

    Raises RefusalError.
    """
    limits = context.limits
    configured = [each.name for each in context.live.add_ons.preprocessors]
    check_units(units, limits, names["controls"], configured)
    size = (
        (inputs.width_pixels, inputs.height_pixels)
        if inputs is not None
        else choose_control_size(requested, names=names, defaults=defaults, limits=limits)
    )
    inputs, requests = await context.decoders.run(
        customer.name, partial(add_control_images, tuple(units), inputs, size, limits)
    )
    return inputs, {"controls": requests}
