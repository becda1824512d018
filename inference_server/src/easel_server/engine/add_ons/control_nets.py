"""ControlNets of a job: loaded where they are first asked for, and put into the pipeline that diffusers has with them.

The job's pipeline is made of the loaded parts. Its ControlNets' calls pause as the denoiser's do, so those of several
jobs are one. Which models can do it is decided by the names of diffusers' classes.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from io import BytesIO
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final

import diffusers
import torch
from easel_contract.add_ons import AddOnConfig
from PIL import Image

from easel_server.engine.add_ons.control_net_files import find_union_types, load_control_net
from easel_server.engine.add_ons.files import LocalAddOn
from easel_server.engine.add_ons.residency import AddOnKey, Residency
from easel_server.engine.add_ons.upscalers import cut
from easel_server.engine.arguments import list_seeds
from easel_server.engine.diffusers_generation import Stage
from easel_server.engine.images.preprocessors import Preprocessors
from easel_server.engine.interface import GenerationError
from easel_server.engine.pipelines import TaskPipeline, find_arguments
from easel_server.engine.stepping.stepper import Stepper
from easel_server.generation.add_ons import ControlMode, ControlUse, find_cover
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import Task

# What diffusers' classes are called: the pipeline without ControlNets, and how those with one begin.
PREFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "StableDiffusionPipeline": "StableDiffusionControlNet",
        "StableDiffusionXLPipeline": "StableDiffusionXLControlNet",
        "StableDiffusion3Pipeline": "StableDiffusion3ControlNet",
        "FluxPipeline": "FluxControlNet",
    }
)
SUFFIXES: Final[Mapping[Task, str]] = MappingProxyType(
    {Task.TEXT_TO_IMAGE: "Pipeline", Task.IMAGE_TO_IMAGE: "Img2ImgPipeline", Task.INPAINT: "InpaintPipeline"}
)
CONTROL_IMAGE: Final = "control_image"
CONTROL_MODE: Final = "control_mode"
GUESS_MODE: Final = "guess_mode"
UNION_PART: Final = "Union"  # of a class's name, of pipelines for union networks
UNSEEDED: Final = frozenset({"StableDiffusion3Pipeline"})  # whose pipeline with ControlNets draws from the process
SIDES: Final = frozenset({"width", "height"})
# Of each output of a ControlNet against the one after it, where the prompt counts for more:
# https://github.com/Mikubill/sd-webui-controlnet#control-mode
SOFTER: Final = 0.825


class ControlNets:
    """Those of an engine. All in the engine's thread, but ``prefetch``."""

    def __init__(
        self,
        pipelines: Mapping[Task, TaskPipeline],
        stepper: Stepper,
        residency: Residency,
        locate: Callable[[AddOnConfig], LocalAddOn],
    ) -> None:
        """``locate`` says where a gathered add-on's file or folder is on this machine, and what."""
        self._pipelines = pipelines
        self._stepper = stepper
        self._residency = residency
        self._locate = locate
        self._preprocessors = Preprocessors(residency, locate)
        base = pipelines[Task.TEXT_TO_IMAGE].pipeline
        self._name = type(base).__name__
        self._denoiser = getattr(base, "unet", None) or getattr(base, "transformer", None)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those for which diffusers has a pipeline with ControlNets of this model's family."""
        return tuple(task for task in self._pipelines if self._find_class(task) is not None)

    def prefetch(self, uses: Sequence[ControlUse], configs: Sequence[AddOnConfig]) -> None:
        """Read a job's into memory, in any thread. Raises GenerationError for what is none, or of another model."""
        keys, preprocessors = {use.key for use in uses}, {use.preprocessor_key for use in uses}
        for config in configs:
            if config.key in keys:
                self._residency.prefetch(*self._find(config))
            if config.key in preprocessors:
                self._preprocessors.prefetch(config)

    def put_into(
        self,
        stage: Stage,
        task: Task,
        uses: Sequence[ControlUse],
        parameters: GenerationParameters,
        inputs: Mapping[str, bytes],
        configs: Sequence[AddOnConfig],
        holds: ExitStack,
        made: dict[ControlUse, Image.Image],
    ) -> Stage:
        """The stage with these of the job's ControlNets; ``holds`` keeps them where they are until the job has ended.

        ``task`` is what the stage does by itself, and its size is what control images are brought to; ``made`` keeps
        the job's own for its next pass, or try. Without uses the stage is as it was.

        Raises GenerationError, and AddOnsBusyError where there is no room now.
        """
        if not uses:
            return stage
        if self._find_class(task) is None:
            able = ", ".join(self.tasks) or "nothing"
            raise GenerationError(f"{self._name} can't do {task} with ControlNets; it can do {able} with them")
        by_key = {config.key: config for config in configs}
        nets = [self._hold(use, by_key, holds) for use in uses]
        images = [fit_control_image(self._make(use, parameters, inputs, by_key, made), stage.size) for use in uses]
        is_union = check_unions(uses, nets)
        numbers = [find_type_number(use, net) for use, net in zip(uses, nets, strict=True)]
        kind = self._find_class(task, is_union=is_union)
        accepted = frozenset(inspect.signature(kind.__call__).parameters)
        options = build_control_arguments(uses, images, accepted)
        options |= build_type_arguments(numbers, task, parameters.images, is_union=is_union)
        if options.get(GUESS_MODE) is None and any(use.mode is not ControlMode.BALANCED for use in uses):
            module: Any = MixedModes(nets, uses, is_guided=parameters.passes > 1)
        else:
            module = nets[0] if len(nets) == 1 else nets
        pipeline = _build_pipeline(kind, stage.pipeline, module)
        if self._name in UNSEEDED:
            pipeline.vae = SeededSamples(pipeline.vae, list_seeds(parameters))
        left_out = stage.arguments.keys() - accepted - SIDES
        if left_out:
            raise GenerationError(
                f"{kind.__name__} takes no {', '.join(sorted(left_out))}; leave it out, or the ControlNets"
            )
        arguments = {name: value for name, value in stage.arguments.items() if name in accepted}
        return replace(
            stage,
            pipeline=pipeline,
            arguments=arguments | {name: value for name, value in options.items() if value is not None},
            accepted=find_arguments(pipeline),
        )

    def _make(
        self,
        use: ControlUse,
        parameters: GenerationParameters,
        inputs: Mapping[str, bytes],
        configs: Mapping[str, AddOnConfig],
        made: dict[ControlUse, Image.Image],
    ) -> Image.Image:
        """The control image, of the first pass's size."""
        image = open_control_image(use, parameters, inputs)
        if not use.preprocessor_key:
            return image
        config = configs.get(use.preprocessor_key)
        if config is None:
            raise GenerationError(f"the preprocessor {use.preprocessor!r} didn't come with the job; ask again")
        if use not in made:
            made[use] = self._preprocessors.make(config, image)
        return made[use]

    def _hold(self, use: ControlUse, configs: Mapping[str, AddOnConfig], holds: ExitStack) -> Any:
        config = configs.get(use.key)
        if config is None:
            raise GenerationError(f"the ControlNet {use.name!r} didn't come with the job; ask again")
        net = holds.enter_context(self._residency.hold(*self._find(config)))
        holds.enter_context(self._stepper.sharing(net))
        return net

    def _find(self, config: AddOnConfig) -> tuple[AddOnKey, Callable[[], Any]]:
        """What it is, and what loads it."""
        found = self._locate(config)
        load = partial(load_control_net, config.name, found.path, self._denoiser)
        return AddOnKey("ControlNet", config.name, found.digest), load

    def _find_class(self, task: Task, *, is_union: bool = False) -> Any:
        prefix = PREFIXES.get(self._name)
        if prefix is None or task not in self._pipelines or task not in SUFFIXES:
            return None
        return getattr(diffusers, prefix + (UNION_PART if is_union else "") + SUFFIXES[task], None)


