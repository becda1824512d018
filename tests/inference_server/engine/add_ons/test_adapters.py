"""A LoRA changes the image of the job that asks for it, and nothing else, whoever is beside it or comes after it."""

import gc
import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from easel_contract.gateway_config import Reproducibility
from easel_contract.server_config import StepCache
from easel_server.engine.add_ons import adapters
from easel_server.engine.add_ons.residency import Residency
from easel_server.engine.interface import GatheringError, GenerationError, NonFiniteError
from easel_server.engine.speed.preparation import Preparation
from easel_server.engine.speed.step_cache import install_step_cache
from easel_server.engine.speed.weights import quantize
from easel_server.generation.add_ons import Feature
from easel_server.worker.engine_errors import is_engine_error
from PIL import Image

from tests.inference_server.engine.add_ons.adapters import (
    NEAR,
    adapter_job,
    begin,
    build_tiny,
    distance,
    pixels_of,
    run,
    tiny_adapter_engine,
    write_adapter,
)
from tests.inference_server.engine.stepping.running import build_engine, go_on, images_of
from tests.support.nightly import by_day
from tests.support.tiny_engine import tiny_parameters
from tests.support.tiny_models import BUILDERS
from tests.support.tiny_models.adapters import LoraForm

EXACT = Reproducibility.EXACT
# A file's form is read without a model in test_lora_formats.
ALONE_BY_DAY = (("sd15", LoraForm.KOHYA), ("sdxl", LoraForm.KOHYA_SGM), ("sd3", LoraForm.PEFT), ("flux", LoraForm.PEFT))


def stock_pixels(name: str, directory: Path, loras: list[tuple[str, float]], job: Any) -> Any:
    """What diffusers with peft gives."""
    pipeline = BUILDERS[name]()
    pipeline.set_progress_bar_config(disable=True)
    for adapter, _ in loras:
        pipeline.load_lora_weights(directory, weight_name=f"{adapter}.safetensors", adapter_name=adapter)
    pipeline.set_adapters([adapter for adapter, _ in loras], [weight for _, weight in loras])
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)  # what could be trained torch multiplies in another order, even for no gradient
            for weights in part.parameters():
                # peft's are where the file is mapped, at multiples of 8 bytes, and MKL multiplies in another order what
                # is at no multiple of 16: in a convolution of one pixel. Of the same numbers, memory of their own.
                weights.data = weights.data.clone()
    image = pipeline(
        job.prompt,
        width=job.width_pixels,
        height=job.height_pixels,
        num_inference_steps=job.steps,
        guidance_scale=job.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(job.seed),
    ).images[0]
    return np.asarray(image).astype(int)


@pytest.mark.filterwarnings("ignore")  # of peft
@pytest.mark.parametrize(
    ("model", "form", "options"),
    by_day(
        [
            ("sd15", LoraForm.PEFT, {}),
            ("sd15", LoraForm.PEFT, {"text_encoders": False, "convolutions": True}),
            ("sd15", LoraForm.OLD, {}),
            ("sd15", LoraForm.KOHYA, {"alpha": 2.0, "convolutions": True}),
            ("sd2", LoraForm.KOHYA, {"alpha": 1.0}),
            ("sdxl", LoraForm.PEFT, {}),
            ("sdxl", LoraForm.KOHYA_SGM, {"alpha": 2.0, "convolutions": True}),
            ("sd3", LoraForm.PEFT, {}),
            ("sd3", LoraForm.PEFT, {"text_encoders": False}),
            ("flux", LoraForm.PEFT, {}),
            ("flux", LoraForm.KOHYA_FLUX, {"alpha": 2.0}),
            ("flux", LoraForm.XLABS, {"text_encoders": False}),
        ],
        lambda case: case[:2] in ALONE_BY_DAY,
    ),
)
def test_alone_a_job_with_loras_is_that_of_diffusers_with_peft(
    model: str, form: LoraForm, options: dict[str, Any], tmp_path: Path
) -> None:
    one = write_adapter(tmp_path, "a-style", model=model, form=form, seed=1, **options)
    other = write_adapter(tmp_path, "b-style", model=model, form=form, seed=2, rank=2, **options)
    for used in ([(one, 0.7)], [(one, 0.7), (other, -0.4)]):
        job = adapter_job(*used)
        [image] = run(tiny_adapter_engine(model), job, add_ons=(one, other))
        stock = stock_pixels(model, tmp_path, [(config.name, weight) for config, weight in used], job)
        assert np.array_equal(pixels_of(image), stock)


