"""Schedulers for the samplers that a model can use, made from the model's own scheduler and its configuration."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

import diffusers
import torch
from diffusers.schedulers.scheduling_dpmsolver_sde import BatchedBrownianTree

from easel_server.engine.interface import GenerationError
from easel_server.generation.families import Family
from easel_server.generation.samplers import SAMPLERS, Sampler

FLOW_SAMPLER: Final = "Euler"  # what the scheduler of flow-matching models does
FLOW_SCHEDULER: Final = "FlowMatchEulerDiscreteScheduler"
FLOW_OPTION: Final = "use_flow_sigmas"  # of schedulers that can do flow matching, too
KARRAS_OPTION: Final = "use_karras_sigmas"
TREE_DIGITS: Final = 6  # to which torchsde rounds the ends of a Brownian tree, by its tolerance
USED_DEFAULTS: Final = "_use_default_values"  # names of the fields that a scheduler's configuration didn't have
# Schedulers that diffusers doesn't list as compatible with any, and one that takes the same configuration.
UNLISTED_COMPATIBLES: Final = {"LCMScheduler": "DDIMScheduler"}


_SDEScheduler: Any = diffusers.DPMSolverSDEScheduler  # whose types are incomplete


class SeededSDEScheduler(_SDEScheduler):  # type: ignore[misc]
    """Takes its noise from seeds, one for each image, on the CPU: the same on any device and in any company."""

    image_seeds: Sequence[int] = ()
    noise_sampler: Any

    def step(self, model_output: Any, timestep: Any, sample: Any, *arguments: Any, **options: Any) -> Any:
        """As its base class, whose noise comes from one seed for a batch, made where the batch is."""
        if self.noise_sampler is None:
            self.noise_sampler = self._build_noise_sampler(sample)
        return super().step(model_output, timestep, sample, *arguments, **options)

    def _build_noise_sampler(self, sample: torch.Tensor) -> Any:
        sigmas = self.sigmas[self.sigmas > 0].to("cpu")
        least, most = sigmas.min().item(), sigmas.max().item()
        latents = torch.zeros(sample.shape, dtype=torch.float32)
        tree: Any = BatchedBrownianTree(latents, least, most, list(self.image_seeds))
        least, most = round(least, TREE_DIGITS), round(most, TREE_DIGITS)
        device, dtype = sample.device, sample.dtype

        def sample_noise(sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
            begin, end = sigma.to("cpu"), sigma_next.to("cpu")
            # The tree's ends are rounded; what is beyond them would be warned of at each image.
            increment = tree(begin.double().clamp(least, most), end.double().clamp(least, most))
            noise: torch.Tensor = increment / (end - begin).abs().sqrt()
            return noise.to(device, dtype)

        return sample_noise


SEEDED: Final[Mapping[str, Any]] = {"DPMSolverSDEScheduler": SeededSDEScheduler}


class Schedulers:
    """Makes a new scheduler for each generation, so that nothing is left over from the last one."""

    def __init__(self, own: Any, family: Family | None = None) -> None:
        """``own`` is the scheduler that was loaded with the model of this family."""
        self._own = own
        self._config = read_config(own)
        names = family.sampler_names if family is not None else None
        self.samplers = tuple(
            name
            for name, sampler in SAMPLERS.items()
            if (names is None or name in names) and self._can_be(name, sampler)
        )

    def _can_be(self, name: str, sampler: Sampler) -> bool:
        own = type(self._own).__name__
        if own == FLOW_SCHEDULER:
            return name == FLOW_SAMPLER
        if self._config.get(FLOW_OPTION) and (
            FLOW_OPTION not in find_fields(sampler.scheduler) or sampler.changes.get(KARRAS_OPTION)
        ):
            return False
        exchangeable = {kind.__name__ for kind in _find_stand_in(self._own).compatibles}
        return UNLISTED_COMPATIBLES.get(sampler.scheduler, sampler.scheduler) in exchangeable

    def build(self, sampler: str | None, seeds: Sequence[int] = ()) -> Any:
        """The sampler's scheduler for images of these seeds; the model's own for None.

        Raises GenerationError for one that doesn't fit.
        """
        if sampler is None:
            return copy.deepcopy(self._own)
        if sampler not in self.samplers:
            known = ", ".join(self.samplers) or "none but its own"
            raise GenerationError(f"this model can't use the sampler {sampler!r}; it can use: {known}")
        if type(self._own).__name__ == FLOW_SCHEDULER:
            return type(self._own).from_config(self._config, **_choose_flow_changes(sampler))
        chosen = SAMPLERS[sampler]
        kind = SEEDED.get(chosen.scheduler) or getattr(diffusers, chosen.scheduler)
        missing = {name: value for name, value in chosen.fallbacks.items() if name not in self._config}
        scheduler = kind.from_config(self._config, **missing, **chosen.changes)
        if isinstance(scheduler, SeededSDEScheduler):
            scheduler.image_seeds = seeds
        return scheduler

    def check_steps(self, steps: int) -> None:
        """Raises GenerationError for more steps than there can be."""
        # A scheduler picks its steps among those it was trained with; with all of them, some step over the end.
        trained = getattr(self._own.config, "num_train_timesteps", None)
        if trained is not None and steps >= trained:
            raise GenerationError(f"{steps} steps are more than this model's scheduler has: 1 to {trained - 1}")


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


def _find_stand_in(own: Any) -> Any:
    stand_in = UNLISTED_COMPATIBLES.get(type(own).__name__)
    return getattr(diffusers, stand_in)() if stand_in else own


def _choose_flow_changes(sampler: str) -> dict[str, object]:
    return {**SAMPLERS[sampler].changes, "stochastic_sampling": False}
