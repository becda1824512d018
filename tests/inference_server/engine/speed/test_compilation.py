"""Blocks are compiled beside the work: the same images up to rounding, no job waits for it, no harm if it fails."""

import logging
from typing import Any

import pytest

pytestmark = pytest.mark.torch


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    import torch  # noqa: PLC0415  # most tests don't need it

    yield torch
    torch.compiler.set_stance("default")
    torch.compiler.reset()


def build(name: str) -> Any:
    from tests.support import tiny_models  # noqa: PLC0415  # loads torch

    pipeline = getattr(tiny_models, f"build_{name}")()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline: Any, *, images: int = 1, side: int = 128, guidance: float = 5.0) -> Any:
    import torch  # noqa: PLC0415  # most tests don't need it

    with torch.inference_mode():
        return pipeline(
            ["a cat"] * images,
            width=side,
            height=side,
            num_inference_steps=2,
            guidance_scale=guidance,
            generator=torch.Generator("cpu").manual_seed(1),
            output_type="latent",
        ).images


# "eager" traces and guards as "inductor" does, and needs no C++ compiler; the speed isn't what is tested here.
@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_once_compiled_any_number_of_rows_and_any_size_runs_compiled(name: str, torch: Any) -> None:
    from easel_server.engine.speed.compilation import BlockCompilation, CompileState  # noqa: PLC0415  # loads torch

    pipeline = build(name)
    calls: list[dict[str, Any]] = [{}, {"images": 2}, {"images": 3, "guidance": 1.0}, {"guidance": 1.0}, {"side": 256}]
    expected = [run(pipeline, **call) for call in calls]
    compilation = BlockCompilation(getattr(pipeline, "unet", None) or pipeline.transformer, backend="eager")
    assert torch.equal(run(pipeline), expected[0]), "uncompiled until it is done"
    thread = compilation.start()
    assert thread is not None
    thread.join()
    assert compilation.state is CompileState.COMPILED
    torch.compiler.set_stance("fail_on_recompile")
    for call, known in zip(calls, expected, strict=True):
        assert torch.allclose(run(pipeline, **call), known, rtol=1e-4, atol=1e-4)
    with compilation.eagerly():
        torch.compiler.set_stance("force_eager")
        assert torch.equal(run(pipeline), expected[0])


def test_a_compiler_that_fails_leaves_the_model_as_it_was(torch: Any, caplog: pytest.LogCaptureFixture) -> None:
    from easel_server.engine.speed.compilation import BlockCompilation, CompileState  # noqa: PLC0415  # loads torch

    def fail(*_: object) -> Any:
        raise RuntimeError("no C++ compiler")

    pipeline = build("sd15")
    expected = run(pipeline)
    compilation = BlockCompilation(pipeline.unet, backend=fail)
    run(pipeline)
    thread = compilation.start()
    assert thread is not None
    with caplog.at_level(logging.WARNING):
        thread.join()
    assert compilation.state is CompileState.EAGER
    assert [message for message in caplog.messages if "the denoiser runs uncompiled" in message]
    assert torch.equal(run(pipeline), expected)


def test_a_denoiser_without_repeated_blocks_runs_as_it_is(torch: Any) -> None:
    from easel_server.engine.speed.compilation import BlockCompilation, CompileState  # noqa: PLC0415  # loads torch

    compilation = BlockCompilation(torch.nn.Linear(1, 1))
    assert compilation.start() is None
    assert compilation.state is CompileState.EAGER
