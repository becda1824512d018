"""What an image says of itself: its recipe, as JSON, from which the same model generates it again. Pure.

    {"easel": 1,                                     the form's version
     "parameters": {"prompt": "a cat", "seed": 8,    of this very image, by the names on the wire; images is 1
                    "imageDigest": "2c26…", …},      input images by their SHA-256: whoever has them sends them again
     "cut": ["prompt"],                              parameters that were too long for this format; else absent
     "scheduler": {"class": "PNDMScheduler", …},     that was used, also where the request named no sampler
     "model": {"name": …, "weights": …, "dtype": …, "versions": {…}, …}}

AUTOMATIC1111's text (``infotext.py``) says less, and a prompt of several lines may read like something else there. A
recipe is read from either. Names and values are checked by the parameters' table like any client's.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from easel_server.generation.add_ons import AdapterUse
from easel_server.generation.messages import truncate_repr
from easel_server.generation.models import EngineDescription, ModelIdentity
from easel_server.generation.parameters import SEED_BOUND, GenerationParameters
from easel_server.generation.recipes.infotext import read_infotext
from easel_server.generation.request import Recipe
from easel_server.generation.tasks import INPUTS

FORM: Final = 1
FORM_NAME: Final = "easel"
CUTTABLE: Final = ("negative_prompt", "prompt")  # in this order, until the rest has room
MAX_SCHEDULER_VALUES: Final = 60  # of diffusers' schedulers' settings, which are some 30
MAX_NAMED: Final = 10  # unknown names in a warning, whatever a client sends
# Besides JSON's own: what XML, in which a JPEG and a WebP carry the text, doesn't take as it is.
_ESCAPED: Final = re.compile("[&<>\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_DOCUMENT: Final = TypeAdapter(dict[str, JsonValue])


class RecipeError(ValueError):
    """A text that is no recipe; the message says why."""


def describe_maker(description: EngineDescription) -> dict[str, Any]:
    """What generates, as recipes have it."""
    return {
        "name": description.model,
        "weights": description.resolved_revision,
        "files": description.files,
        "refiner": description.refiner,
        "vae": description.vae,
        "vaeName": description.vae_name,
        "schedulerConfig": description.scheduler,
        "quantization": description.quantization,
        "stepCache": description.step_cache,
        "safety": description.safety,
        "pipeline": description.pipeline,
        "dtype": description.dtype,
        "device": description.device.partition(":")[0],
        "adapters": [],
        "versions": dict(description.versions),
    }


def describe_scheduler(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler of diffusers, as recipes have it: its plain settings, not those that are tables."""
    plain = {key: value for key, value in settings.items() if isinstance(value, str | int | float | bool)}
    shown = sorted(key for key in plain if not key.startswith("_"))[:MAX_SCHEDULER_VALUES]
    return {"class": name, **{key: _to_finite(plain[key]) for key in shown}}


def _to_finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no infinity


def write_recipe(
    parameters: GenerationParameters,
    index: int,
    *,
    maker: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    max_bytes: int | None = None,
) -> str:
    """The recipe of image ``index``, at most ``max_bytes`` as UTF-8: prompts that have no room are left out."""
    own = parameters.model_copy(update={"seed": parameters.seed + index, "images": 1}).to_wire()
    own["reproducibility"] = parameters.reproducibility  # also where it is the default, since services have their own
    if parameters.traits.clip_layer is not None:
        own[_alias("clip_skip")] = parameters.clip_skip or 1  # likewise
    document: dict[str, Any] = {FORM_NAME: FORM, "parameters": own, "scheduler": dict(scheduler), "model": dict(maker)}
    text = write_json(document)
    for name in CUTTABLE:
        if max_bytes is None or len(text.encode()) <= max_bytes:
            break
        own.pop(_alias(name), None)
        document["cut"] = [*document.get("cut", ()), _alias(name)]
        text = write_json(document)
    return text


def write_json(value: Any) -> str:
    """JSON that any XML may hold as it is."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def read_recipe(document: str | Mapping[str, Any]) -> Recipe:
    """A recipe as JSON, written or read, or AUTOMATIC1111's text. Raises RecipeError."""
    if isinstance(document, str):
        if not document.lstrip().startswith("{"):
            pairs = read_infotext(document)
            adapters = {"adapters": pairs.adapters} if pairs.adapters else {}
            return Recipe(_check_types(pairs.given) | adapters, unknown=pairs.unknown)
        try:
            document = _DOCUMENT.validate_json(document)
        except ValidationError as error:
            raise RecipeError(f"can't be read as JSON: {error.errors()[0]['msg']}") from None
    if document.get(FORM_NAME) != FORM:
        raise RecipeError(f"is no recipe that is known here; allowed is one with {FORM_NAME!r}: {FORM}, or a text")
    parameters = document.get("parameters")
    if not isinstance(parameters, Mapping):
        raise RecipeError("has no parameters")
    names = {_alias(name): name for name in GenerationParameters.model_fields}
    known = {names[name]: value for name, value in parameters.items() if name in names}
    values = _check_types(known)
    # Which task it is follows from the images that come with the request, and the family from the model that is served.
    for name in ("task", "family"):
        values.pop(name, None)
    digests = {one.name: values.pop(one.digest_field, None) for one in INPUTS.values()}
    cut, model = document.get("cut"), document.get("model")
    return Recipe(
        {name: value for name, value in values.items() if value is not None},
        digests={name: digest for name, digest in digests.items() if digest is not None},
        cut=tuple(names[name] for name in cut if name in names) if isinstance(cut, list) else (),
        model=model if isinstance(model, Mapping) else {},
        unknown=tuple(name for name in parameters if name not in names),
    )


