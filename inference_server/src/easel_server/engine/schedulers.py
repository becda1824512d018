"""Schedulers for the samplers that a model can use, made from the model's own scheduler configuration."""

from typing import Any

import diffusers

from easel_server.engine.interface import GenerationError
from easel_server.generation.samplers import SAMPLERS

# Schedulers that diffusers doesn't list as compatible with any, and one that takes the same configuration.
UNLISTED_COMPATIBLES = {"LCMScheduler": "DDIMScheduler"}


class Schedulers:
    """Makes a new scheduler for each generation, so that nothing is left over from the last one."""

    def __init__(self, own: Any) -> None:
        """``own`` is the scheduler that was loaded with the model."""
        self._own = own
        exchangeable = {kind.__name__ for kind in own.compatibles}
        self.samplers = tuple(
            name
            for name, sampler in SAMPLERS.items()
            if UNLISTED_COMPATIBLES.get(sampler.scheduler, sampler.scheduler) in exchangeable
        )

    def build(self, sampler: str | None) -> Any:
        """The sampler's scheduler; the model's own for None. Raises GenerationError for one that doesn't fit."""
        if sampler is None:
            return type(self._own).from_config(self._own.config)
        if sampler not in self.samplers:
            known = ", ".join(self.samplers) or "none but its own"
            raise GenerationError(f"this model can't use the sampler {sampler!r}; it can use: {known}")
        chosen = SAMPLERS[sampler]
        return getattr(diffusers, chosen.scheduler).from_config(self._own.config, **chosen.changes)

    def check_steps(self, steps: int) -> None:
        """Raises GenerationError for more steps than there can be."""
        # A scheduler picks its steps among those it was trained with; with all of them, some step over the end.
        trained = getattr(self._own.config, "num_train_timesteps", None)
        if trained is not None and steps >= trained:
            raise GenerationError(f"{steps} steps are more than this model's scheduler has: 1 to {trained - 1}")
