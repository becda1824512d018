"""Blocks are compiled beside the work: the same images up to rounding, no job waits for it, no harm if it fails."""

import logging
from pathlib import Path
from typing import Any

import pytest
from easel_contract.gateway_config import Reproducibility

from tests.inference_server.engine.stepping.running import build_engine
from tests.support.nightly import by_day
from tests.support.tiny_engine import tiny_parameters

pytestmark = pytest.mark.torch

LARGE_RANK = 8


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
@pytest.mark.parametrize("name", by_day(["sd15", "flux"], "sd15".__eq__))
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


@pytest.mark.parametrize("name", by_day(["sd15", "flux"], "flux".__eq__))
def test_with_adapters_blocks_run_compiled_and_no_switch_compiles_anything(
    name: str, torch: Any, tmp_path: Path
) -> None:
    from easel_server.engine.speed.compilation import BlockCompilation  # noqa: PLC0415  # loads torch
    from easel_server.engine.speed.preparation import Preparation  # noqa: PLC0415  # loads torch
    from torch._dynamo.utils import counters  # noqa: PLC0415  # loads torch

    from tests.inference_server.engine.add_ons.adapters import (  # noqa: PLC0415  # loads torch
        NEAR,
        adapter_job,
        distance,
        write_adapter,
    )
    from tests.inference_server.engine.add_ons.adapters import run as run_jobs  # noqa: PLC0415  # loads torch

    graphs_run: list[bool] = []

    def backend(graph: Any, _: object) -> Any:
        has_places = any("add_adapters" in str(node.target) for node in graph.graph.nodes)

        def call(*inputs: Any) -> Any:
            graphs_run.append(has_places)
            return graph(*inputs)

        return call

    pipeline = build(name)
    compilation = BlockCompilation(getattr(pipeline, "unet", None) or pipeline.transformer, backend=backend)
    engine = build_engine(pipeline, preparation=Preparation(compilations=(compilation,)))
    styles = [
        write_adapter(tmp_path, f"style-{rank}", model=name, seed=rank, rank=rank, convolutions=rank == LARGE_RANK)
        for rank in (1, 4, LARGE_RANK)
    ]
    size: dict[str, Any] = {"width_pixels": 128, "height_pixels": 128}
    jobs = [
        tiny_parameters(**size),
        *(adapter_job((style, 0.8), seed=seed, **size) for seed, style in enumerate(styles)),
        adapter_job((styles[0], 1.5), (styles[2], -0.5), **size),
    ]
    exact = adapter_job((styles[1], 0.8), seed=1, reproducibility=Reproducibility.EXACT, **size)
    expected = [run_jobs(engine, job, add_ons=styles)[0] for job in jobs]
    expected_exact = run_jobs(engine, exact, add_ons=styles)
    thread = compilation.start()
    assert thread is not None
    thread.join()
    torch.compiler.set_stance("default")  # so that whatever isn't covered would be compiled, and counted
    compiled_before = counters["stats"]["unique_graphs"]
    graphs_run.clear()
    alone = [run_jobs(engine, job, add_ons=styles)[0] for job in jobs]
    assert {True, False} == set(graphs_run)
    graphs_run.clear()
    together = run_jobs(engine, *jobs, add_ons=styles)
    assert {True} == set(graphs_run)
    assert counters["stats"]["unique_graphs"] == compiled_before
    for images in (alone, together):
        assert max(distance(here, known) for here, known in zip(images, expected, strict=True)) <= NEAR
    graphs_run.clear()
    assert run_jobs(engine, exact, add_ons=styles) == expected_exact
    assert graphs_run == []


def test_blocks_that_cant_be_opened_run_uncompiled_with_adapters_and_compiled_without(
    torch: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from easel_server.engine.speed.compilation import BlockCompilation, CompileState  # noqa: PLC0415  # loads torch
    from easel_server.engine.speed.preparation import Preparation  # noqa: PLC0415  # loads torch

    from tests.inference_server.engine.add_ons.adapters import adapter_job, write_adapter  # noqa: PLC0415
    from tests.inference_server.engine.add_ons.adapters import run as run_jobs  # noqa: PLC0415  # loads torch

    class Uncopied:
        def __deepcopy__(self, _: object) -> Any:
            raise TypeError("it can't be copied")

    pipeline = build("flux")
    pipeline.transformer.transformer_blocks[0].held = Uncopied()
    with caplog.at_level(logging.WARNING):
        compilation = BlockCompilation(pipeline.transformer, backend="eager")
    assert "FluxTransformerBlock runs uncompiled with adapters: it can't be copied" in caplog.messages
    engine = build_engine(pipeline, preparation=Preparation(compilations=(compilation,)))
    style = write_adapter(tmp_path, "style", model="flux")
    job = adapter_job((style, 1.0), width_pixels=128, height_pixels=128)
    expected = run_jobs(engine, job, add_ons=[style])
    thread = compilation.start()
    assert thread is not None
    thread.join()
    assert compilation.state is CompileState.COMPILED
    assert run_jobs(engine, job, add_ons=[style]) == expected
