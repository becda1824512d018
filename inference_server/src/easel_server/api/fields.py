"""How an API's fields are made the parameters' of ``generation/``: one mark on a field, from which all else follows.

Each API's ``fields.py`` has pydantic models of its bodies. A field that is a parameter is marked with ``MapsTo``; its
check is the field's type, its conversion and its echo are the mark's, and its name in errors is the field's own.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError, from_json

from easel_server.gateway.refusals import refuse_field
from easel_server.generation.add_ons import AdapterRequest
from easel_server.generation.filling.table import PARAMETERS
from easel_server.generation.messages import truncate_repr
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.recipes.recipe import RecipeError, read_recipe
from easel_server.generation.request import Recipe

# Bounds that keep any number printable and storable; what is sensible is decided by the parameters' table.
WireInteger = Annotated[int, Field(ge=-(2**63), lt=2**63)]
WireNumber = Annotated[float, Field(allow_inf_nan=False)]


SIZE_PATTERN: Final = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


def parse_size(field: str, text: str, *, others: str = "") -> tuple[int, int]:
    """Width and height in pixels of ``WIDTHxHEIGHT``. Raises RefusalError; ``others`` says what is allowed besides."""
    match = SIZE_PATTERN.fullmatch(text)
    if match is None:
        allowed = f'allowed are "WIDTHxHEIGHT" in pixels, such as "512x512"{others}'
        raise refuse_field(field, f"is {truncate_repr(text)}, {allowed}")
    return int(match[1]), int(match[2])


MAX_ADAPTERS: Final = 64  # that are looked at; how many a request may have is the service's to say
# As this service calls them, then as other services of this kind do.
ADAPTER_NAMES: Final = ("name", "path")
ADAPTER_WEIGHTS: Final = ("weight", "scale")


def parse_json_text(value: Any) -> Any:
    """What JSON in a form's text stands for, since a form has no objects; any other value as it is."""
    if not (isinstance(value, str) and value.lstrip().startswith(("[", "{"))):
        return value
    try:
        return from_json(value)  # unlike json.loads, it bounds nesting
    except ValueError as error:
        raise PydanticCustomError("json", "can't be read as JSON: {fault}", {"fault": str(error)}) from None


def _read_adapters(value: Any) -> tuple[AdapterRequest, ...] | None:
    """Adapters as clients write them: objects, names, or an object of weights by name; or JSON of those, in a form."""
    if isinstance(value, str):
        try:
            value = from_json(value) if value.lstrip().startswith(("[", "{", '"')) else [value] if value else None
        except ValueError as error:
            raise PydanticCustomError("adapters", "can't be read as JSON: {fault}", {"fault": str(error)}) from None
    if value is None:
        return None
    if isinstance(value, dict) and not any(isinstance(value.get(name), str) for name in ADAPTER_NAMES):
        value = [{"name": name, "weight": weight} for name, weight in value.items()]
    each = value if isinstance(value, list | tuple) else [value]
    if len(each) > MAX_ADAPTERS:
        raise PydanticCustomError("adapters", "asks for {n} adapters, far too many", {"n": len(each)})
    return tuple(map(_read_adapter, each))


def _read_adapter(value: Any) -> AdapterRequest:
    if isinstance(value, AdapterRequest):
        return value
    given = {"name": value} if isinstance(value, str) else value if isinstance(value, dict) else {}
    name = next((given[key] for key in ADAPTER_NAMES if given.get(key)), None)
    weight = next((given[key] for key in ADAPTER_WEIGHTS if given.get(key) not in (None, "")), None)
    unknown = [key for key in given if key not in (*ADAPTER_NAMES, *ADAPTER_WEIGHTS)]
    if unknown or not isinstance(name, str) or isinstance(weight, bool | dict | list):
        shown = {"shown": truncate_repr(value)}
        raise PydanticCustomError(
            "adapters", 'has {shown}; allowed are objects such as {{"name": "ink", "weight": 0.8}}, and names', shown
        )
    try:
        return AdapterRequest(name, None if weight is None else float(weight))
    except (ValueError, OverflowError):
        shown = {"shown": truncate_repr(weight), "name": truncate_repr(name)}
        raise PydanticCustomError("adapters", "has a weight of {shown} for {name}, which is no number", shown) from None


def echo_adapters(parameters: GenerationParameters) -> list[dict[str, Any]] | None:
    """A job's, as ``loras`` of an answer has them; None without any."""
    return [{"name": use.name, "weight": use.weight} for use in parameters.adapters] or None


@dataclass(frozen=True)
class MapsTo:
    """Marks a body's field as one of ``GenerationParameters``.

    ``convert`` makes the parameter's value of the field's; None, as where the field is absent, leaves the choice to the
    service. ``echo`` is the way back. An ``is_input`` field holds an image: the route makes the parameter of it.
    """

    parameter: str
    convert: Callable[[Any], Any] | None = None
    echo: Callable[[GenerationParameters], Any] | None = None
    is_input: bool = False


@dataclass(frozen=True)
class Inert:
    """Marks a field that is accepted without effect. A value that isn't ``silent`` is named in a warning."""

    silent: tuple[Any, ...]  # those that ask for nothing, or for what is so anyway
    reason: str  # and what to do instead


