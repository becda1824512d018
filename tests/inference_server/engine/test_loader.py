"""Loading: what is chosen, and what a user reads when it can't work."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from easel_contract.server_config import DType, ModelConfig, SafetyPolicy
from easel_server.engine.interface import Engine, GenerationError, ModelLoadError
from easel_server.engine.loading import find_directory, load_engine

from tests.support.tiny_engine import generate, tiny_engine, tiny_model_directory, tiny_parameters

pytestmark = pytest.mark.torch

UNET = "unet/diffusion_pytorch_model.safetensors"


def load(source: Path, **changes: Any) -> Engine:
    return load_engine(ModelConfig(name="m", source=str(source), **changes), hub_token=None)


def refusal(source: Path, **changes: Any) -> str:
    with pytest.raises(ModelLoadError) as raised:
        load(source, **changes)
    message = str(raised.value)
    assert message.startswith("model m: ")
    return message


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of a tiny model, to be changed."""
    return shutil.copytree(tiny_model_directory("sd15"), tmp_path / "model")


def write_weights(file: Path, *keys: str, shape: tuple[int, ...] = (2,), missing_bytes: int = 0) -> Path:
    """A .safetensors file of zeros."""
    count = 2 * shape[0]
    entries = {
        key: {"dtype": "F16", "shape": shape, "data_offsets": [index * count, (index + 1) * count]}
        for index, key in enumerate(keys)
    }
    text = json.dumps(entries).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(len(keys) * count - missing_bytes))
    return file


def edit_index(model: Path, **changes: Any) -> None:
    file = model / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_description_says_what_runs_where() -> None:
    description = tiny_engine("sdxl").description
    assert (description.engine, description.pipeline, description.dtype, description.model) == (
        "diffusers",
        "StableDiffusionXLPipeline",
        "float32",
        "sdxl",
    )
    assert description.device == "cpu"
    assert description.load_seconds > 0


@pytest.mark.parametrize(
    "name", ["sd2", "lcm", "sdxl-turbo", "sd3", "flux", "flux-schnell", "pixart-alpha", "pixart-sigma"]
)
def test_a_model_of_every_family_is_loaded_as_a_worker_loads_it(name: str) -> None:
    """Its warm-up included, which asks for as few steps as there can be."""
    assert tiny_engine(name).description.defaults.family


def test_too_few_steps_are_refused_as_the_requests_fault() -> None:
    generation = tiny_engine("pixart-alpha").begin(tiny_parameters(steps=1), {})
    assert isinstance(generation.error, GenerationError)
    assert "allowed are 2 or more" in str(generation.error)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    assert f"directory {tmp_path}/gone does not exist; check model.source" in refusal(tmp_path / "gone")


def test_a_directory_without_a_pipeline_is_named_with_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert "has no model_index.json (found: notes.txt)" in refusal(tmp_path)
    assert "notes.txt is no file of weights" in refusal(tmp_path / "notes.txt")


def test_a_folder_of_many_models_lists_them_with_their_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "Stable-diffusion"
    for number in range(11):
        write_weights(folder / f"dream v{number:02}.safetensors", "weight", shape=(2 << 20,))
    message = refusal(folder)
    assert "has 11 models (dream v00.safetensors (4.0 MiB), dream v01" in message
    assert "dream v07.safetensors (4.0 MiB), and 3 more) and no model_index.json; name one of the files" in message
    assert "models are in models/Stable-diffusion: name one of those in model.source" in refusal(tmp_path)