@pytest.mark.parametrize("model", ["sd15", "sdxl", "sd3", "flux"])
def test_plain_then_a_lora_then_plain_gives_the_plain_bytes_again(model: str, tmp_path: Path) -> None:
    engine = tiny_adapter_engine(model)
    style = write_adapter(tmp_path, "style", model=model)
    [before] = run(engine, tiny_parameters())
    [styled] = run(engine, adapter_job((style, 1.0)), add_ons=[style])
    [after] = run(engine, tiny_parameters())
    assert before == after
    assert distance(before, styled) > NEAR


def test_two_loras_give_the_same_bytes_in_either_order(tmp_path: Path) -> None:
    engine = tiny_adapter_engine()
    one, other = (write_adapter(tmp_path, name, seed=seed) for seed, name in enumerate(("one", "other")))
    [there] = run(engine, adapter_job((one, 0.8), (other, 0.5)), add_ons=[one, other])
    [back] = run(engine, adapter_job((other, 0.5), (one, 0.8)), add_ons=[other, one])
    assert pixels_of(there).tolist() == pixels_of(back).tolist()
    [first_alone] = run(engine, adapter_job((one, 0.8)), add_ons=[one])
    assert distance(there, first_alone) > NEAR


@pytest.mark.parametrize("model", by_day(["sd15", "sdxl", "sd3", "flux"], ("sdxl", "flux").__contains__))
def test_jobs_with_different_loras_and_with_none_share_calls_and_get_what_they_get_alone(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = tiny_adapter_engine(model)
    one, other = (
        write_adapter(tmp_path, name, model=model, seed=seed, convolutions=True)
        for seed, name in enumerate(("one", "other"))
    )
    jobs = [
        tiny_parameters(seed=1),
        adapter_job((one, 0.8), seed=2),
        adapter_job((one, 0.8), (other, 0.5), seed=3),
        tiny_parameters(seed=4),
        adapter_job((other, -1.0), seed=5),
        adapter_job((one, 0.8), seed=6, reproducibility=EXACT),
    ]
    alone = [run(engine, job, add_ons=[one, other])[0] for job in jobs]
    rows: list[int] = []
    run_calls = engine._stepper._run

    def count_and_run(calls: Any) -> Any:
        rows.append(sum(call.rows for call in calls))
        return run_calls(calls)

    monkeypatch.setattr(engine._stepper, "_run", count_and_run)
    together = run(engine, *jobs, add_ons=[one, other])
    passes = 1 if model == "flux" else 2
    assert set(rows) == {5 * passes, passes}  # five jobs in one call; the exact one has its own
    assert max(distance(there, here) for there, here in zip(alone, together, strict=True)) <= NEAR
    assert together[-1] == alone[-1]


def test_beside_a_lora_a_plain_job_has_the_bytes_that_it_has_beside_a_plain_one(tmp_path: Path) -> None:
    engine = tiny_adapter_engine()
    style = write_adapter(tmp_path, "style")
    plain = tiny_parameters(seed=1)
    [beside_plain, _] = run(engine, plain, tiny_parameters(seed=2))
    [beside_style, _] = run(engine, plain, adapter_job((style, 1.0), seed=2), add_ons=[style])
    assert beside_plain == beside_style


def test_a_step_without_adapters_finds_no_layer_changed_and_the_weights_stay_as_they_are(tmp_path: Path) -> None:
    engine: Any = tiny_adapter_engine()
    unet = build_tiny("sd15").unet
    style = write_adapter(tmp_path, "style")
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    layers = [each for each in unet.modules() if isinstance(each, torch.nn.Linear | torch.nn.Conv2d)]
    changed: list[int] = []
    before = engine._stepper._forwards[unet]

    def count_and_run(**arguments: Any) -> Any:
        changed.append(sum("forward" in vars(each) for each in layers))
        return before(**arguments)

    engine._stepper._forwards[unet] = count_and_run
    try:
        run(engine, tiny_parameters())
        plain_steps, changed[:] = list(changed), []
        run(engine, adapter_job((style, 1.0)), add_ons=[style])
        assert set(plain_steps) == {0}
        assert min(changed) > 100
        assert sum("forward" in vars(each) for each in layers) == 0
    finally:
        engine._stepper._forwards[unet] = before
    after = unet.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[name], after[name]) for name in weights)