def _read_recipe(value: Any) -> Recipe | None:
    if value is None or isinstance(value, Recipe):
        return value
    if not isinstance(value, str | dict):
        raise PydanticCustomError("recipe", "must be what an image says of itself: an object, or its text")
    try:
        return read_recipe(value)
    except RecipeError as error:
        raise PydanticCustomError("recipe", "{fault}", {"fault": str(error)}) from None


# Fields of which one makes a prompt unneeded: what has one, or those of an image that is only enlarged.
PROMPTLESS: Final = ("recipe", "scale", "upscale_factor", "upscaler")


def need_prompt(prompt: str | None, others: ValidationInfo) -> str | None:
    """A prompt that is given, or in a recipe that is, or needn't be."""
    if prompt is None and all(others.data.get(name) is None for name in PROMPTLESS):
        raise PydanticCustomError("missing", "Field required")
    return prompt


RECIPE_DESCRIPTION: Final = (
    "What an image says of itself, to have it again: its recipe (JSON: a PNG's text chunk `easel`, else "
    "XMP's `easel:recipe`), or AUTOMATIC1111's text. Fields beside it go first; input images are sent again."
)
RecipeField = Annotated[
    Recipe | None,
    PlainValidator(_read_recipe),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]}),
]
_NAMED: Final = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "weight": {"type": "number"}},
    "required": ["name"],
}
AdaptersField = Annotated[
    tuple[AdapterRequest, ...] | None,
    MapsTo("adapters", echo=echo_adapters),
    PlainValidator(_read_adapters),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"anyOf": [_NAMED, {"type": "string"}]}},
                {"type": "object", "additionalProperties": {"type": "number"}},
                {"type": "null"},
            ]
        }
    ),
    Field(
        description='Adapters (LoRA), as /v1/models lists them: [{"name": "ink", "weight": 0.8}], '
        'names alone, or {"ink": 0.8}. Without a weight each has its own.'
    ),
]
# Behind ``recipe``; required, unless that has it.
PromptField = Annotated[str | None, MapsTo("prompt"), Field(validate_default=True), AfterValidator(need_prompt)]


class ApiBody(BaseModel):
    """A body whose fields are marked. Unknown ones are refused, so that typos show; null is as good as absent."""

    model_config = ConfigDict(extra="forbid")

    # Parameters that several fields make, and what they are called; ``given`` is overridden for those.
    COMPUTED: ClassVar[Mapping[str, str]] = {}
    PREFIX: ClassVar[str] = ""  # of the fields' names in errors

    recipe: RecipeField = Field(default=None, exclude=True, description=RECIPE_DESCRIPTION)

    def given(self) -> dict[str, Any]:
        """What the client said, by the names of ``GenerationParameters``. Raises RefusalError as conversions do.

        What a recipe says is what isn't said beside it.
        """
        values = {} if self.recipe is None else dict(self.recipe.given)
        for name, mark in _marks(type(self)).items():
            value = getattr(self, name)
            if value is None or mark.is_input:
                continue
            converted = mark.convert(value) if mark.convert is not None else value
            if converted is not None:
                values[mark.parameter] = converted
        return values

    @property
    def recipe_size(self) -> tuple[int | None, int | None]:
        """Width and height in pixels as a recipe has them."""
        given = {} if self.recipe is None else self.recipe.given
        return given.get("width_pixels"), given.get("height_pixels")

    def has_inputs(self) -> bool:
        """Whether any of its fields holds an image."""
        return any(mark.is_input and getattr(self, name) is not None for name, mark in _marks(type(self)).items())

    def find_warnings(self) -> Iterator[str]:
        """What is accepted and won't be done, in sentences."""
        for name, mark in _inert(type(self)).items():
            value = getattr(self, name)
            if value is not None and value not in mark.silent:
                yield f"{self.PREFIX}{name}: {truncate_repr(value)} is without effect; {mark.reason}"

    @classmethod
    def echo(cls, parameters: GenerationParameters) -> dict[str, Any]:
        """The parameters by this API's names, defaults filled in; input images aren't sent back."""
        echoed = {
            name: mark.echo(parameters) if mark.echo is not None else getattr(parameters, mark.parameter)
            for name, mark in _marks(cls).items()
            if not mark.is_input
        }
        return {name: value for name, value in echoed.items() if value is not None}

    @classmethod
    def field_names(cls) -> Mapping[str, str]:
        """What each parameter is called here, for errors; by its own name where this API doesn't offer it."""
        return _field_names(cls)


@cache
def _marks(body: type[ApiBody]) -> dict[str, MapsTo]:
    return {
        name: mark for name, field in body.model_fields.items() for mark in field.metadata if isinstance(mark, MapsTo)
    }


@cache
def _inert(body: type[ApiBody]) -> dict[str, Inert]:
    return {
        name: mark for name, field in body.model_fields.items() for mark in field.metadata if isinstance(mark, Inert)
    }


@cache
def _field_names(body: type[ApiBody]) -> Mapping[str, str]:
    names = {mark.parameter: name for name, mark in _marks(body).items()} | dict(body.COMPUTED)
    own = {row.name: row.name for row in PARAMETERS}
    return own | {parameter: f"{body.PREFIX}{name}" for parameter, name in names.items()}