def break_off(model: Path) -> None:
    content = (model / UNET).read_bytes()
    (model / UNET).write_bytes(content[: len(content) // 2])


def make_pointer(model: Path) -> None:
    (model / UNET).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 6938078334\n",
    )


def split_and_lose(model: Path) -> None:
    (model / UNET).rename(model / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors")


def make_pickle(model: Path) -> None:
    (model / UNET).rename((model / UNET).with_suffix(".bin"))


BROKEN: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "cut off": (break_off, [UNET, "is truncated: ", " MiB (", " bytes) that its header names; download it again"]),
    "cut off in its head": (
        lambda model: (model / UNET).write_bytes((model / UNET).read_bytes()[:100]),
        [UNET, "is truncated: 100 bytes (100 bytes) of the "],
    ),
    "empty": (lambda model: (model / UNET).write_bytes(b""), [UNET, "is empty; download it again"]),
    "text": (lambda model: (model / UNET).write_bytes(b"broken"), [UNET, "(6 bytes) is no file of the kind"]),
    "a web page": (
        lambda model: (model / UNET).write_text("<!DOCTYPE html><html>" + " " * 100),
        [UNET, "is a web page, not weights (a download that needed a login?)"],
    ),
    "a pointer of git-lfs": (make_pointer, [UNET, "is a pointer of git-lfs for 6.5 GiB", "`git lfs pull`"]),
    "not there": (
        lambda model: (model / UNET).unlink(),
        ["component unet has no weights (no unet/model.safetensors or unet/diffusion_pytorch_model.safetensors)"],
    ),
    "one part of two": (split_and_lose, ["component unet has only 1 of the parts of its weights", "00001-of-00002"]),
    "a pickle": (make_pickle, ["component unet has pickles alone (unet/diffusion_pytorch_model.bin)", "allowPickles"]),
    "of a variant that wasn't asked for": (
        lambda model: (model / UNET).rename(model / "unet" / "diffusion_pytorch_model.fp16.safetensors"),
        ["component unet has weights of the variant fp16 only; set variant to one of them"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_weights_that_are_broken_are_named_with_what_to_do(model: Path, case: str) -> None:
    change, parts = BROKEN[case]
    change(model)
    message = refusal(model)
    assert [part for part in parts if part not in message] == []


def test_pickles_are_loaded_where_the_service_allows_them(model: Path) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from safetensors.torch import load_file  # noqa: PLC0415  # loads torch

    torch.save(load_file(model / UNET), (model / UNET).with_suffix(".bin"))
    (model / UNET).unlink()
    engine = load(model, allow_pickles=True)
    assert engine.description.resolved_revision == tiny_engine().description.resolved_revision


def test_a_file_that_may_not_be_read_is_named_with_whose_it_must_be(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == model / UNET:
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)  # root, as tests may be run, is refused nothing
    message = refusal(model)
    assert f"{model / UNET} may not be read by user {os.geteuid()} (Permission denied)" in message
    assert "fsGroup" in message


OTHERS = {
    "a LoRA": ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "lora_te_text_model.lora_up.weight"),
    "a LoRA of PEFT": ("base_model.model.unet.down_blocks.0.attn.to_q.lora_A.weight",),
    "a ControlNet": ("control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"),
    "a ControlNet of diffusers": ("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
    "an autoencoder (VAE)": ("decoder.conv_in.weight", "encoder.conv_in.weight", "quant_conv.weight"),
    "an autoencoder (VAE) of a checkpoint": ("first_stage_model.decoder.conv_in.weight",),
    "a textual inversion": ("emb_params",),
    "a text encoder": ("text_model.embeddings.token_embedding.weight",),
    "an IP-Adapter": ("image_proj.norm.weight", "ip_adapter.1.to_k_ip.weight"),
    "a motion module": ("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight",),
    "an upscaler": ("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_model_is_called_by_what_it_is(tmp_path: Path, case: str) -> None:
    file = write_weights(tmp_path / "other.safetensors", *OTHERS[case])
    kind = case.split(" of ", maxsplit=1)[0]
    message = refusal(file)
    assert f"other.safetensors ({file.stat().st_size} bytes) is {kind}, not a model" in message


def test_weights_of_nothing_that_is_known_are_named_with_what_is_in_them(tmp_path: Path) -> None:
    message = refusal(write_weights(tmp_path / "other.safetensors", "lm_head.weight"))
    assert "has none of the tensors of an image model (its first: lm_head.weight)" in message


def test_a_class_that_diffusers_has_not_is_named(model: Path) -> None:
    edit_index(model, _class_name="Dream9Pipeline")
    assert "names the pipeline class Dream9Pipeline, which diffusers" in refusal(model)


def test_a_pipeline_that_only_changes_images_is_named(model: Path) -> None:
    edit_index(model, _class_name="StableDiffusionInpaintPipeline")
    assert "it is a StableDiffusionInpaintPipeline, which generates from an image that is given alone" in refusal(model)


def test_code_of_a_repository_is_never_executed(model: Path, tmp_path: Path) -> None:
    (model / "unet" / "my_unet.py").write_text(f"open({str(tmp_path / 'called')!r}, 'w')")
    edit_index(model, unet=["my_unet", "MyUNet"])
    assert "component unet asks for code of the repository's own (my_unet.MyUNet)" in refusal(model)
    edit_index(model, unet=["diffusers", "UNet2DConditionModel"], _class_name=["pipeline", "MyPipeline"])
    (model / "pipeline.py").write_text(f"open({str(tmp_path / 'called')!r}, 'w')")
    assert "asks for code of the repository's own (['pipeline', 'MyPipeline'])" in refusal(model)
    assert not (tmp_path / "called").exists()


def test_a_model_that_is_too_large_is_refused_with_its_sizes_before_it_is_loaded(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_engine()  # so that the libraries are prepared before they are imported here
    from easel_server.engine.model_files import pipelines  # noqa: PLC0415  # loads torch

    monkeypatch.setattr(pipelines, "read_free_host_bytes", lambda: 1 << 20)
    message = refusal(model)
    assert "the weights take 4.7 MiB as float32 (unet 3.2 MiB, vae 1.4 MiB, text_encoder 0.2 MiB)" in message
    assert "1.0 MiB of memory are free; raise worker.resources.limits.memory" in message


def test_float16_on_a_processor_is_refused() -> None:
    message = refusal(tiny_model_directory(), dtype=DType.FLOAT16)
    assert "dtype Float16 needs an accelerator, and torch sees none" in message
    assert "GPU resource" in message


def test_bfloat16_is_a_processors_to_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_engine()  # so that the libraries are prepared before they are imported here
    from easel_server.engine import diffusers_loader  # noqa: PLC0415  # loads torch

    found = {}
    for name, features in {"amx": "fpu amx_bf16 avx2", "zen4": "fpu avx512_bf16", "old": "fpu avx2"}.items():
        (tmp_path / name).write_text(f"processor\t: 0\nflags\t\t: {features}\n")
        found[name] = diffusers_loader.has_cpu_bfloat16(tmp_path / name)
    (tmp_path / "arm").write_text("processor : 0\nFeatures : fp asimd bf16 i8mm\n")
    found["arm"] = diffusers_loader.has_cpu_bfloat16(tmp_path / "arm")
    assert found == {"amx": True, "zen4": True, "old": False, "arm": True}

    monkeypatch.setattr(diffusers_loader, "has_cpu_bfloat16", lambda: False)
    assert "dtype BFloat16 needs an accelerator" in refusal(tiny_model_directory(), dtype=DType.BFLOAT16)
    monkeypatch.setattr(diffusers_loader, "has_cpu_bfloat16", lambda: True)
    assert "or to BFloat16, which this processor has" in refusal(tiny_model_directory(), dtype=DType.FLOAT16)
    engine = load(tiny_model_directory(), dtype=DType.BFLOAT16)
    assert engine.description.dtype == "bfloat16"
    assert generate(engine, tiny_parameters())[0][0]


def test_of_a_directory_the_narrow_files_are_loaded_where_the_weights_become_narrow(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_engine()  # so that the libraries are prepared before they are imported here
    from diffusers import DiffusionPipeline  # noqa: PLC0415  # loads torch
    from easel_server.engine import diffusers_loader  # noqa: PLC0415  # loads torch

    monkeypatch.setattr(diffusers_loader, "has_cpu_bfloat16", lambda: True)
    wide = load(model, dtype=DType.BFLOAT16).description.resolved_revision
    other = DiffusionPipeline.from_pretrained(tiny_model_directory())
    other.unet.conv_in.bias.data += 1
    other.unet.save_pretrained(tmp_path / "unet", variant="fp16")
    shutil.copy(tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors", model / "unet")
    assert load(model).description.resolved_revision == tiny_engine().description.resolved_revision
    assert load(model, dtype=DType.BFLOAT16).description.resolved_revision != wide
    assert load(model, variant="fp16").description.resolved_revision != tiny_engine().description.resolved_revision


def test_a_safety_checker_that_is_not_used_is_not_loaded(model: Path) -> None:
    checker = model / "safety_checker"
    checker.mkdir()
    (checker / "config.json").write_text("{}")
    edit_index(model, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    assert load(model, safety=SafetyPolicy.OFF).description.pipeline == "StableDiffusionPipeline"
    assert "component safety_checker has no weights" in refusal(model)


def test_a_directorys_configuration_is_found_without_torch(model: Path, tmp_path: Path) -> None:
    assert find_directory(ModelConfig(name="m", source=str(model))) == model
    assert find_directory(ModelConfig(name="m", source="owner/model")) is None
    file = write_weights(tmp_path / "alone" / "dream.safetensors", "model.diffusion_model.out.2.weight")
    assert find_directory(ModelConfig(name="m", source=str(file))) is None


def test_of_a_repository_the_commit_counts_and_which_of_its_files(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants  # noqa: PLC0415  # most tests don't need it

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--owner--model"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(model, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (snapshot / UNET).rename(snapshot / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config = ModelConfig(name="m", source="owner/model", revision="main", variant="fp16")
    description = load_engine(config, hub_token=None).description
    assert (description.resolved_revision, description.files) == (commit, "fp16")