def test_a_prompt_is_encoded_anew_for_a_lora_of_the_text_encoder_and_not_for_one_of_the_denoiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny_adapter_engine()
    texts = write_adapter(tmp_path, "texts", denoiser=False)
    looks = write_adapter(tmp_path, "looks", text_encoders=False)
    encoder = build_tiny("sd15").text_encoder
    calls: list[int] = []
    forward = encoder.forward

    def count_and_encode(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return forward(*arguments, **options)

    monkeypatch.setattr(encoder, "forward", count_and_encode)
    prompt = "a prompt of this test alone"
    [plain] = run(engine, tiny_parameters(prompt=prompt))
    plain_calls = len(calls)
    run(engine, adapter_job((looks, 1.0), prompt=prompt), add_ons=[looks])
    assert len(calls) == plain_calls
    [read_otherwise] = run(engine, adapter_job((texts, 1.0), prompt=prompt), add_ons=[texts])
    assert len(calls) == 2 * plain_calls
    run(engine, adapter_job((texts, 1.0), prompt=prompt), add_ons=[texts])
    assert len(calls) == 2 * plain_calls
    run(engine, adapter_job((texts, 0.5), prompt=prompt), add_ons=[texts])
    assert len(calls) == 3 * plain_calls
    assert distance(plain, read_otherwise) > NEAR
    assert run(engine, tiny_parameters(prompt=prompt)) == [plain]


@pytest.mark.parametrize("switches", by_day([100, 1000], (100).__eq__))
def test_many_switches_leave_memory_and_layers_as_they_were(switches: int, tmp_path: Path) -> None:
    pipeline = build_tiny("sd15")
    styles = [write_adapter(tmp_path, f"style-{number}", seed=number, form=LoraForm.OLD) for number in range(4)]
    size = Path(styles[0].source).stat().st_size
    engine = build_engine(pipeline, residency=Residency(torch.device("cpu"), 2 * size, 0))

    def switch(times: int) -> None:
        for number in range(times):
            style = styles[number % 2 if number % 20 else number // 20 % len(styles)]  # some must be read anew
            generation = begin(engine, adapter_job((style, 1.0), steps=1, seed=3), [style])
            assert generation.error is None
            generation.stop()

    def count_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    switch(80)  # until each has been there, as prompts that they encode are kept
    before = count_tensors()
    switch(switches)
    assert count_tensors() <= before
    assert engine._residency.count_bytes()[0] <= 2 * size
    assert engine._residency.count_held_bytes() == 0
    assert not any("forward" in vars(each) for each in pipeline.unet.modules() if isinstance(each, torch.nn.Linear))


def test_what_is_laid_out_for_a_call_goes_with_the_first_of_its_jobs(tmp_path: Path) -> None:
    engine = build_engine(build_tiny("sd15"))
    one, other = (write_adapter(tmp_path, name, seed=seed) for seed, name in enumerate(("one", "other")))
    generations = [begin(engine, adapter_job((style, 1.0)), [style]) for style in (one, other)]
    plans = engine._stepper._plans._last
    engine.step(generations)
    [before] = plans.values()
    engine.step(generations)
    assert list(plans.values()) == [before]  # it serves each step
    generations.pop().stop()
    gc.collect()
    assert not plans


def test_where_neighbours_leave_no_room_a_job_waits_for_them_and_then_gets_its_own_image(tmp_path: Path) -> None:
    one, other = (write_adapter(tmp_path, name, seed=seed) for seed, name in enumerate(("one", "other")))
    room = int(1.5 * Path(one.source).stat().st_size)
    engine = build_engine(build_tiny("sd15"), residency=Residency(torch.device("cpu"), room, 0))
    [expected] = run(engine, adapter_job((other, 1.0), seed=2), add_ons=[other])
    first = begin(engine, adapter_job((one, 1.0), seed=1), [one])
    second = begin(engine, adapter_job((other, 1.0), seed=2), [other])
    go_on(engine, [first, second], until=lambda: first.steps_done > 0)
    assert (second.steps_done, second.is_done, second.checkpoint()) == (0, False, None)
    go_on(engine, [first, second])
    assert images_of(second) == [expected]
    both = begin(engine, adapter_job((one, 1.0), (other, 1.0)), [one, other])
    assert isinstance(both.error, GenerationError)
    assert "the add-ons of this job don't fit into memory together" in str(both.error)
    waiting = [begin(engine, adapter_job((each, 1.0)), [each]) for each in (one, other)]
    for each in waiting:
        each.stop()
    assert engine._residency.count_held_bytes() == 0


def test_a_checkpoint_goes_on_with_its_adapters_and_not_with_others(tmp_path: Path) -> None:
    engine = tiny_adapter_engine()
    style = write_adapter(tmp_path, "style")
    job = adapter_job((style, 0.8), steps=6)
    [expected] = run(engine, job, add_ons=[style])
    generation = begin(engine, job, [style])
    for _ in range(3):
        engine.step([generation])
    saved = generation.checkpoint()
    generation.stop()
    again = begin(engine, job, [style], checkpoint=saved)
    assert again.steps_done >= 2
    go_on(engine, [again])
    assert images_of(again) == [expected]
    heavier = begin(engine, adapter_job((style, 0.9), steps=6), [style], checkpoint=saved)
    assert heavier.steps_done == 0
    heavier.stop()


def test_adapters_are_the_base_models_and_not_its_refiners(tmp_path: Path) -> None:
    style = write_adapter(tmp_path, "style", model="sdxl")
    refiner = BUILDERS["sdxl-refiner"]()
    engine = build_engine(build_tiny("sdxl"), refiner=refiner)
    layers = [each for each in refiner.unet.modules() if isinstance(each, torch.nn.Linear)]
    before = engine._stepper._forwards[refiner.unet]
    changed: list[int] = []

    def count_and_run(**arguments: Any) -> Any:
        changed.append(sum("forward" in vars(each) for each in layers))
        return before(**arguments)

    engine._stepper._forwards[refiner.unet] = count_and_run
    [plain] = run(engine, tiny_parameters(steps=10))
    [styled] = run(engine, adapter_job((style, 1.0), steps=10), add_ons=[style])
    assert set(changed) == {0}
    assert distance(plain, styled) > NEAR


def test_with_a_step_cache_no_job_sees_anothers_adapters(tmp_path: Path) -> None:
    pipeline = BUILDERS["sd15"]()
    pipeline.set_progress_bar_config(disable=True)
    engine = build_engine(pipeline, preparation=Preparation(forget=install_step_cache(pipeline, StepCache.DEEP_CACHE)))
    style = write_adapter(tmp_path, "style")
    [before] = run(engine, tiny_parameters(steps=8))
    [styled] = run(engine, adapter_job((style, 1.0), steps=8), add_ons=[style])
    [after] = run(engine, tiny_parameters(steps=8))
    assert before == after
    assert distance(before, styled) > NEAR


@pytest.mark.parametrize("model", ["sd15", "flux"])
def test_with_weights_in_eight_bits_adapters_work_and_leave_nothing_behind(model: str, tmp_path: Path) -> None:
    pipeline = BUILDERS[model]()
    pipeline.set_progress_bar_config(disable=True)
    quantize(pipeline)
    engine = build_engine(pipeline)
    style = write_adapter(tmp_path, "style", model=model)
    [before] = run(engine, tiny_parameters())
    [styled] = run(engine, adapter_job((style, 1.0)), add_ons=[style])
    [full] = run(tiny_adapter_engine(model), adapter_job((style, 1.0)), add_ons=[style])
    [after] = run(engine, tiny_parameters())
    assert before == after
    assert distance(before, styled) > NEAR
    # Eight bits change an image, but not as much as the adapter does.
    assert abs(pixels_of(full) - pixels_of(styled)).mean() < abs(pixels_of(before) - pixels_of(styled)).mean()


def test_a_model_for_which_diffusers_knows_no_loras_says_so_and_refuses_by_name(tmp_path: Path) -> None:
    assert Feature.ADAPTERS in tiny_adapter_engine().description.features
    engine = tiny_adapter_engine("pixart-sigma")
    assert Feature.ADAPTERS not in engine.description.features
    style = write_adapter(tmp_path, "style")
    generation = begin(engine, adapter_job((style, 1.0)), [style])
    assert str(generation.error) == "PixArtSigmaPipeline takes no adapters; leave style out"


def test_gathering_reads_adapters_in_another_thread_so_that_no_step_waits_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_engine(build_tiny("sd15"))
    style = write_adapter(tmp_path, "style")
    job = adapter_job((style, 1.0))
    engine.gather(job, [style])
    monkeypatch.setattr(adapters, "read_lora", None)  # it would be read again
    assert len(run(engine, job, add_ons=[style])) == 1


def test_another_file_at_the_same_place_is_another_adapter_with_its_own_prompts_and_checkpoints(tmp_path: Path) -> None:
    engine = build_engine(build_tiny("sd15"))
    style = write_adapter(tmp_path, "style", seed=1)
    job = adapter_job((style, 1.0), steps=6)
    engine.gather(job, [style])
    [before] = run(engine, job, add_ons=[style])
    generation = begin(engine, job, [style])
    for _ in range(3):
        engine.step([generation])
    saved = generation.checkpoint()
    generation.stop()
    Path(style.source).unlink()
    assert write_adapter(tmp_path, "style", seed=2) == style
    engine.gather(job, [style])
    [after] = run(engine, job, add_ons=[style])
    assert distance(before, after) > NEAR
    assert [after] == run(build_engine(build_tiny("sd15")), job, add_ons=[style])
    again = begin(engine, job, [style], checkpoint=saved)
    assert again.steps_done == 0
    again.stop()


def test_an_adapter_whose_file_is_gone_fails_its_job_and_raises_nothing(tmp_path: Path) -> None:
    engine = build_engine(build_tiny("sd15"))
    style = write_adapter(tmp_path, "style")
    job = adapter_job((style, 1.0))
    engine.gather(job, [style])
    Path(style.source).unlink()
    generation = begin(engine, job, [style])
    # What may be tried again, and then gathering says what is missing; the engine isn't in doubt for it.
    assert isinstance(generation.error, GatheringError)
    assert not is_engine_error(generation.error)
    assert "style" in str(generation.error)


def test_an_adapter_that_overflows_is_named_and_the_plain_job_beside_it_keeps_its_image(tmp_path: Path) -> None:
    engine = build_engine(build_tiny("sd15"))
    wild = write_adapter(tmp_path, "wild", strength=1e30)
    plain, styled = adapter_job(seed=3), adapter_job((wild, 1.0), seed=3)
    generations = [begin(engine, plain, []), begin(engine, styled, [wild])]
    go_on(engine, generations)
    assert isinstance(generations[1].error, NonFiniteError)
    assert "adapter wild (1)" in str(generations[1].error)
    assert distance(images_of(generations[0])[0], run(engine, plain)[0]) <= NEAR


def test_an_image_names_its_adapters_by_what_they_hold(tmp_path: Path) -> None:
    engine = tiny_adapter_engine()
    style = write_adapter(tmp_path, "style")
    job = adapter_job((style, 0.8), steps=1)
    [image] = run(engine, job, add_ons=[style])
    data = Path(style.source).read_bytes()
    tensors = data[8 + int.from_bytes(data[:8], "little") :]
    opened: Any = Image.open(BytesIO(image))
    short = hashlib.sha256(tensors).hexdigest()[:12]
    assert f'Lora hashes: "style: {short}"' in opened.text["parameters"]
    recipe = json.loads(opened.text["easel"])
    whole = hashlib.sha256(data).hexdigest()
    assert recipe["model"]["adapters"] == [{"name": "style", "digest": f"sha256:{whole}"}]
    assert list(recipe["model"]["adapters"][0].values()) == ["style", engine.gather(job, [style])[0].digest]
    [plain] = run(engine, tiny_parameters(steps=1))
    assert "Lora hashes" not in Image.open(BytesIO(plain)).text["parameters"]  # type: ignore[attr-defined]
