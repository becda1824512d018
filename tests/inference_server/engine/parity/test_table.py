"""``docs/developers/models.md`` says what is so: its table is made here, of engines around tiny models.

``EASEL_WRITE_DOCS=1`` writes it anew.
"""

import os
from pathlib import Path
from typing import Final

import pytest
from easel_server.engine.interface import ModelLoadError
from easel_server.engine.prompts.limits import find_prompt_limits
from easel_server.generation.add_ons import Feature
from easel_server.generation.families import FAMILIES, NegativePrompts, StrengthRule
from easel_server.generation.samplers import SAMPLERS
from easel_server.generation.tasks import Task

from tests.inference_server.engine.parity.stock import build_engine, build_pipeline
from tests.inference_server.engine.parity.test_parity import TASKS, list_cases

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::FutureWarning")]

DOCUMENT: Final = Path(__file__).resolve().parents[4] / "docs/developers/models.md"
BEGIN: Final = "<!-- table: written by tests/inference_server/engine/parity/test_table.py -->\n"
END: Final = "<!-- end of the table -->\n"
MODELS: Final = (
    "sd15", "sd2", "sd-turbo", "lcm", "sdxl", "sdxl-turbo", "sd3", "flux", "flux-schnell",
    "pixart-alpha", "pixart-sigma",
)  # fmt: skip
NEGATIVE: Final = {
    NegativePrompts.WITH_GUIDANCE: "above guidance 1",
    NegativePrompts.WITH_TRUE_GUIDANCE: "yes, in a second pass",
    NegativePrompts.WITHOUT_EFFECT: "no effect, warned of",
    NegativePrompts.REFUSED: "refused",
}
STRENGTH: Final = {
    StrengthRule.ROUND_DOWN: "rounded down",
    StrengthRule.ROUND_UP: "rounded up",
    StrengthRule.ALL: "all steps",
}
FEATURES: Final = {
    Feature.ADAPTERS: "adapters",
    Feature.CONTROL_NETS: "ControlNets",
    Feature.HIRES: "second pass",
    Feature.UPSCALE: "upscaling",
    Feature.CLIP_SKIP: "clip skip",
    Feature.LONG_PROMPTS: "long prompts, weights",
}
HEADS: Final = (
    "family", "tiny model", "text to image", "image to image", "inpaint", "samplers", "sides", "steps, guidance",
    "negative prompt", "strength", "prompt tokens", *(FEATURES[feature] for feature in Feature),
)  # fmt: skip


def build_row(name: str) -> list[str]:
    """What an engine says of a model, and which of its tasks are compared with the stock call bit by bit."""
    engine = build_engine(name)
    family, description = engine.family, engine.description
    compared = {task for model, _, task, _ in list_cases() if model == name}
    offered = len(description.samplers)
    limit = find_prompt_limits(build_pipeline(name)).most
    assert limit is not None
    return [
        family.name,
        name,
        *(
            ("bit-equal" if task in compared else "not compared") if task in description.tasks else "—"
            for task in TASKS
        ),
        f"all {offered}" if offered == len(SAMPLERS) else ", ".join(description.samplers),
        f"multiples of {family.size_step_pixels}",
        f"{family.steps}, {family.guidance_scale:g}" + ("" if family.is_guided else " (no effect)"),
        NEGATIVE[family.negative_prompts],
        STRENGTH[family.strength_rule],
        str(limit.tokens + limit.tokenizer.num_special_tokens_to_add()),
        *("yes" if feature in description.features else "—" for feature in Feature),
    ]


def build_table() -> str:
    """As Markdown."""
    rows = [list(HEADS), ["---"] * len(HEADS), *(build_row(name) for name in MODELS)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_table_of_the_documents_is_what_engines_say() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    written = before + BEGIN + "\n" + build_table() + "\n" + END + after
    if os.environ.get("EASEL_WRITE_DOCS"):
        DOCUMENT.write_text(written, encoding="utf-8")
    assert text == written or os.environ.get("EASEL_WRITE_DOCS")


@pytest.mark.parametrize("name", MODELS)
def test_a_familys_row_agrees_with_its_loaded_model(name: str) -> None:
    engine, pipeline = build_engine(name), build_pipeline(name)
    family = engine.family
    limit = find_prompt_limits(pipeline).most
    assert limit is not None
    assert limit.tokens + limit.tokenizer.num_special_tokens_to_add() == family.prompt_tokens
    assert pipeline.vae.config.latent_channels == family.latent_channels
    features = engine.description.features
    assert (Feature.CLIP_SKIP in features) is (family.clip_layer is not None)
    assert (Feature.HIRES in features) is (Task.IMAGE_TO_IMAGE in engine.description.tasks)
    assert set(engine.description.tasks) - {Task.UPSCALE} <= set(TASKS)
    assert family in FAMILIES


def test_a_model_that_needs_an_image_to_be_guided_by_says_so_when_it_is_loaded() -> None:
    from easel_server.engine.pipelines import check_pipeline  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models import build_sd15_controlnet, build_sdxl_controlnet  # noqa: PLC0415

    for build in (build_sd15_controlnet, build_sdxl_controlnet):
        with pytest.raises(ModelLoadError, match="it needs an image to be guided by"):
            check_pipeline(build(), "m")


def test_a_model_without_seeds_or_with_unknown_needs_says_so_when_it_is_loaded() -> None:
    from easel_server.engine.pipelines import check_pipeline  # noqa: PLC0415

    class Unseeded:
        def __call__(self, prompt: str = "", num_inference_steps: int = 1) -> None:
            del prompt, num_inference_steps

    class Needy:
        def __call__(
            self, audio: bytes, prompt: str = "", num_inference_steps: int = 1, generator: object = None
        ) -> None:
            del audio, prompt, num_inference_steps, generator

    with pytest.raises(ModelLoadError, match=r"Unseeded can't be served: its call takes no seeds \(generator\)"):
        check_pipeline(Unseeded(), "m")
    with pytest.raises(ModelLoadError, match="its call needs audio, which no request has"):
        check_pipeline(Needy(), "m")
