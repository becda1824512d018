"""ControlNets: equal to diffusers' own pipelines, shared with other jobs, kept while they are used."""

import copy
import gc
import json
import shutil
import weakref
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from easel_contract.add_ons import AddOnConfig
from easel_server.engine import loading
from easel_server.engine.interface import GenerationError
from easel_server.generation.add_ons import ControlMode, Feature
from easel_server.generation.tasks import Task
from PIL import Image

from tests.inference_server.engine.add_ons.control_nets import CLASSES, PREFIXES, call_stock, run, stock_net, use_of
from tests.inference_server.engine.parity.stock import IMAGE, INPUTS, build_engine, build_job, build_tiny
from tests.inference_server.engine.stepping.running import go_on, images_of

loading.prepare_libraries()
pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning")  # diffusers' own, of Flux's ControlNets


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("name", [name for name in PREFIXES if name != "sd3"])
def test_alone_a_job_with_a_controlnet_is_the_stock_pipelines_image(name, task, nets) -> None:
    engine = build_engine(name)
    job = build_job(task, controls=(use_of(nets[name], weight=0.7, start=0.1, end=0.8),))
    scales = {"controlnet_conditioning_scale": 0.7, "control_guidance_start": 0.1, "control_guidance_end": 0.8}
    ours = run(engine, job, [nets[name]])
    assert ours == call_stock(name, job, stock_net(name), **scales)
    assert ours != run(engine, build_job(task), [])


def test_several_controlnets_and_guess_mode_are_the_stock_pipelines(nets) -> None:
    engine, config = build_engine("sd15"), nets["sd15"]
    image = Image.open(BytesIO(IMAGE)).convert("RGB")
    two = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config, weight=0.7), use_of(config, weight=0.2, end=0.5)))
    scales = {"controlnet_conditioning_scale": [0.7, 0.2], "control_guidance_end": [1.0, 0.5]}
    net = stock_net("sd15")
    assert run(engine, two, [config]) == call_stock("sd15", two, [net, net], control=[image, image], **scales)
    guess = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config, mode=ControlMode.CONTROL),))
    assert run(engine, guess, [config]) == call_stock("sd15", guess, net, guess_mode=True)


def test_each_mode_gives_another_image_and_modes_may_be_mixed(nets) -> None:
    engine, config = build_engine("sd15"), nets["sd15"]
    images = {
        run(
            engine, build_job(Task.TEXT_TO_IMAGE, controls=tuple(use_of(config, mode=mode) for mode in modes)), [config]
        )
        for modes in (*((mode,) for mode in ControlMode), (ControlMode.PROMPT, ControlMode.CONTROL))
    }
    assert len(images) == 4
    # A mixture with a ControlNet that has no weight is the other one alone.
    guess = use_of(config, mode=ControlMode.CONTROL)
    mixed = build_job(Task.TEXT_TO_IMAGE, controls=(guess, use_of(config, mode=ControlMode.PROMPT, weight=0.0)))
    alone = build_job(Task.TEXT_TO_IMAGE, controls=(guess,))
    assert run(engine, mixed, [config]) == run(engine, alone, [config])


def count_calls(module: Any, monkeypatch: pytest.MonkeyPatch, stepper: Any) -> list[int]:
    rows: list[int] = []
    forward = stepper._forwards[module]

    def count(*arguments: Any, **options: Any) -> Any:
        rows.append(next(iter([*arguments, *options.values()])).shape[0])
        return forward(*arguments, **options)

    monkeypatch.setitem(stepper._forwards, module, count)
    return rows


def test_jobs_with_a_controlnet_share_calls_with_each_other_and_with_plain_ones(nets, monkeypatch) -> None:
    # Of its own: what is patched is put back after the network is gone, and the next one's calls weren't seen then.
    engine, config = build_engine.__wrapped__("sd15"), nets["sd15"]
    job = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config),))
    plain = build_job(Task.TEXT_TO_IMAGE, steps=20)
    jobs = [engine.begin(each, INPUTS, add_ons=[config]) for each in (job, job, plain)]
    rows = count_calls(engine._pipelines[Task.TEXT_TO_IMAGE].pipeline.unet, monkeypatch, engine._stepper)
    net = next(module for module in engine._stepper._forwards if type(module).__name__ == "ControlNetModel")
    net_rows = count_calls(net, monkeypatch, engine._stepper)
    engine.step(jobs)
    engine.step(jobs)
    assert (net_rows, rows) == ([4], [2, 6])  # the plain one takes a step meanwhile, and then all of them take one
    go_on(engine, jobs)
    assert pixels_differ(images_of(jobs[2])[0], run(engine, plain, [])) <= 1
    assert pixels_differ(images_of(jobs[0])[0], run(engine, job, [config])) <= 1


def pixels_differ(image: bytes, other: bytes) -> int:
    import numpy as np  # noqa: PLC0415

    mine = np.frombuffer(Image.open(BytesIO(image)).tobytes(), np.uint8).astype(int)
    return int(abs(mine - np.frombuffer(other, np.uint8)).max())


def other_net(folder: Path) -> AddOnConfig:
    """With other weights than the one of ``nets``."""
    import torch  # noqa: PLC0415

    net = copy.deepcopy(stock_net("sd15"))
    with torch.no_grad():
        net.controlnet_mid_block.weight.mul_(2)
    net.save_pretrained(folder / "other")
    return AddOnConfig(name="other", source=str(folder / "other"))