@cache
def _alias(name: str) -> str:
    return GenerationParameters.model_fields[name].alias or name


@cache
def _type_of(name: str) -> TypeAdapter[Any]:
    kind: Any = GenerationParameters.model_fields[name].annotation
    return TypeAdapter(kind)


def _check_types(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in their parameters' types; whether they are allowed is the table's to say. Raises RecipeError."""
    checked = {}
    for name, value in values.items():
        said = f"has {_alias(name)} {truncate_repr(value)}"
        try:
            checked[name] = _type_of(name).validate_python(value)
        except ValidationError as error:
            raise RecipeError(f"{said}: {error.errors()[0]['msg']}") from None
        if isinstance(checked[name], int) and not -SEED_BOUND <= checked[name] < SEED_BOUND:
            raise RecipeError(f"{said}: a number that large means nothing")
    return checked


def find_missing(recipe: Recipe, given: Mapping[str, Any], digests: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Parameters that must be sent beside a recipe and weren't, each with a sentence; ``digests``: of what was sent."""
    for name in recipe.cut:
        if name not in given:
            yield name, "must be sent beside this recipe, in whose image there was no room for it"
    for one in INPUTS.values():
        if one.name in recipe.digests and one.name not in digests:
            yield one.digest_field, "must be sent beside this recipe, which holds no images"


def list_differences(
    recipe: Recipe, digests: Mapping[str, str], identity: ModelIdentity | None, adapters: Sequence[AdapterUse] = ()
) -> Iterator[str]:
    """Why the image may come out otherwise than the recipe's, in sentences; ``adapters``: those of the request."""
    made_with_contents = _read_contents(recipe.model)
    contents = dict(each.rsplit("@", 1) for each in identity.adapters) if identity is not None else {}
    made_with_keys = {use.name: use.key for use in recipe.given.get("adapters", ()) if isinstance(use, AdapterUse)}
    for use in adapters:
        if made_with_keys.get(use.name, "") not in ("", use.key):
            yield f"adapter {use.name!r} comes from elsewhere than the recipe's, so the image may be another"
        before, now = made_with_contents.get(use.name), contents.get(use.name)
        if before is not None and now is not None and before != now:
            yield (
                f"the file of adapter {use.name!r} has changed since: the recipe's image was made with {before[:23]}, "
                f"and it is {now[:23]} now, so the image will be another"
            )
    for name, digest in digests.items():
        if name in recipe.digests and recipe.digests[name] != digest:
            yield f"the recipe was of another input {name}, so the image will be another"
    if recipe.unknown:
        yield f"what the recipe says of {_shorten(recipe.unknown)} is without effect"
    if identity is None or not recipe.model:
        return
    weights = recipe.model.get("weights")
    if weights != identity.weights:
        made_with = f"{truncate_repr(recipe.model.get('name'))} with weights {truncate_repr(weights)}"
        yield (
            f"the recipe's image was generated by {made_with}, and this service holds {identity.name!r} with weights "
            f"{identity.weights!r}: the image will be another"
        )
    elif differing := list(_find_other_libraries(recipe.model, identity)):
        yield f"the recipe's image was generated with {', '.join(differing)}: the image may differ a little"


def _read_contents(model: Mapping[str, Any]) -> dict[str, str]:
    """Digests of a recipe's adapters by name; whatever it holds."""
    listed = model.get("adapters")
    known = [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    pairs = [(each.get("name"), each.get("digest")) for each in known]
    return {name: digest for name, digest in pairs if isinstance(name, str) and isinstance(digest, str)}


def _find_other_libraries(model: Mapping[str, Any], identity: ModelIdentity) -> Iterator[str]:
    held = {
        "dtype": identity.dtype,
        "refiner": identity.refiner,
        "vae": identity.vae,
        "schedulerConfig": identity.scheduler,
        "quantization": identity.quantization,
        "stepCache": identity.step_cache,
    }
    for name, own in held.items():
        other = model.get(name) or ""
        if other != own:
            yield f"{name} {str(other)[:20] or 'none'} instead of {own or 'none'}"
    versions = model.get("versions")
    for library, version in identity.versions.items():
        other = versions.get(library) if isinstance(versions, Mapping) else None
        if other != version:
            yield f"{library} {str(other)[:20]} instead of {version}"


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(truncate_repr(name) for name in names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
