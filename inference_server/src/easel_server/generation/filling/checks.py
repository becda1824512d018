"""Defaults and checks of single parameters: a sentence for a value that isn't allowed, with what is. Pure."""

from collections.abc import Sequence
from typing import Any

from easel_server.generation.add_ons import Feature
from easel_server.generation.families import NegativePrompts
from easel_server.generation.filling.context import FillContext, Values
from easel_server.generation.messages import truncate_repr
from easel_server.generation.parameters import MAX_CLIP_SKIP
from easel_server.generation.prompts.networks import find_network
from easel_server.generation.samplers import SAMPLERS
from easel_server.generation.tasks import TASKS


def check_range(value: float, least: float, most: float) -> str | None:
    """For a number between two others, both allowed."""
    return None if least <= value <= most else f"is {value}, allowed are {least} to {most}"  # NaN fails this too


def check_text(text: str, least: int, context: FillContext) -> str | None:
    """For a prompt of at least so many characters."""
    most = context.limits.max_prompt_characters
    if not least <= len(text) <= most:
        return f"has {len(text)} characters, allowed are {least} to {most}"
    return find_network(text) if "<" in text else None


def check_choice(value: Any, choices: Sequence[Any], sentence: str) -> str | None:
    """For one of some names; the sentence may name ``value``, ``shown`` (shortened) and ``choices``."""
    if value in choices:
        return None
    return sentence.format(value=value, shown=truncate_repr(value), choices=", ".join(choices))


def check_strength(strength: float, values: Values, context: FillContext) -> str | None:
    """For the share of the steps that are taken, at least one of them."""
    if TASKS[values["task"]].default_strength is None:
        return f"is {strength}, which means nothing without an image to begin with"
    if not 0 < strength <= 1:
        return f"is {strength}, allowed is more than 0 to 1"
    steps = values["steps"]
    if context.facts.defaults.traits.strength_rule.count_steps(steps, strength) < 1:
        return f"is {strength}, of {steps} steps less than one; allowed are {1 / steps:.3g} to 1"
    return None


def check_negative_prompt(text: str, context: FillContext) -> str | None:
    """For a text that some families take none of."""
    if text and context.facts.defaults.traits.negative_prompts is NegativePrompts.REFUSED:
        return f"has {len(text)} characters, but this model ({context.facts.defaults.family}) takes none; leave it out"
    return check_text(text, 0, context)


def complete_clip_skip(skip: int | None, context: FillContext) -> int | None:
    """None for a layer that the model's family takes anyway; a default that it has no layer for means nothing."""
    family = context.facts.defaults.traits
    usual = 1 if family.clip_layer is None else family.clip_layer
    return None if skip is None or 1 <= skip <= usual else skip


def choose_clip_skip(context: FillContext) -> int | None:
    """The service's own, where this model can do it."""
    if context.facts.defaults.clip_skip is None:
        return None
    chosen = complete_clip_skip(context.facts.defaults.clip_skip, context)
    return None if chosen is None or check_clip_skip(chosen, context) else chosen


def check_clip_skip(skip: int, context: FillContext) -> str | None:
    """For a layer, counted from the last, 1, of a model that has some to skip."""
    if not 1 <= skip <= MAX_CLIP_SKIP:
        return f"is {skip}, allowed are 1 to {MAX_CLIP_SKIP}"
    family = context.facts.defaults.traits
    if Feature.CLIP_SKIP not in context.facts.features or (family.name and family.clip_layer is None):
        return f"is {skip}, and this model ({family.name or 'of another family'}) has no layers to skip; leave it out"
    return None


def check_eta(eta: float, values: Values) -> str | None:
    """For the share of chance, with a sampler that takes one."""
    sampler = values["sampler"]
    if sampler is None or sampler not in SAMPLERS or not SAMPLERS[sampler].takes_eta:
        takers = ", ".join(name for name, each in SAMPLERS.items() if each.takes_eta)
        return (
            f"is {eta}, which has no effect with {sampler or 'the own sampler of the model'}; it has one with {takers}"
        )
    return check_range(eta, 0.0, 1.0)