class SeededSamples:
    """An autoencoder whose samples are of the job's seeds where a pipeline names no generator for them.

    Stable Diffusion 3's with a ControlNet takes them from the process, where they depend on what ran before. Each image
    is encoded and sampled as it is alone, from its own seed; one alone has what the stock call has in a process that
    was seeded so.
    """

    def __init__(self, vae: Any, seeds: Sequence[int]) -> None:
        self._vae = vae
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)

    def encode(self, pixels: torch.Tensor) -> Any:
        """As the autoencoder's: row number r is of image r modulo the images, as pipelines put pass after pass."""
        images = len(self._generators)
        is_sliced, self._vae.use_slicing = self._vae.use_slicing, False  # which rounds otherwise
        try:
            each = [self._vae.encode(pixels[image::images]).latent_dist for image in range(images)]
        finally:
            self._vae.use_slicing = is_sliced

        def sample() -> torch.Tensor:
            samples = [one.sample(generator) for one, generator in zip(each, self._generators, strict=True)]
            return torch.stack(samples, dim=1).flatten(0, 1)

        return SimpleNamespace(latent_dist=SimpleNamespace(sample=sample))


class MixedModes(diffusers.MultiControlNetModel):
    """ControlNets of one job whose modes differ, or in which the prompt counts for more; [2·images, …] with guidance.

    diffusers has one mode for all; what each gives is the same here, by
    https://github.com/Mikubill/sd-webui-controlnet#control-mode
    """

    def __init__(self, nets: Sequence[Any], uses: Sequence[ControlUse], *, is_guided: bool) -> None:
        """``is_guided``: the first half of the rows is without the prompt."""
        super().__init__(list(nets))  # type: ignore[no-untyped-call]
        self.nets: Any
        self._modes = [use.mode for use in uses]
        self._is_guided = is_guided

    def forward(  # by keywords only, as pipelines call it
        self,
        sample: Any,
        timestep: Any,
        encoder_hidden_states: Any,
        controlnet_cond: Any,
        conditioning_scale: Any,
        **options: Any,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The sum of what all give, as diffusers adds it up."""
        down_sum: list[torch.Tensor] | None = None
        middle_sum: torch.Tensor | None = None
        for net, mode, image, scale in zip(self.nets, self._modes, controlnet_cond, conditioning_scale, strict=True):
            given = {
                "sample": sample,
                "encoder_hidden_states": encoder_hidden_states,
                "controlnet_cond": image,
                **options,
            }
            is_control = mode is ControlMode.CONTROL
            if is_control and self._is_guided:
                given = {name: _take_prompted(value) for name, value in given.items()}
            given |= {"timestep": timestep, "conditioning_scale": scale, "guess_mode": is_control, "return_dict": False}
            down, middle = net(**given)
            if mode is ControlMode.PROMPT:
                count = len(down)
                down = [each * SOFTER ** (count - index) for index, each in enumerate(down)]
            elif is_control and self._is_guided:
                down = [torch.cat([torch.zeros_like(each), each]) for each in down]
                middle = torch.cat([torch.zeros_like(middle), middle])
            if down_sum is None or middle_sum is None:
                down_sum, middle_sum = list(down), middle
            else:
                down_sum = [one + other for one, other in zip(down_sum, down, strict=True)]
                middle_sum = middle_sum + middle
        if down_sum is None or middle_sum is None:
            raise ValueError("there is no ControlNet")
        return down_sum, middle_sum


def _take_prompted(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.chunk(2)[1]
    if isinstance(value, Mapping):
        return {name: _take_prompted(each) for name, each in value.items()}
    return value


def build_control_arguments(
    uses: Sequence[ControlUse], images: Sequence[Image.Image], accepted: frozenset[str]
) -> dict[str, Any]:
    """A pipeline's arguments; of one ControlNet values, of several lists. Pure.

    Raises GenerationError for a mode that the pipeline doesn't know.
    """
    modes = {use.mode for use in uses}
    if GUESS_MODE not in accepted and modes != {ControlMode.BALANCED}:
        other = next(use for use in uses if use.mode is not ControlMode.BALANCED)
        raise GenerationError(
            f"ControlNet {other.name!r} is asked for with mode {other.mode.value!r}; with this model it is "
            f"{ControlMode.BALANCED.value!r} only"
        )
    is_mixed = ControlMode.PROMPT in modes or len(modes) > 1
    image_name = CONTROL_IMAGE if CONTROL_IMAGE in accepted else "image"
    columns: dict[str, list[Any]] = {
        image_name: list(images),
        "controlnet_conditioning_scale": [use.weight for use in uses],
        "control_guidance_start": [use.start for use in uses],
        "control_guidance_end": [use.end for use in uses],
    }
    is_single = len(uses) == 1 and not is_mixed
    chosen: dict[str, Any] = {name: column[0] if is_single else column for name, column in columns.items()}
    if modes == {ControlMode.CONTROL}:
        chosen[GUESS_MODE] = True
    return chosen


def check_unions(uses: Sequence[ControlUse], nets: Sequence[Any]) -> bool:
    """Whether they are union networks of a class of their own. Raises GenerationError for what doesn't go together."""
    unions = [isinstance(net, diffusers.ControlNetUnionModel) for net in nets]
    if not any(unions):
        return False
    if not all(unions):
        names = [use.name for use, is_union in zip(uses, unions, strict=True) if not is_union]
        raise GenerationError(f"ControlNet {names[0]!r} doesn't go beside a union one with this model; leave it out")
    other = next((use for use in uses if use.mode is not ControlMode.BALANCED), None)
    if other is not None:
        raise GenerationError(
            f"ControlNet {other.name!r} is asked for with mode {other.mode.value!r}; a union ControlNet's is "
            f"{ControlMode.BALANCED.value!r} only"
        )
    return True


def find_type_number(use: ControlUse, net: Any) -> int | None:
    """Of the kind of its image, as the network counts; None where it is for one kind. Raises GenerationError."""
    known = find_union_types(net)
    if not known:
        return None
    if use.control_type not in known:
        what = "isn't told which this is" if use.control_type is None else f"{use.control_type.value!r} isn't one"
        raise GenerationError(
            f"ControlNet {use.name!r} is for several kinds of control images (union), and {what}; the control type may "
            f"be {', '.join(known)}"
        )
    return known.index(use.control_type)


def build_type_arguments(numbers: Sequence[int | None], task: Task, images: int, *, is_union: bool) -> dict[str, Any]:
    """Those that say to union networks which kinds they are given; none where there are no such. Pure.

    Raises GenerationError for what diffusers' pipelines can't do.
    """
    if all(number is None for number in numbers):
        return {}
    if is_union or len(numbers) > 1:
        if not is_union and images > 1 and task is not Task.TEXT_TO_IMAGE:
            raise GenerationError("several ControlNets, a union one among them, are for one image at a time here")
        return {CONTROL_MODE: list(numbers)}
    # Flux's pipelines differ: after an image they want a number for each row.
    return {CONTROL_MODE: numbers[0] if task is Task.TEXT_TO_IMAGE else [numbers[0]] * images}


def open_control_image(use: ControlUse, parameters: GenerationParameters, inputs: Mapping[str, bytes]) -> Image.Image:
    """RGB. Raises GenerationError if it isn't there or isn't of the job's size."""
    data = inputs.get(use.image_digest)
    if data is None:
        raise GenerationError(f"ControlNet {use.name!r} needs a control image that didn't come with the request")
    try:
        image = Image.open(BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # as Pillow's decoders raise them
        raise GenerationError(f"the control image of {use.name!r} can't be read: {error}") from error
    if image.size != (parameters.width_pixels, parameters.height_pixels):
        raise GenerationError(
            f"the control image of {use.name!r} is {image.width}x{image.height} pixels, expected is "
            f"{parameters.width_pixels}x{parameters.height_pixels}"
        )
    return image


def fit_control_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """As an image is brought to the size of a second pass: it covers it, and is cut at both ends."""
    cover = find_cover(image.size, size)
    return cut(image if image.size == cover else image.resize(cover, Image.Resampling.LANCZOS), size)


def _build_pipeline(kind: Any, own: Any, control_net: Any) -> Any:
    """Of the job's own pipeline, with the parts and settings that it has: nothing is loaded twice."""
    wanted = inspect.signature(kind.__init__).parameters
    parts = {name: part for name, part in own.components.items() if name in wanted}
    settings = {name: value for name, value in own.config.items() if name in wanted and name not in parts}
    scheduler = own.scheduler
    made = kind(**{**settings, **parts, "controlnet": control_net, "scheduler": copy.deepcopy(scheduler)})
    made.scheduler = scheduler  # the job's own, untouched by what a pipeline corrects as it is made
    made.set_progress_bar_config(disable=True)
    return made
