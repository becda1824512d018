"""Schedulers for the samplers that a model can use, made from the model's own scheduler and its configuration."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

import diffusers
from easel_contract.server_config import PredictionType, SchedulerConfig

from easel_server.engine.interface import GenerationError, ModelLoadError
from easel_server.engine.schedulers.flow import KINDS, build_flow_scheduler
from easel_server.generation.families import Family
from easel_server.generation.samplers import SAMPLERS, Sampler

# What flow-matching models can be solved with, by the names that samplers have; Heun's only where no size shifts it.
FLOW_SAMPLERS: Final = frozenset(
    {"Euler", "Euler Karras", "Euler Exponential", "Euler Beta", "Heun", "DPM++ 2M", "UniPC"}
)
FLOW_HEUN: Final = "FlowMatchHeunDiscreteScheduler"
FLOW_SCHEDULER: Final = "FlowMatchEulerDiscreteScheduler"
FLOW_OPTION: Final = "use_flow_sigmas"  # of schedulers that can do flow matching, too
PREDICTIONS: Final = {PredictionType.EPSILON: "epsilon", PredictionType.V_PREDICTION: "v_prediction"}
SHIFTS: Final = frozenset({"shift", "use_dynamic_shifting", "flow_shift"})  # carried over by name
SDE_SCHEDULER: Final = "DPMSolverSDEScheduler"
KARRAS_OPTION: Final = "use_karras_sigmas"
USED_DEFAULTS: Final = "_use_default_values"  # names of the fields that a scheduler's configuration didn't have
# Schedulers that diffusers doesn't list as compatible with any, and one that takes the same configuration.
UNLISTED_COMPATIBLES: Final = {"LCMScheduler": "DDIMScheduler"}


class Schedulers:
    """Makes a new scheduler for each generation, so that nothing is left over from the last one."""

    def __init__(self, own: Any, family: Family | None = None, chosen: SchedulerConfig | None = None) -> None:
        """``own`` is the scheduler that was loaded with the model of this family, ``chosen`` how the service has it.

        Raises ModelLoadError where the model can't be denoised so.
        """
        changes = find_changes(own, chosen) if chosen is not None else {}
        self._own = type(own).from_config({**read_config(own), **changes}) if changes else own
        self._config = read_config(self._own) | changes
        # Fields that a kind of scheduler must have, else it would go on as if nothing was said.
        self._needed = {name for name, value in changes.items() if value is not False} - SHIFTS
        self._default = chosen.sampler if chosen is not None else None
        names = family.sampler_names if family is not None else None
        self.samplers = tuple(
            name
            for name, sampler in SAMPLERS.items()
            if (names is None or name in names) and self._can_be(name, sampler)
        )
        if self._default is not None and self._default not in self.samplers:
            raise ModelLoadError(
                f"model.scheduler.sampler is {self._default!r}, which this model can't use; it can use: "
                f"{', '.join(self.samplers) or 'none but its own'}"
            )
        lacking = self._needed - find_fields(type(own).__name__, kind=type(own)).keys()
        if self._default is None and lacking:
            raise ModelLoadError(
                f"model.scheduler: the model's own {type(own).__name__} has no {', '.join(sorted(lacking))}; name a "
                f"sampler that has in model.scheduler.sampler: {', '.join(self.samplers)}"
            )

    def _can_be(self, name: str, sampler: Sampler) -> bool:
        own = type(self._own).__name__
        if own == FLOW_SCHEDULER:
            return name in FLOW_SAMPLERS
        if not self._needed <= find_fields(sampler.scheduler).keys():
            return False
        if self._config.get(FLOW_OPTION) and (
            FLOW_OPTION not in find_fields(sampler.scheduler) or sampler.changes.get(KARRAS_OPTION)
        ):
            return False
        return UNLISTED_COMPATIBLES.get(sampler.scheduler, sampler.scheduler) in list_exchangeable(own)

    def build(self, sampler: str | None, seeds: Sequence[int] = ()) -> Any:
        """The sampler's scheduler for images of these seeds; for None the service's, else the model's own.

        Raises GenerationError for one that doesn't fit.
        """
        sampler = sampler or self._default
        if sampler is None:
            return copy.deepcopy(self._own)
        if sampler not in self.samplers:
            known = ", ".join(self.samplers) or "none but its own"
            raise GenerationError(f"this model can't use the sampler {sampler!r}; it can use: {known}")
        if type(self._own).__name__ == FLOW_SCHEDULER:
            return self._build_flow(sampler)
        chosen = SAMPLERS[sampler]
        missing = {name: value for name, value in chosen.fallbacks.items() if name not in self._config}
        config = {**self._config, **missing, **chosen.changes}
        if chosen.scheduler == SDE_SCHEDULER:
            # Here, since it takes half a second of each start that never needs it.
            from easel_server.engine.schedulers.sde import build_sde_scheduler  # noqa: PLC0415

            return build_sde_scheduler(config, seeds)
        return getattr(diffusers, chosen.scheduler).from_config(config)

    def _build_flow(self, sampler: str) -> Any:
        chosen = SAMPLERS[sampler]
        if chosen.scheduler in KINDS:
            return build_flow_scheduler(chosen.scheduler, self._config, chosen.changes)
        if sampler == "Heun":
            shift = {name: self._config[name] for name in ("num_train_timesteps", "shift") if name in self._config}
            return getattr(diffusers, FLOW_HEUN)(**shift)
        return type(self._own).from_config(self._config, **chosen.changes, stochastic_sampling=False)

    def check_steps(self, steps: int) -> None:
        """Raises GenerationError for more steps than there can be."""
        # A scheduler picks its steps among those it was trained with; with all of them, some step over the end.
        trained = getattr(self._own.config, "num_train_timesteps", None)
        if trained is not None and steps >= trained:
            raise GenerationError(f"{steps} steps are more than this model's scheduler has: 1 to {trained - 1}")


def find_changes(own: Any, chosen: SchedulerConfig) -> dict[str, Any]:
    """What a service's choice changes of the configuration of a model's own scheduler. Raises ModelLoadError."""
    kind = type(own).__name__
    is_flow = kind == FLOW_SCHEDULER or bool(own.config.get(FLOW_OPTION))
    if chosen.shift is not None:
        if not is_flow:
            raise ModelLoadError(
                f"model.scheduler.shift is for models that match flows (Stable Diffusion 3, Flux), and this one's "
                f"scheduler is a {kind}; leave it unset"
            )
        fixed = {"shift": chosen.shift, "use_dynamic_shifting": False}
        return fixed if kind == FLOW_SCHEDULER else {"flow_shift": chosen.shift}
    changes = {
        "prediction_type": PREDICTIONS[chosen.prediction_type] if chosen.prediction_type else None,
        "rescale_betas_zero_snr": chosen.rescale_betas_zero_snr,
        "timestep_spacing": chosen.timestep_spacing.value.lower() if chosen.timestep_spacing else None,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if changes and is_flow:
        raise ModelLoadError(
            f"model.scheduler sets {', '.join(changes)}, and this model matches flows (its scheduler is a {kind}), "
            "which have none of that; set shift, or leave them unset"
        )
    return changes


def read_config(scheduler: Any) -> dict[str, Any]:
    """The fields that a model's configuration has, for schedulers of other kinds.

    Not those which it lacks, as another kind has other defaults. But what a pipeline has set when it was made, as
    Stable Diffusion's does with ``steps_offset`` and ``clip_sample``, is said, whatever diffusers notes of it.
    """
    defaults = find_fields(type(scheduler).__name__, kind=type(scheduler))
    unsaid = {
        name for name in scheduler.config.get(USED_DEFAULTS, ()) if scheduler.config.get(name) == defaults.get(name)
    }
    return {name: value for name, value in scheduler.config.items() if name not in unsaid and name != USED_DEFAULTS}


def find_fields(name: str, kind: Any = None) -> Mapping[str, Any]:
    """The fields of a kind of scheduler's configuration, with their defaults."""
    signature = inspect.signature((kind or getattr(diffusers, name)).__init__)
    return {field: parameter.default for field, parameter in signature.parameters.items()}


def list_exchangeable(own: str) -> frozenset[str]:
    """The kinds of scheduler that take the configuration of this kind, by diffusers' own list.

    Not by its ``compatibles``, which imports each of them, and libraries that few of them need.
    """
    kind: Any = getattr(diffusers, UNLISTED_COMPATIBLES.get(own, own), None)
    return frozenset({own, *getattr(kind, "_compatibles", ())})
