"""What a task is described by. The tasks themselves are the files beside this one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskInput:
    """An image that a task begins with."""

    name: str  # in a request
    digest_field: str  # of GenerationParameters
    mode: str  # Pillow's: "RGB", or "L" for a mask
    argument: str  # of a pipeline's call


@dataclass(frozen=True)
class TaskDefinition:
    """One task. What differs between tasks is a field here, so that nobody else asks which task it is."""

    pipeline: str | None = None  # diffusers' auto-pipeline that makes its pipeline of the loaded one; None: that itself
    inputs: tuple[TaskInput, ...] = ()
    # Share of the steps that are taken where a request doesn't say; None: this task takes all steps of any request.
    default_strength: float | None = None

    def count_denoising_steps(self, steps: int, strength: float | None) -> int:
        """How many of the ``steps`` asked for are taken: the last ``strength`` of them, at least one."""
        if self.default_strength is None or strength is None:
            return steps
        return max(1, min(steps, int(steps * strength)))

    def build_pipeline_arguments(self, steps: int, strength: float | None) -> dict[str, float]:
        """Arguments of a pipeline's call that only this task has, besides its inputs.

        Pipelines cut steps * strength to a whole number; the strength given makes that the number of steps counted
        above, whatever is lost in the product.
        """
        if self.default_strength is None:
            return {}
        return {"strength": min(1.0, (self.count_denoising_steps(steps, strength) + 0.5) / steps)}
