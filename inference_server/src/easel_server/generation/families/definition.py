"""What a family is described by. The families themselves are the files beside this one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

DEFAULT_STEPS: Final = 30  # pipelines' own 50 takes 1.7 times as long for a difference that few see
DISTILLED_STEPS: Final = 4  # of models that are made for 1 to 4; enough for half of them after an image


class StrengthRule(StrEnum):
    """How many of the steps are taken after an image, as the pipelines' ``get_timesteps`` say it."""

    ROUND_DOWN = "RoundDown"  # int(steps * strength): Stable Diffusion up to XL
    ROUND_UP = "RoundUp"  # steps - int(steps - steps * strength): Stable Diffusion 3, Flux
    ALL = "All"  # all of them, over the last of the noise levels only: LCM

    def count_steps(self, steps: int, strength: float) -> int:
        """The steps taken, in the pipelines' own floating point; 0 where strength is too low for one."""
        if self is StrengthRule.ALL:
            return steps
        asked = min(steps * strength, steps)
        return int(asked) if self is StrengthRule.ROUND_DOWN else steps - int(max(steps - asked, 0))


class NegativePrompts(StrEnum):
    """What becomes of a negative prompt."""

    WITH_GUIDANCE = "WithGuidance"  # has an effect at a guidance scale above 1, which takes a second pass anyway
    WITH_TRUE_GUIDANCE = "WithTrueGuidance"  # has an effect by ``true_cfg_scale``, and takes a second pass then
    WITHOUT_EFFECT = "WithoutEffect"  # may be given, and changes nothing
    REFUSED = "Refused"  # the pipeline has no such argument


@dataclass(frozen=True)
class ModelFiles:
    """What a model's files say of it, without its weights; empty mappings for files that aren't there."""

    pipeline: str = ""  # class name
    denoiser: Mapping[str, Any] = field(default_factory=dict)  # configuration of the UNet or transformer
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    autoencoder: Mapping[str, Any] = field(default_factory=dict)
    names: str = ""  # where it came from, in lower case: names that the files and their directories bear


@dataclass(frozen=True)
class Family:
    """One family, or what was distilled from it. What differs between models is a field here."""

    name: str  # stored in facts and jobs: never renamed
    pipelines: frozenset[str] = frozenset()  # classes of diffusers
    is_sign: Callable[[ModelFiles], bool] = lambda _: True  # which files show it, among those of its pipelines

    default_side_pixels: int = 1024  # where the files don't say
    size_step_pixels: int = 8  # sides are multiples of it
    steps: int = DEFAULT_STEPS
    least_steps: int = 1  # that its pipeline can take with any scheduler
    guidance_scale: float = 7.5
    is_guided: bool = True  # False: the guidance scale changes nothing
    negative_prompts: NegativePrompts = NegativePrompts.WITH_GUIDANCE
    true_guidance_scale: float | None = None  # given with a negative prompt: WITH_TRUE_GUIDANCE
    strength_rule: StrengthRule = StrengthRule.ROUND_DOWN
    sampler_names: frozenset[str] | None = None  # those that fit; None: what its scheduler may be exchanged for
    # That its encoders take, with those that mark beginning and end: CLIP at a time, in chunks; T5 altogether.
    prompt_tokens: int | None = None
    long_prompt_tokens: int | None = None  # that T5 may be given where a prompt needs them
    clip_layer: int | None = None  # counted from the last: whose output it takes of CLIP; None: no layer's
    latent_channels: int = 4  # of an image, before anything is packed
    is_controlled_from_text_only: bool = False  # diffusers has no other pipelines with ControlNets of it
    are_latents_packed: bool = False  # in tokens of two by two, not as [images, channels, height/8, width/8]

    def count_passes(self, guidance_scale: float, negative_prompt: str) -> int:
        """Evaluations of the denoiser a step."""
        if self.negative_prompts is NegativePrompts.WITH_GUIDANCE:
            return 2 if guidance_scale > 1.0 else 1
        is_second = self.negative_prompts is NegativePrompts.WITH_TRUE_GUIDANCE and bool(negative_prompt)
        return 2 if is_second else 1

    def find_side_pixels(self, files: ModelFiles) -> int:
        """The side of the square images that it was trained for."""
        side, blocks = files.denoiser.get("sample_size"), files.autoencoder.get("block_out_channels")
        if not isinstance(side, int) or not isinstance(blocks, list) or self.are_latents_packed:
            return self.default_side_pixels
        return int(side * 2 ** (len(blocks) - 1))  # each block of the autoencoder but the last halves the image
