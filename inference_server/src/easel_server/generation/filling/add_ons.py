"""What a request says of adapters and ControlNets: which configured ones its names stand for, and whether they may be.

A name that stands for none has an empty key until its check names it. Pure.
"""

from collections.abc import Sequence
from typing import Any

from easel_contract.add_ons import MAX_WEIGHT, AddOnConfig

from easel_server.generation.add_ons import AdapterUse, ControlPasses, ControlType, ControlUse, Feature
from easel_server.generation.filling.context import FillContext, Values
from easel_server.generation.messages import refuse_name, truncate_repr
from easel_server.generation.prompts.networks import build_adapter_finder
from easel_server.generation.tasks import Task


def complete_adapters(asked: Sequence[Any], context: FillContext) -> tuple[AdapterUse, ...]:
    """Those that have an effect, sorted by name: in any order they are the same request."""
    find = build_adapter_finder(context.add_ons.list_adapters(context.model)) if asked else None
    uses = []
    for each in asked:
        config = find(each.name) if find else None
        weight = each.weight if each.weight is not None else config.default_weight if config else 1.0
        name, key = (config.name, config.key) if config else (each.name, "")
        # A weight beyond its bounds is for the check to name.
        uses.append(AdapterUse.model_construct(name=name, weight=weight, key=key))
    return tuple(sorted((use for use in uses if use.weight), key=lambda use: use.name))


def check_adapters(uses: Sequence[AdapterUse], context: FillContext) -> str | None:
    """What is wrong with them, the first thing."""
    most = context.limits.max_adapters
    if Feature.ADAPTERS not in context.facts.features:
        return f"asks for {truncate_repr(uses[0].name)}, and this model takes no adapters; leave it out"
    names = [use.name for use in uses]
    if len(uses) > most:
        return f"asks for {len(uses)} adapters, allowed are {most}"
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        return f"names {truncate_repr(twice)} twice; name each adapter once"
    unknown = next((use.name for use in uses if not use.key), None)
    if unknown is not None:
        return refuse_name(unknown, [each.name for each in context.add_ons.list_adapters(context.model)], "adapter")
    weight = next((use.weight for use in uses if not -MAX_WEIGHT <= use.weight <= MAX_WEIGHT), None)
    return None if weight is None else f"has a weight of {weight}, allowed are {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"


def settle_controls(asked: Sequence[Any], values: Values, context: FillContext) -> tuple[ControlUse, ...]:
    """In their order, each with the key of what its name stands for. What is beyond bounds is for the check to name."""
    has_passes = values["hires"] is not None
    known = {each.name: each for each in context.add_ons.control_nets}
    preprocessors = {each.name: each.key for each in context.add_ons.preprocessors}
    return tuple(
        ControlUse.model_construct(
            name=each.name,
            key=known[each.name].key if each.name in known else "",
            image_digest=each.image_digest,
            weight=each.weight,
            start=each.start,
            end=each.end,
            mode=each.mode,
            passes=each.passes if has_passes else ControlPasses.BOTH,
            control_type=_find_type(each, known.get(each.name)),
            preprocessor=each.preprocessor,
            preprocessor_key=preprocessors.get(each.preprocessor, ""),
        )
        for each in asked
    )


def _find_type(asked: Any, config: AddOnConfig | None) -> ControlType | None:
    """Of a control image: what the client says, or for what is called a union network what its preprocessor makes."""
    chosen: ControlType | None = asked.control_type
    if chosen is None and config is not None and "union" in f"{config.name} {config.source} {config.file}".lower():
        chosen = getattr(asked, "made_type", None)  # a recipe says it itself
    return chosen


def check_controls(uses: Sequence[ControlUse], values: Values, context: FillContext) -> str | None:
    """What is wrong with them, the first thing."""
    if Feature.CONTROL_NETS not in context.facts.features:
        return f"asks for {truncate_repr(uses[0].name)}, and this model takes no ControlNets; leave it out"
    if len(uses) > context.limits.max_controls:
        return f"asks for {len(uses)} ControlNets, allowed are {context.limits.max_controls}"
    unknown = next((use.name for use in uses if not use.key), None)
    if unknown is not None:
        return refuse_name(unknown, [each.name for each in context.add_ons.control_nets], "ControlNet")
    lost = next((use.preprocessor for use in uses if use.preprocessor and not use.preprocessor_key), None)
    if lost is not None:
        return refuse_name(lost, [each.name for each in context.add_ons.preprocessors], "preprocessor")
    if context.facts.defaults.traits.is_controlled_from_text_only and (fault := _find_pass_fault(uses, values)):
        return fault
    sent = context.inputs.control_digests if context.inputs is not None else ()
    return next((fault for use in uses if (fault := _find_control_fault(use, sent)) is not None), None)


def _find_pass_fault(uses: Sequence[ControlUse], values: Values) -> str | None:
    """Of a model that has ControlNets for images from a text alone."""
    if values["task"] is not Task.TEXT_TO_IMAGE:
        return (
            f"asks for {truncate_repr(uses[0].name)}, and with this model ControlNets are for images from a text alone"
        )
    second = next((use for use in uses if values["hires"] is not None and use.passes is not ControlPasses.FIRST), None)
    if second is None:
        return None
    name, allowed = truncate_repr(second.name), ControlPasses.FIRST.value
    return (
        f"asks for {name} in a second pass too, and with this model ControlNets have no say there; ask for {allowed!r}"
    )


def _find_control_fault(use: ControlUse, sent: Sequence[str]) -> str | None:
    if not 0 <= use.weight <= MAX_WEIGHT:
        return f"has a weight of {use.weight}, allowed are 0 to {MAX_WEIGHT:g}"
    if not 0 <= use.start < use.end <= 1:
        return f"has a say from {use.start} to {use.end}; allowed are shares of the steps from 0 to 1, upwards"
    if use.image_digest not in sent:
        return f"needs the control image of {truncate_repr(use.name)}, which must be sent with it"
    return None
