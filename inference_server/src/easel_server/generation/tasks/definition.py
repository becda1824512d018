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
    is_denoised: bool = True  # False: any model's workers can do it, and no step of the model is taken
