"""Step caches: fewer calls of the deep blocks, an image that is nearly the same, and nothing left of the last job."""

from types import SimpleNamespace
from typing import Any

import pytest
from easel_contract.server_config import Compilation, EngineConfig, ModelConfig, StepCache
from easel_server.engine.interface import ModelLoadError
from easel_server.engine.loading import load_engine

from tests.support.tiny_engine import generate, tiny_engine, tiny_model_directory, tiny_parameters

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def cached_engine() -> Any:
    config = ModelConfig(name="d", source=str(tiny_model_directory("sd15")), step_cache=StepCache.DEEP_CACHE)
    return load_engine(config, hub_token=None)


def test_deep_blocks_run_at_every_third_step_only(cached_engine: Any) -> None:
    unet = next(iter(cached_engine._pipelines.values())).pipeline.unet
    runs = {"deep": 0, "outermost": 0}

    def count(name: str) -> Any:
        def note(*_: object) -> None:
            runs[name] += 1

        return note

    hooks = [
        unet.mid_block.resnets[0].register_forward_hook(count("deep")),
        unet.down_blocks[0].register_forward_hook(count("outermost")),
    ]
    generate(cached_engine, tiny_parameters(steps=7, sampler="DDIM"))
    for hook in hooks:
        hook.remove()
    assert runs == {"deep": 3, "outermost": 7}


def test_each_job_begins_without_what_the_last_one_left(cached_engine: Any) -> None:
    alone = generate(cached_engine, tiny_parameters(steps=5))[0]
    generate(cached_engine, tiny_parameters(steps=4, prompt="a dog", seed=3))
    assert generate(cached_engine, tiny_parameters(steps=5))[0] == alone
    assert alone != generate(tiny_engine(), tiny_parameters(steps=5))[0], "it is lossy"


def test_jobs_run_one_by_one(cached_engine: Any) -> None:
    assert cached_engine.max_images(64, 64) == 1


def test_parts_of_a_step_are_never_mixed() -> None:
    """Images one by one, where memory doesn't suffice for all at once, or for exact bytes: each keeps its own."""
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.speed.step_cache import install_step_cache  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models import build_sd15  # noqa: PLC0415  # loads torch

    generator = torch.Generator("cpu").manual_seed(1)
    noises = [torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2)]
    text = torch.randn(1, 77, 32, generator=generator)

    def run(images: list[Any]) -> list[Any]:
        pipeline: Any = build_sd15()
        unet = pipeline.unet
        install_step_cache(SimpleNamespace(unet=unet), StepCache.DEEP_CACHE)
        with torch.inference_mode():
            return [[unet(image, time, text).sample for image in images] for time in (900, 600, 300)]

    both, first, second = run(noises), run(noises[:1]), run(noises[1:])
    for step in range(3):
        assert torch.equal(both[step][0], first[step][0])
        assert torch.equal(both[step][1], second[step][0])


def test_blocks_of_flux_after_the_first_run_where_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.speed import step_cache  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models import build_flux  # noqa: PLC0415  # loads torch

    def run(pipeline: Any) -> Any:
        generator = torch.Generator("cpu").manual_seed(1)
        return pipeline(
            "a cat", width=64, height=64, num_inference_steps=8, generator=generator, output_type="latent"
        ).images

    monkeypatch.setattr(step_cache, "FIRST_BLOCK_THRESHOLD", 0.5)  # random weights change much from step to step
    plain: Any = build_flux()
    cached: Any = build_flux()
    forget = step_cache.install_step_cache(cached, StepCache.FIRST_BLOCK_CACHE)
    runs: list[int] = []
    for pipeline in (plain, cached):
        pipeline.set_progress_bar_config(disable=True)
        pipeline.transformer.single_transformer_blocks[-1].norm.register_forward_hook(lambda *_: runs.append(1))
    expected = run(plain)
    assert len(runs) == 8
    runs.clear()
    forget()
    first = run(cached)
    assert 0 < len(runs) < 8
    assert first.shape == expected.shape
    forget()
    assert torch.equal(run(cached), first)


@pytest.mark.parametrize(
    ("name", "kind", "advice"),
    [
        ("flux", StepCache.DEEP_CACHE, "set FirstBlockCache for Flux"),
        ("sd3", StepCache.FIRST_BLOCK_CACHE, "leave model.stepCache out"),
        ("sd15", StepCache.FIRST_BLOCK_CACHE, "set DeepCache for models with a UNet"),
    ],
)
def test_a_model_that_it_does_not_work_with_is_refused_with_what_does(name: str, kind: StepCache, advice: str) -> None:
    from easel_server.engine.speed.step_cache import install_step_cache  # noqa: PLC0415  # loads torch

    from tests.support import tiny_models  # noqa: PLC0415  # loads torch

    with pytest.raises(ModelLoadError, match=advice):
        install_step_cache(getattr(tiny_models, f"build_{name}")(), kind)


def test_what_is_compiled_has_no_step_cache() -> None:
    config = ModelConfig(name="m", source=str(tiny_model_directory("sd15")), step_cache=StepCache.DEEP_CACHE)
    with pytest.raises(ModelLoadError, match="don't go together"):
        load_engine(config, hub_token=None, engine=EngineConfig(compile=Compilation.ON))
