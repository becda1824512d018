"""ControlNets beside a second pass, adapters and other jobs: equal to the stock calls, and to the job alone."""

from io import BytesIO
from itertools import product
from typing import Any

import pytest
from easel_contract.gateway_config import Reproducibility
from easel_server.engine import loading
from easel_server.generation.add_ons import AdapterUse, ControlMode, ControlPasses, HiresPass
from easel_server.generation.tasks import Task
from PIL import Image

from tests.inference_server.engine.add_ons.adapters import write_adapter
from tests.inference_server.engine.add_ons.control_nets import (
    CLASSES,
    build_stock,
    call,
    run,
    stock_net,
    use_of,
)
from tests.inference_server.engine.parity.stock import IMAGE, INPUTS, build_engine, build_job, call_stock
from tests.inference_server.engine.stepping.running import go_on, images_of
from tests.support.nightly import by_day

loading.prepare_libraries()
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning"),  # diffusers' own, of Flux's ControlNets
]
LARGER = 128
BOTH = {ControlPasses.BOTH: (True, True), ControlPasses.FIRST: (True, False), ControlPasses.SECOND: (False, True)}


def build_hires(upscaler: str = "Latent", height: int = LARGER) -> HiresPass:
    return HiresPass(width_pixels=LARGER, height_pixels=height, upscaler=upscaler, steps=6, strength=0.75)


