"""ControlNets of Stable Diffusion 3, whose noise is of the seed, and union ones: equal to diffusers' own pipelines."""

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from easel_contract.add_ons import AddOnConfig
from easel_contract.gateway_config import Reproducibility
from easel_server.engine import loading
from easel_server.engine.interface import GenerationError
from easel_server.generation.add_ons import ControlMode, ControlType, HiresPass
from easel_server.generation.tasks import Task
from PIL import Image

from tests.inference_server.engine.add_ons.control_nets import (
    CLASSES,
    UNIONS,
    build_stock,
    call,
    run,
    stock_net,
    stock_union,
    use_of,
)
from tests.inference_server.engine.parity.stock import IMAGE, INPUTS, build_engine, build_job
from tests.inference_server.engine.stepping.running import go_on, images_of

loading.prepare_libraries()
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning"),  # diffusers' own, of Flux's ControlNets
]
NUMBERS = {
    "sdxl": {ControlType.DEPTH: 1, ControlType.HARD_EDGE: 3, ControlType.TILE: 6},
    "flux": {ControlType.DEPTH: 2, ControlType.HARD_EDGE: 0, ControlType.TILE: 1},
}


def pixels_of(generation: Any) -> list[bytes]:
    return [Image.open(BytesIO(each)).tobytes() for each in images_of(generation)]


def call_seeded(job: Any, net: Any, **changes: Any) -> bytes:
    """Stable Diffusion 3's pipeline in a process whose own generator begins at the job's seed."""
    import torch  # noqa: PLC0415

    stock = build_stock("sd3", job.task, net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        image: bytes = call(stock, job, **changes)[0].tobytes()
    return image


def test_stable_diffusion_3_with_a_controlnet_is_the_stock_call_in_a_process_with_the_same_seed(nets: Any) -> None:
    engine, config = build_engine("sd3"), nets["sd3"]
    job = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config, weight=0.7, start=0.1, end=0.8),))
    scales = {"controlnet_conditioning_scale": 0.7, "control_guidance_start": 0.1, "control_guidance_end": 0.8}
    ours = run(engine, job, [config])
    assert ours == call_seeded(job, stock_net("sd3"), **scales)
    assert ours != run(engine, build_job(Task.TEXT_TO_IMAGE), [])
    two = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config), use_of(config, weight=0.4)))
    image = Image.open(BytesIO(IMAGE)).convert("RGB")
    lists = {"control": [image, image], "controlnet_conditioning_scale": [1.0, 0.4]}
    nets_of_two = [stock_net("sd3"), stock_net("sd3")]
    assert run(engine, two, [config]) == call_seeded(two, nets_of_two, **lists)


