"""Samplers by the names that AUTOMATIC1111's web UI gave them, and the diffusers schedulers that do the same.

After https://huggingface.co/docs/diffusers/api/schedulers/overview. LMS is missing, since diffusers' needs SciPy,
and DPM2, since diffusers' doesn't agree with NumPy 2.
Imports no torch: gateways check names with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Sampler:
    """A scheduler class of diffusers, and what to change in the model's own scheduler configuration."""

    scheduler: str
    changes: Mapping[str, object] = field(default_factory=dict)


KARRAS_SUFFIX: Final = " Karras"
NO_SAMPLER: Final = "none"  # of the synthetic engine
OWN_SUFFIX: Final = "Scheduler"  # of diffusers' classes: in an image's text, a model's own one has no other name
_KARRAS: Final[dict[str, object]] = {"use_karras_sigmas": True}
_SDE: Final[dict[str, object]] = {"algorithm_type": "sde-dpmsolver++"}
_SINGLESTEP: Final[dict[str, object]] = {"lower_order_final": True}  # else an odd number of steps is refused
SAMPLERS: Final[Mapping[str, Sampler]] = MappingProxyType(
    {
        "Euler": Sampler("EulerDiscreteScheduler"),
        "Euler a": Sampler("EulerAncestralDiscreteScheduler"),
        "Heun": Sampler("HeunDiscreteScheduler"),
        "DPM++ 2M": Sampler("DPMSolverMultistepScheduler"),
        "DPM++ 2M Karras": Sampler("DPMSolverMultistepScheduler", _KARRAS),
        "DPM++ 2M SDE": Sampler("DPMSolverMultistepScheduler", _SDE),
        "DPM++ 2M SDE Karras": Sampler("DPMSolverMultistepScheduler", _SDE | _KARRAS),
        "DPM++ SDE": Sampler("DPMSolverSinglestepScheduler", _SINGLESTEP),
        "DPM++ SDE Karras": Sampler("DPMSolverSinglestepScheduler", _SINGLESTEP | _KARRAS),
        "DDIM": Sampler("DDIMScheduler"),
        "PNDM": Sampler("PNDMScheduler"),
        "UniPC": Sampler("UniPCMultistepScheduler"),
        "LCM": Sampler("LCMScheduler"),
    }
)


def split_sampler(name: str) -> tuple[str, str | None]:
    """A sampler and its schedule, as AUTOMATIC1111 has named them since version 1.9; None: it has one only."""
    base = name.removesuffix(KARRAS_SUFFIX)
    if base != name:
        return base, "Karras"
    return name, "Uniform" if name + KARRAS_SUFFIX in SAMPLERS else None


def join_sampler(sampler: str, schedule: str | None) -> str | None:
    """The name here of a sampler and a schedule of an image's text; None for a model's own scheduler."""
    if sampler.endswith(OWN_SUFFIX) or sampler == NO_SAMPLER:
        return None
    if schedule in (None, "Automatic", "Uniform") or sampler.endswith(f" {schedule}"):
        return sampler
    return f"{sampler} {schedule}"