def call_both_passes(name: str, job: Any, *, controlled: tuple[bool, bool]) -> bytes:
    """diffusers' own pipelines one after the other; which of them has the ControlNet."""
    import torch  # noqa: PLC0415

    net = stock_net(name)
    is_latent = job.hires.upscaler == "Latent"
    first = build_stock(name, Task.TEXT_TO_IMAGE, net)
    scales = [{"controlnet_conditioning_scale": 1.0 if has_say else 0.0} for has_say in controlled]
    given = call(first, job, output_type="latent" if is_latent else "pil", **scales[0])
    if is_latent:
        given = torch.nn.functional.interpolate(given, size=(LARGER // 8, LARGER // 8), mode="bilinear")
    else:
        given = given[0].resize((LARGER, LARGER), Image.Resampling.LANCZOS)
    control = Image.open(BytesIO(IMAGE)).convert("RGB").resize((LARGER, LARGER), Image.Resampling.LANCZOS)
    again = job.model_copy(update={"steps": 6, "strength": 0.75, "width_pixels": LARGER, "height_pixels": LARGER})
    second = build_stock(name, Task.IMAGE_TO_IMAGE, net)
    return call(second, again, image=given, control=control, **scales[1])[0].tobytes()


@pytest.mark.parametrize("passes", ControlPasses)
@pytest.mark.parametrize(
    ("name", "upscaler"),
    by_day(product(("sd15", "sdxl"), ("Latent", "Lanczos")), (("sd15", "Latent"), ("sdxl", "Lanczos")).__contains__),
)
def test_with_a_second_pass_a_controlnet_has_its_say_in_the_passes_that_are_asked_for(
    name: str, upscaler: str, passes: ControlPasses, nets: Any
) -> None:
    engine, config = build_engine(name), nets[name]
    job = build_job(Task.TEXT_TO_IMAGE, hires=build_hires(upscaler), controls=(use_of(config, passes=passes),))
    assert run(engine, job, [config]) == call_both_passes(name, job, controlled=BOTH[passes])


def test_fluxs_second_pass_has_the_controlnet_too(nets: Any) -> None:
    engine, config = build_engine("flux"), nets["flux"]
    job = build_job(Task.TEXT_TO_IMAGE, guidance_scale=3.5, hires=build_hires("Lanczos"), controls=(use_of(config),))
    assert run(engine, job, [config]) == call_both_passes("flux", job, controlled=(True, True))


def test_control_images_are_cut_as_the_image_is_where_the_second_pass_has_other_proportions(nets: Any) -> None:
    engine, config = build_engine("sd15"), nets["sd15"]
    use = use_of(config, mode=ControlMode.PROMPT)
    job = build_job(Task.TEXT_TO_IMAGE, images=2, hires=build_hires("Lanczos", height=192), controls=(use,))
    generation = engine.begin(job, INPUTS, add_ons=[config])
    go_on(engine, [generation])
    images = [Image.open(BytesIO(each)) for each in images_of(generation)]
    assert [each.size for each in images] == [(LARGER, 192)] * 2
    low = job.model_copy(update={"controls": (use.model_copy(update={"passes": ControlPasses.FIRST}),)})
    other = engine.begin(low, INPUTS, add_ons=[config])
    go_on(engine, [other])
    assert images_of(other)[0] != images_of(generation)[0]


def test_a_second_pass_with_a_controlnet_goes_on_from_its_checkpoint_on_another_worker(nets: Any) -> None:
    engine, config = build_engine("sd15"), nets["sd15"]
    job = build_job(Task.TEXT_TO_IMAGE, hires=build_hires(), controls=(use_of(config),))
    whole = run(engine, job, [config])
    first = engine.begin(job, INPUTS, add_ons=[config])
    go_on(engine, [first], until=lambda: first._run.stage == 1 and first.steps_done >= 3)
    saved = first.checkpoint()
    first.stop()
    second = engine.begin(job, INPUTS, checkpoint=saved, add_ons=[config])
    assert second.steps_done == first.steps_done
    go_on(engine, [second])
    assert Image.open(BytesIO(images_of(second)[0])).tobytes() == whole


@pytest.mark.filterwarnings("ignore")  # of peft
@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("name", by_day(["sd15", "sdxl"], "sdxl".__eq__))
def test_a_controlnet_and_a_lora_together_are_the_stock_pipelines_with_peft(
    name: str, task: Task, nets: Any, tmp_path: Any
) -> None:
    import torch  # noqa: PLC0415

    lora = write_adapter(tmp_path, "ink", model=name)
    engine, config = build_engine(name), nets[name]
    adapters = (AdapterUse(name="ink", weight=0.8, key=lora.key),)
    job = build_job(task, controls=(use_of(config, weight=0.7),), adapters=adapters)
    stock = build_stock(name, task, stock_net(name))
    stock.load_lora_weights(lora.source, adapter_name="ink")
    stock.set_adapters(["ink"], [0.8])
    for part in stock.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)  # what could be trained torch multiplies in another order
    ours = run(engine, job, [config, lora])
    assert ours == call(stock, job, controlnet_conditioning_scale=0.7)[0].tobytes()
    for less in ({"controls": ()}, {"adapters": ()}):
        assert run(engine, job.model_copy(update=less), [config, lora]) != ours


@pytest.mark.parametrize("task", CLASSES)
def test_exact_jobs_with_a_controlnet_have_the_same_bytes_in_any_company(task: Task, nets: Any) -> None:
    engine, config = build_engine("sd15"), nets["sd15"]
    exact = {"reproducibility": Reproducibility.EXACT}
    job = build_job(task, controls=(use_of(config),), **exact)
    alone = run(engine, job, [config])
    close = [build_job(task, controls=(use_of(config),), seed=8), build_job(Task.TEXT_TO_IMAGE, seed=9)]
    three = build_job(task, controls=(use_of(config),), images=3, seed=5, **exact)
    begun = [engine.begin(each, INPUTS, add_ons=[config]) for each in (*close, job, three)]
    go_on(engine, begun)
    assert Image.open(BytesIO(images_of(begun[2])[0])).tobytes() == alone
    # Its third image has the seed of the job alone.
    assert Image.open(BytesIO(images_of(begun[3])[2])).tobytes() == alone


def test_plain_neighbours_of_a_controlnet_are_the_stock_calls_images_when_they_are_exact(nets: Any) -> None:
    from tests.inference_server.engine.parity.stock import build_pipeline  # noqa: PLC0415

    engine, config = build_engine("sd15"), nets["sd15"]
    for task in CLASSES:
        plain = build_job(task, reproducibility=Reproducibility.EXACT)
        begun = [
            engine.begin(plain, INPUTS),
            engine.begin(build_job(task, controls=(use_of(config),)), INPUTS, add_ons=[config]),
        ]
        go_on(engine, begun)
        stock = call_stock(build_pipeline("sd15"), plain).tobytes()
        assert Image.open(BytesIO(images_of(begun[0])[0])).tobytes() == stock