def test_a_controlnet_stays_while_a_job_uses_it_and_nothing_of_it_is_left_behind(nets, tmp_path) -> None:
    from easel_server.engine.add_ons.residency import Residency  # noqa: PLC0415
    from easel_server.engine.diffusers_engine import DiffusersEngine  # noqa: PLC0415

    config = nets["sd15"]
    other = other_net(tmp_path)
    size = sum(each.numel() * each.element_size() for each in stock_net("sd15").parameters())
    described = build_engine("sd15").description
    pipeline = build_tiny("sd15", bare=False)
    residency = Residency(pipeline.device, device_bytes=int(1.5 * size), host_bytes=0)
    engine = DiffusersEngine(pipeline, described, residency=residency)
    job = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config),))
    running = engine.begin(job, INPUTS, add_ons=[config])
    engine.step([running])
    late_job = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(other),))
    late = engine.begin(late_job, INPUTS, add_ons=[other])
    engine.step([running, late])
    assert (late.steps_done, late.is_done) == (0, False)  # it waits for room
    net = weakref.ref(next(module for module in engine._stepper._forwards if "ControlNet" in type(module).__name__))
    go_on(engine, [running])
    images_of(running)
    assert len(engine._stepper._forwards) == 1  # the denoiser's
    go_on(engine, [late])
    [image] = images_of(late)
    assert Image.open(BytesIO(image)).tobytes() == run(build_engine("sd15"), late_job, [other])
    assert residency.count_held_bytes() == 0
    del running, late
    gc.collect()
    assert net() is None


def test_a_job_with_a_controlnet_goes_on_from_its_checkpoint(nets) -> None:
    engine, config = build_engine("sd15"), nets["sd15"]
    job = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config),))
    first = engine.begin(job, INPUTS, add_ons=[config])
    go_on(engine, [first], until=lambda: first.steps_done >= 3)
    assert first.build_preview() is not None
    saved = first.checkpoint()
    first.stop()
    second = engine.begin(job, INPUTS, checkpoint=saved, add_ons=[config])
    assert second.steps_done >= 3
    go_on(engine, [second])
    assert Image.open(BytesIO(images_of(second)[0])).tobytes() == run(engine, job, [config])


def test_a_single_file_with_the_original_names_is_the_same_network(nets, tmp_path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415

    from tests.support.wild_files import name_control_net  # noqa: PLC0415

    net = stock_net("sd15")
    save_file(
        {f"control_model.{key}": tensor for key, tensor in name_control_net(net).items()}, tmp_path / "a.safetensors"
    )
    save_file(net.state_dict(), tmp_path / "b.safetensors")
    engine, config = build_engine("sd15"), nets["sd15"]
    expected = run(engine, build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config),)), [config])
    for file in ("a.safetensors", "b.safetensors"):
        single = AddOnConfig(name="canny", source=str(tmp_path), file=file)
        assert run(engine, build_job(Task.TEXT_TO_IMAGE, controls=(use_of(single),)), [single]) == expected


def test_what_is_no_controlnet_of_this_model_is_refused_by_its_name(nets, tmp_path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415

    engine = build_engine("sd15")
    save_file({"lora_unet.alpha": next(stock_net("sd15").parameters()).detach()}, tmp_path / "lora.safetensors")
    (tmp_path / "pickle.ckpt").write_bytes(b"\x80\x04")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    sources = {
        str(nets["sdxl"].source): "'canny' is for a model with text embeddings of 96",
        str(tmp_path / "lora.safetensors"): "is no ControlNet",
        str(tmp_path / "pickle.ckpt"): "is no .safetensors file",
        str(tmp_path / "empty"): "has no config.json",
        str(tmp_path / "bad.safetensors"): "can't be read",
        str(tmp_path / "gone.safetensors"): "doesn't exist",
    }
    for source, said in sources.items():
        config = AddOnConfig(name="canny", source=source)
        job = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config),))
        generation = engine.begin(job, INPUTS, add_ons=[config])
        assert isinstance(generation.error, GenerationError), source
        assert said in str(generation.error)
        with pytest.raises(GenerationError, match="canny"):
            engine.gather(job, [config])


def test_models_without_a_pipeline_for_it_dont_say_that_they_can() -> None:
    for name in PREFIXES:
        assert Feature.CONTROL_NETS in build_engine(name).description.features
    for name in ("pixart-alpha", "lcm"):
        assert Feature.CONTROL_NETS not in build_engine(name).description.features


@pytest.mark.parametrize(
    "changes",
    [
        {"block_out_channels": [40000, 80000], "norm_num_groups": 8},
        {"block_out_channels": "x"},
        {"down_block_types": ["Nope", "Nope"]},
    ],
)
def test_a_configuration_that_its_file_doesnt_fit_is_refused_before_it_takes_memory(nets, tmp_path, changes) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(nets["sd15"].source, folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | changes))
    odd = AddOnConfig(name="odd", source=str(folder))
    job = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(odd),))
    with pytest.raises(GenerationError, match="odd"):
        build_engine("sd15").gather(job, [odd])
