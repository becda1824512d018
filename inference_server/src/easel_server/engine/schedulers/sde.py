"""A scheduler that solves a stochastic differential equation, with noise of each image's own seed."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import diffusers
import torch
from diffusers.schedulers.scheduling_dpmsolver_sde import BatchedBrownianTree

TREE_DIGITS: Final = 6  # to which torchsde rounds the ends of a Brownian tree, by its tolerance

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


def build_sde_scheduler(config: Mapping[str, Any], seeds: Sequence[int]) -> Any:
    """Of a scheduler's configuration, for images of these seeds."""
    scheduler = SeededSDEScheduler.from_config(config)
    scheduler.image_seeds = seeds
    return scheduler
