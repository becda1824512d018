"""AUTOMATIC1111's samplers and schedules, and ours, which are named for both. Pure.

Since its version 1.9 a sampler and a schedule are two choices ("DPM++ 2M" and "Karras"); before, and in
``generation/samplers.py``, they are one name ("DPM++ 2M Karras").
"""

from collections.abc import Sequence
from typing import Any, Final

from easel_contract.schema import SCHEDULES as NAMED

from easel_server.gateway.refusals import refuse_field
from easel_server.generation.messages import truncate_repr
from easel_server.generation.samplers import SIMPLE, split_sampler

KARRAS: Final = "karras"
AUTOMATIC: Final = "automatic"  # the schedule that its authors think best for the sampler
UNIFORM: Final = "uniform"
SCHEDULES: Final = {
    AUTOMATIC: "Automatic",
    UNIFORM: "Uniform",
    **{name.lower().replace(" ", "_"): name for name in (*NAMED, SIMPLE)},
}
# What it takes for "Automatic"; of others the uniform one.
AUTOMATIC_SCHEDULES: Final = {"DPM++ 2M": "Karras", "DPM++ SDE": "Karras", "DPM++ 2M SDE": "Exponential"}


def choose_sampler(sampler: str | None, schedule: str | None, offered: Sequence[str]) -> str | None:
    """Our name of a sampler with a schedule; None for the model's own. Raises RefusalError."""
    word = (schedule or AUTOMATIC).lower().replace(" ", "_")
    if word not in SCHEDULES:
        raise refuse_field("scheduler", f"is {truncate_repr(schedule)}, allowed are {', '.join(SCHEDULES)}")
    if sampler is None:
        if word not in (AUTOMATIC, UNIFORM):
            raise refuse_field("scheduler", f"is {word!r} without a sampler_name, which must be given too")
        return None
    base, within = split_sampler(sampler)
    if word == AUTOMATIC:
        chosen = within if within in NAMED else AUTOMATIC_SCHEDULES.get(base)
    else:
        chosen = None if word == UNIFORM else NAMED[-1] if SCHEDULES[word] == SIMPLE else SCHEDULES[word]
    name = base if chosen is None else f"{base} {chosen}"
    if name in offered:
        return name
    if word not in (AUTOMATIC, UNIFORM) and base in offered:
        raise refuse_field(
            "scheduler", f"is {truncate_repr(schedule)}, which {base} doesn't have here; allowed is {AUTOMATIC}"
        )
    return sampler  # one of those without a second schedule, or one that is not offered, which is refused later


def list_samplers(offered: Sequence[str]) -> list[dict[str, Any]]:
    """The answer of ``samplers``."""
    names = dict.fromkeys(split_sampler(name)[0] for name in offered)
    return [{"name": name, "aliases": [], "options": {}} for name in names]


def list_schedulers(offered: Sequence[str]) -> list[dict[str, Any]]:
    """The answer of ``schedulers``: those that any of the model's samplers can be combined with."""
    found = {split_sampler(name)[1] for name in offered}
    if NAMED[-1] in found:
        found.add(SIMPLE)
    return [
        {"name": name, "label": label, "aliases": None, "default_rho": -1.0, "need_inner_model": False}
        for name, label in SCHEDULES.items()
        if name in (AUTOMATIC, UNIFORM) or label in found
    ]