def test_stable_diffusion_3s_control_noise_is_of_the_seed_in_any_company_and_leaves_the_process_as_it_was(
    nets: Any,
) -> None:
    import torch  # noqa: PLC0415

    engine, config = build_engine("sd3"), nets["sd3"]
    exact = {"reproducibility": Reproducibility.EXACT, "controls": (use_of(config),)}
    alone = {seed: run(engine, build_job(Task.TEXT_TO_IMAGE, seed=seed, **exact), [config]) for seed in (5, 6)}
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    jobs = [
        build_job(Task.TEXT_TO_IMAGE, seed=5, images=2, **exact),
        build_job(Task.TEXT_TO_IMAGE, seed=6, **exact),
        build_job(Task.TEXT_TO_IMAGE, seed=7),
        build_job(Task.TEXT_TO_IMAGE, seed=8, controls=(use_of(config),)),
    ]
    begun = [engine.begin(each, INPUTS, add_ons=[config]) for each in jobs]
    go_on(engine, begun)
    assert pixels_of(begun[0]) == [alone[5], alone[6]]
    assert pixels_of(begun[1]) == [alone[6]]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_stable_diffusion_3_says_what_it_cant_do_with_a_controlnet(nets: Any) -> None:
    engine, config = build_engine("sd3"), nets["sd3"]
    hires = HiresPass(width_pixels=128, height_pixels=128, upscaler="Latent", strength=0.5)
    for job in (
        build_job(Task.IMAGE_TO_IMAGE, controls=(use_of(config),)),
        build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config),), hires=hires),
    ):
        generation = engine.begin(job, INPUTS, add_ons=[config])
        assert "it can do TextToImage with them" in str(generation.error)


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("name", UNIONS)
def test_a_union_controlnet_gets_its_control_type_as_in_the_stock_pipeline(name: str, task: Task, unions: Any) -> None:
    engine, config = build_engine(name), unions[name]
    images = {}
    for control_type, number in NUMBERS[name].items():
        job = build_job(task, controls=(use_of(config, weight=0.7, end=0.8, control_type=control_type),))
        images[control_type] = run(engine, job, [config])
        stock = build_stock(name, task, stock_union(name), is_union=True)
        is_listed = name == "sdxl" or task is not Task.TEXT_TO_IMAGE
        told = {"control_mode": [number] if is_listed else number}
        scales = {"controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.8}
        assert images[control_type] == call(stock, job, **told, **scales)[0].tobytes()
    assert len(set(images.values())) == 3


def test_two_units_of_a_union_controlnet_are_the_stock_pipelines_with_several(unions: Any) -> None:
    image = Image.open(BytesIO(IMAGE)).convert("RGB")
    for name in UNIONS:
        engine, config = build_engine(name), unions[name]
        uses = (
            use_of(config, weight=0.7, control_type=ControlType.DEPTH),
            use_of(config, weight=0.4, control_type=ControlType.TILE),
        )
        job = build_job(Task.TEXT_TO_IMAGE, controls=uses)
        stock = build_stock(name, job.task, [stock_union(name)] * 2, is_union=True)
        numbers = [NUMBERS[name][ControlType.DEPTH], NUMBERS[name][ControlType.TILE]]
        lists = {"control_mode": numbers, "controlnet_conditioning_scale": [0.7, 0.4]}
        expected = call(stock, job, control=[image, image], **lists)[0].tobytes()
        assert run(engine, job, [config]) == expected, name


def test_jobs_with_a_union_controlnet_share_calls_whatever_their_number_of_images(unions: Any) -> None:
    for name, task in (("sdxl", Task.TEXT_TO_IMAGE), ("flux", Task.IMAGE_TO_IMAGE)):
        engine, config = build_engine(name), unions[name]
        exact = {"reproducibility": Reproducibility.EXACT}
        use = use_of(config, control_type=ControlType.DEPTH)
        jobs = [build_job(task, controls=(use,), seed=seed, **exact) for seed in (5, 6)]
        alone = [run(engine, job, [config]) for job in jobs]
        two = engine.begin(build_job(task, controls=(use,), seed=5, images=2, **exact), INPUTS, add_ons=[config])
        other = use_of(config, control_type=ControlType.TILE)
        close = [engine.begin(build_job(task, controls=(each,)), INPUTS, add_ons=[config]) for each in (use, other)]
        go_on(engine, [two, *close])
        assert pixels_of(two) == alone
        assert pixels_of(close[0]) != pixels_of(close[1])


def test_a_union_file_is_known_by_its_tensors_and_what_cant_be_done_with_it_is_said(
    unions: Any, nets: Any, tmp_path: Path
) -> None:
    engine, config = build_engine("sdxl"), unions["sdxl"]
    folder = tmp_path / "published"  # as the repository has it: another class's name, and fewer kinds
    shutil.copytree(config.source, folder)
    said = json.loads((folder / "config.json").read_text())
    said |= {"_class_name": "ControlNetModel_Union", "num_control_type": 6}
    (folder / "config.json").write_text(json.dumps(said))
    published = AddOnConfig(name="union", source=str(folder))
    depth = {"control_type": ControlType.DEPTH}
    job = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(published, **depth),))
    again = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config, **depth),))
    assert run(engine, job, [published]) == run(engine, again, [config])
    plain = nets["sdxl"]
    refused = {
        "isn't told which this is; the control type may be OpenPose, Depth": (use_of(config),),
        "'Blur' isn't one": (use_of(config, control_type=ControlType.BLUR),),
        "'Balanced' only": (use_of(config, mode=ControlMode.PROMPT, **depth),),
        "doesn't go beside a union one": (use_of(config, **depth), use_of(plain)),
    }
    for message, uses in refused.items():
        generation = engine.begin(build_job(Task.TEXT_TO_IMAGE, controls=uses), INPUTS, add_ons=[config, plain])
        assert isinstance(generation.error, GenerationError), message
        assert message in str(generation.error)
