"""Solvers of diffusers that can do flow matching, for the pipelines of Stable Diffusion 3 and Flux.

Those were written for their own scheduler: they hand over noise levels and a shift, and ask for noise to be mixed in.
https://huggingface.co/docs/diffusers/api/schedulers/flow_match_euler_discrete
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import diffusers
import torch

KINDS: Final = frozenset({"DPMSolverMultistepScheduler", "UniPCMultistepScheduler"})


def build_flow_scheduler(kind: str, own: Mapping[str, Any], changes: Mapping[str, object]) -> Any:
    """One of ``KINDS`` for a model whose own scheduler is configured so."""
    scheduler = _build_class(kind)(
        num_train_timesteps=own.get("num_train_timesteps", 1000),
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=own.get("shift", 1.0),
        **changes,
    )
    scheduler.is_shifted_by_size = bool(own.get("use_dynamic_shifting"))
    return scheduler


@cache
def _build_class(kind: str) -> Any:
    base: Any = getattr(diffusers, kind)

    class FlowScheduler(base):  # type: ignore[misc]
        """What the pipelines ask of a scheduler besides."""

        is_shifted_by_size = False

        def set_timesteps(
            self,
            num_inference_steps: int | None = None,
            device: Any = None,
            sigmas: Any = None,
            mu: float | None = None,
        ) -> None:
            """The solver's own noise levels; ``mu`` says by how much larger images shift them.

            Of ``sigmas`` the count alone matters, where it is all that says how many steps there are: so do Flux's
            pipelines that begin with an image.
            """
            steps = len(sigmas) if num_inference_steps is None else num_inference_steps
            if mu is not None and self.is_shifted_by_size:
                self.register_to_config(flow_shift=math.exp(mu))
            super().set_timesteps(steps, device=device)

        def scale_noise(self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            """An image with noise of a step mixed in: [images, …], as the model's own scheduler does it."""
            timesteps = self.timesteps.to(timestep.device)
            places = [int((timesteps == one).nonzero()[0]) for one in timestep.reshape(-1)]
            sigma = self.sigmas.to(sample.device, sample.dtype)[places]
            sigma = sigma.reshape(-1, *(1,) * (sample.ndim - 1))
            mixed: torch.Tensor = sigma * noise + (1.0 - sigma) * sample
            return mixed

    FlowScheduler.__name__ = kind  # as recipes name it
    return FlowScheduler
