"""Samplers by the names that AUTOMATIC1111's web UI gave them, and the diffusers schedulers that do the same.

After https://huggingface.co/docs/diffusers/api/schedulers/overview, but for DPM++ SDE: the solver named there,
DPMSolverSinglestepScheduler, is deterministic, and as an SDE it loses a fifth of the variance (of Gaussian data with
deviation 0.5, 20 steps with Karras' sigmas leave 0.40, DPMSolverSDEScheduler's 0.49). LMS is missing, and DPM2, since
diffusers' doesn't agree with NumPy 2. Imports no torch: gateways check names with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from easel_contract.schema import SCHEDULES, WITH_SCHEDULES


@dataclass(frozen=True)
class Sampler:
    """A scheduler class of diffusers, and what the name says of its configuration."""

    scheduler: str
    changes: Mapping[str, object] = field(default_factory=dict)  # whatever the model's own configuration says
    fallbacks: Mapping[str, object] = field(default_factory=dict)  # what a configuration without the field means
    evaluations: int = 1  # of the denoiser a step, without guidance
    takes_eta: bool = False  # how much chance there is in a step is the request's choice


KARRAS_SUFFIX: Final = " Karras"
SIMPLE: Final = "Simple"  # of AUTOMATIC1111: the steps of SGM Uniform, up to one of a thousand
NO_SAMPLER: Final = "none"  # of the synthetic engine
OWN_SUFFIX: Final = "Scheduler"  # of diffusers' classes: in an image's text, a model's own one has no other name
# A name without Karras means evenly spaced ones, also for a model whose own scheduler has others.
_EVEN: Final[dict[str, object]] = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_KARRAS: Final[dict[str, object]] = {**_EVEN, "use_karras_sigmas": True}
_MULTISTEP: Final[dict[str, object]] = {"solver_order": 2, "solver_type": "midpoint", "use_lu_lambdas": False}
_ODE: Final[dict[str, object]] = {**_MULTISTEP, "algorithm_type": "dpmsolver++"}
_SDE: Final[dict[str, object]] = {**_MULTISTEP, "algorithm_type": "sde-dpmsolver++"}
# The defaults of diffusers are for models of pixels. Latents have no bounds to clip at, and end at their first noise.
_LATENTS: Final[dict[str, object]] = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
_PLMS: Final[dict[str, object]] = {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
_SCHEDULES: Final[Mapping[str, dict[str, object]]] = {
    "Karras": _KARRAS,
    "Exponential": {**_EVEN, "use_exponential_sigmas": True},
    "Beta": {**_EVEN, "use_beta_sigmas": True},
    "SGM Uniform": {**_EVEN, "timestep_spacing": "trailing"},
}


def _build_samplers() -> dict[str, Sampler]:
    solvers = {
        "Euler": Sampler("EulerDiscreteScheduler", _EVEN),
        "Euler a": Sampler("EulerAncestralDiscreteScheduler"),
        "Heun": Sampler("HeunDiscreteScheduler", _EVEN, evaluations=2),
        "DPM++ 2M": Sampler("DPMSolverMultistepScheduler", _ODE | _EVEN),
        "DPM++ 2M SDE": Sampler("DPMSolverMultistepScheduler", _SDE | _EVEN),
        "DPM++ SDE": Sampler("DPMSolverSDEScheduler", _EVEN, evaluations=2),
        "DDIM": Sampler("DDIMScheduler", fallbacks=_LATENTS, takes_eta=True),
        "PNDM": Sampler("PNDMScheduler", fallbacks=_PLMS),
        "UniPC": Sampler("UniPCMultistepScheduler", _EVEN),
        "LCM": Sampler("LCMScheduler"),
    }
    named = {
        f"{name} {schedule}": replace(solvers[name], changes={**solvers[name].changes, **changes})
        for name in WITH_SCHEDULES
        for schedule, changes in _SCHEDULES.items()
    }
    built = {}
    for name, sampler in solvers.items():
        built[name] = sampler
        built |= {each: of for each, of in named.items() if each in (f"{name} {schedule}" for schedule in _SCHEDULES)}
    return built


SAMPLERS: Final[Mapping[str, Sampler]] = MappingProxyType(_build_samplers())


def split_sampler(name: str) -> tuple[str, str | None]:
    """A sampler and its schedule, as AUTOMATIC1111 has named them since version 1.9; None: it has one only."""
    for schedule in SCHEDULES:
        base = name.removesuffix(f" {schedule}")
        if base != name:
            return base, schedule
    return name, "Uniform" if name + KARRAS_SUFFIX in SAMPLERS else None


def join_sampler(sampler: str, schedule: str | None) -> str | None:
    """The name here of a sampler and a schedule of an image's text; None for a model's own scheduler."""
    if sampler.endswith(OWN_SUFFIX) or sampler == NO_SAMPLER:
        return None
    if schedule in (None, "Automatic", "Uniform") or sampler.endswith(f" {schedule}"):
        return sampler
    return f"{sampler} {SCHEDULES[-1] if schedule == SIMPLE else schedule}"
