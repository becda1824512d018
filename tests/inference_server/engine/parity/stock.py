"""What diffusers' own call gives for a job: the same weights, called as its documentation says, nothing of ours."""

from functools import cache
from io import BytesIO
from typing import Any, Final

from easel_server.engine import loading
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import Task
from PIL import Image

from tests.support.images import build_image, digest
from tests.support.tiny_engine import tiny_parameters

SIDE: Final = 64
IMAGE: Final = build_image(SIDE, SIDE)
STEPS: Final = 5
STRENGTH: Final = 0.6  # of 5 steps 3, by either rule
# What clients mean by a sampler's name, as diffusers' documentation says it.
KARRAS: Final = {"use_karras_sigmas": True}
SDE: Final = {"algorithm_type": "sde-dpmsolver++"}
SCHEDULERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", KARRAS),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", SDE),
    "DPM++ 2M SDE Karras": ("DPMSolverMultistepScheduler", SDE | KARRAS),
    "DPM++ SDE": ("DPMSolverSDEScheduler", {}),
    "DPM++ SDE Karras": ("DPMSolverSDEScheduler", KARRAS),
    "DDIM": ("DDIMScheduler", {}),
    "PNDM": ("PNDMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
}
SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "Karras": KARRAS,
    "Exponential": {"use_exponential_sigmas": True},
    "Beta": {"use_beta_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
}
for _name in ("Euler", "Heun", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE"):
    for _schedule, _fields in SCHEDULES.items():
        SCHEDULERS[f"{_name} {_schedule}"] = (SCHEDULERS[_name][0], SCHEDULERS[_name][1] | _fields)
FLOW: Final = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
FLOW_SCHEDULERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "Euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "Euler Karras": ("FlowMatchEulerDiscreteScheduler", KARRAS),
    "Euler Exponential": ("FlowMatchEulerDiscreteScheduler", {"use_exponential_sigmas": True}),
    "Euler Beta": ("FlowMatchEulerDiscreteScheduler", {"use_beta_sigmas": True}),
    "Heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", FLOW),
    "UniPC": ("UniPCMultistepScheduler", FLOW),
}
# What a scheduler of latents has where a repository doesn't say it: no clipping, the last step ends at the first noise.
OF_LATENTS: Final[dict[str, dict[str, Any]]] = {
    "DDIM": {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
    "PNDM": {"skip_prk_steps": True, "steps_offset": 1},
}


def build_mask() -> bytes:
    """White on its right half."""
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (SIDE // 2, 0, SIDE, SIDE))
    buffer = BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


MASK: Final = build_mask()
INPUTS: Final = {digest(IMAGE): IMAGE, digest(MASK): MASK}


def build_job(task: Task, **changes: Any) -> GenerationParameters:
    """A small job of a task."""
    given: dict[str, Any] = {"task": task, "steps": STEPS}
    if task is not Task.TEXT_TO_IMAGE:
        given |= {"image_digest": digest(IMAGE), "strength": STRENGTH}
    if task is Task.INPAINT:
        given["mask_digest"] = digest(MASK)
    return tiny_parameters(**given | changes)


def build_tiny(name: str, *, bare: bool) -> Any:
    """A tiny model, in one thread: more of them wait for each other where CPUs are shared."""
    loading.prepare_libraries()
    import torch  # noqa: PLC0415

    from tests.support.tiny_models import BUILDERS  # noqa: PLC0415  # loads torch

    torch.set_num_threads(1)
    pipeline = BUILDERS[name](**({"bare": True} if bare else {}))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@cache
def build_pipeline(name: str, *, bare: bool = False) -> Any:
    """A tiny model, which nobody but the stock call uses."""
    return build_tiny(name, bare=bare)


@cache
def build_engine(name: str, *, bare: bool = False) -> Any:
    """Our engine around the same tiny model, from the same seed."""
    from easel_server.engine.diffusers_engine import DiffusersEngine  # noqa: PLC0415  # loads torch

    pipeline = build_tiny(name, bare=bare)
    versions = {"easel": "0", "diffusers": "0", "torch": "0"}
    described = EngineDescription("diffusers", type(pipeline).__name__, "cpu", "float32", name, 0.0, versions=versions)
    return DiffusersEngine(pipeline, described)


def call_stock(pipeline: Any, job: GenerationParameters, **changes: Any) -> Image.Image:
    """The image of the pipeline's own call. ``changes`` are arguments that it is given besides."""
    import diffusers  # noqa: PLC0415  # loads torch
    import torch  # noqa: PLC0415

    automatic = {Task.IMAGE_TO_IMAGE: "AutoPipelineForImage2Image", Task.INPAINT: "AutoPipelineForInpainting"}
    chosen = pipeline
    if job.task in automatic:
        chosen = getattr(diffusers, automatic[job.task]).from_pipe(pipeline)
        chosen.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {
        "prompt": job.prompt,
        "num_inference_steps": job.steps,
        "guidance_scale": job.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(job.seed),
    }
    if job.negative_prompt:
        arguments["negative_prompt"] = job.negative_prompt
    if job.task is Task.TEXT_TO_IMAGE:
        arguments |= {"width": job.width_pixels, "height": job.height_pixels}
    else:
        arguments |= {"image": Image.open(BytesIO(IMAGE)).convert("RGB"), "strength": job.strength}
    if job.task is Task.INPAINT:
        arguments["mask_image"] = Image.open(BytesIO(MASK)).convert("L")
    if job.task is not Task.TEXT_TO_IMAGE and "width" in _find_names(chosen):
        arguments |= {"width": job.width_pixels, "height": job.height_pixels}
    image: Image.Image = chosen(**arguments | changes).images[0]
    return image


def _find_names(pipeline: Any) -> set[str]:
    import inspect  # noqa: PLC0415

    return set(inspect.signature(pipeline.__call__).parameters)


class stock_scheduler:  # noqa: N801  # a context manager, as a function would be
    """While it is open, the pipeline has the scheduler that a client means by a sampler's name; None: its own."""

    def __init__(self, pipeline: Any, sampler: str | None, seed: int, *, bare: bool = False) -> None:
        import diffusers  # noqa: PLC0415  # loads torch

        self._pipeline, self._own = pipeline, pipeline.scheduler
        self._chosen = self._own
        if sampler is not None:
            is_flow = "Flow" in type(self._own).__name__
            kind, fields = (FLOW_SCHEDULERS if is_flow else SCHEDULERS)[sampler]
            if "use_flow_sigmas" in fields:
                fields = fields | {"flow_shift": self._own.config.shift}
            fields = fields | (OF_LATENTS.get(sampler, {}) if bare else {})
            fields = fields | ({"noise_sampler_seed": seed} if "SDE" in kind else {})
            self._chosen = getattr(diffusers, kind).from_config(self._own.config, **fields)

    def __enter__(self) -> None:
        self._pipeline.scheduler = self._chosen

    def __exit__(self, *_: object) -> None:
        self._pipeline.scheduler = self._own
