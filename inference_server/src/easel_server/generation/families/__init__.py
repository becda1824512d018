"""What is so for a family of models, a file each: sizes, steps, guidance, negative prompts, strength, samplers.

Gateway, parameters and engine read what differs between models here. A new family is a file of this folder and a name
in ``FAMILIES``. Values and pure rules only: which pipelines a family has is given by the names of diffusers' classes,
and what is said of them was read in diffusers' sources (0.42) and is compared with what they do by
``tests/inference_server/engine/parity/``.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from easel_server.generation.families import flux, pixart, stable_diffusion, stable_diffusion_3, stable_diffusion_xl
from easel_server.generation.families.definition import (
    DEFAULT_STEPS,
    Family,
    ModelFiles,
    NegativePrompts,
    StrengthRule,
)

__all__ = [
    "DEFAULT_STEPS",
    "FAMILIES",
    "OTHER",
    "Family",
    "ModelFiles",
    "NegativePrompts",
    "StrengthRule",
    "find_family",
    "get_family",
]

# Any other pipeline: the values that Stable Diffusion 1.5 has, until its own call refuses them.
OTHER: Final = Family(name="", default_side_pixels=512)

# In the order in which they are looked for: what was distilled from a family is before it.
FAMILIES: Final = (
    *stable_diffusion.FAMILIES,
    *stable_diffusion_xl.FAMILIES,
    *stable_diffusion_3.FAMILIES,
    *flux.FAMILIES,
    *pixart.FAMILIES,
)
_BY_NAME: Final[Mapping[str, Family]] = MappingProxyType({family.name: family for family in (OTHER, *FAMILIES)})


def find_family(pipeline_class_name: str, files: ModelFiles | None = None) -> Family:
    """The family of a pipeline; with a model's files the distilled one that they show."""
    known = files if files is not None else ModelFiles(pipeline_class_name)
    for family in FAMILIES:
        if pipeline_class_name in family.pipelines and family.is_sign(known):
            return family
    return OTHER


def get_family(name: str) -> Family:
    """By the name that facts and jobs bear; ``OTHER`` for one that another version knows."""
    return _BY_NAME.get(name, OTHER)
