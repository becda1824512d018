"""Models from the Hub, with its real client against a Hub of our own: what is fetched, and what a user reads if not."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub_server import COMMIT, TOKEN, HubServer, serve_hub

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "safety_checker": [None, None],
}
UNET = "unet/diffusion_pytorch_model"
ENCODER = "text_encoder/model"
CONFIGURATION = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
}

# The Hub's address is read when its client is imported, hence processes of their own; without torch they start quickly.
PROGRAM = """
import json, sys
from easel_contract.add_ons import AddOnConfig
from easel_contract.server_config import SourceConfig
from easel_server.engine.add_ons.files import AddOnFiles
from easel_server.engine.interface import GatheringError, GenerationError
from easel_server.engine.model_files.gathering import Gathering, gather_model
from easel_server.engine.model_files.hub import Hub
from easel_server.engine.model_files.selection import ModelFileError
from easel_server.engine.model_files.vae import gather_vae
assert "torch" not in sys.modules
for line in sys.stdin:
    asked = json.loads(line)
    pauses = []
    if asked.get("is_add_on"):
        files = AddOnFiles(None, Hub(asked.get("token"), pauses.append))
        try:
            answer = {"path": str(files.find(AddOnConfig(name="ink", **asked["source"])).path)}
        except (GatheringError, GenerationError, OSError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer | {"pauses": pauses}), flush=True)
        continue
    how = Gathering(
        dtype=asked.get("dtype", "float32"),
        allow_pickles=asked.get("allow_pickles", False),
        config_repository=asked.get("config_repository"),
        hub=Hub(asked.get("token"), pauses.append),
        read_pickle=lambda file: {},
        find_repository=lambda tensors: "family/config",
    )
    if asked.get("is_vae"):
        try:
            vae = gather_vae(SourceConfig(**asked["source"]), how)
            answer = {"files": vae.files, "is_single": vae.is_single, "loaded_bytes": vae.loaded_bytes}
            answer["class"] = vae.config.get("_class_name")
        except ModelFileError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer | {"pauses": pauses}), flush=True)
        continue
    try:
        model = gather_model(SourceConfig(**asked["source"]), how)
        answer = {
            "directory": str(model.directory),
            "commit": model.commit,
            "files": model.files,
            "variant": model.selection.variant,
            "loaded_bytes": model.loaded_bytes,
        }
    except ModelFileError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer | {"pauses": pauses}), flush=True)
"""


class Client:
    """A process with a cache of its own, asked one thing after another."""

    def __init__(self, address: str, cache: Path, **environment: str) -> None:
        self.cache = cache
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, source: str, **asked: Any) -> dict[str, Any]:
        parts = {name: asked.pop(name) for name in ("revision", "variant", "file") if name in asked}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"source": {"source": source, **parts}, **asked}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def stop(self) -> None:
        with self._process as process:
            process.communicate(timeout=30)
            assert process.returncode == 0


def write_weights(file: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """A .safetensors file of zeros."""
    widths = {"F32": 4, "F16": 2}
    header: dict[str, Any] = {}
    end = 0
    for key, (dtype, shape) in tensors.items():
        size = widths[dtype]
        for side in shape:
            size *= side
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def write_repository(root: Path, *weights: str, **index: Any) -> Path:
    """A small pipeline's configuration, and the weight files that are named."""
    for name in CONFIGURATION:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    (root / "model_index.json").write_text(json.dumps({**INDEX, **index}))
    for name in weights:
        file = root / name
        if name.endswith(".safetensors"):
            write_weights(file, {"weight": ("F16" if "fp16" in name else "F32", [1000])})
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"PK\x03\x04" + name.encode() + bytes(5000))
    return root


FULL = (f"{UNET}.safetensors", f"{ENCODER}.safetensors")
HALF = (f"{UNET}.fp16.safetensors", f"{ENCODER}.fp16.safetensors")
SHARDS = (f"{UNET}-00001-of-00002.safetensors", f"{UNET}-00002-of-00002.safetensors")
PICKLES = (f"{UNET}.bin", "text_encoder/pytorch_model.bin")
CLUTTER = (
    *PICKLES,
    "v1-5-pruned.ckpt",
    "unet/model.onnx",
    "unet/diffusion_flax_model.msgpack",
    "text_encoder/tf_model.h5",
    "text_encoder/flax_model.msgpack",
    f"{UNET}.non_ema.safetensors",
    "README.md",
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    root = tmp_path_factory.mktemp("hub")
    write_repository(root / "owner/both", *FULL, *HALF, *CLUTTER)
    write_repository(root / "owner/full", *FULL, *CLUTTER)
    write_repository(root / "owner/half-unet", *FULL, HALF[0])
    write_repository(root / "owner/only-half", *HALF)
    write_repository(root / "owner/pickles", *PICKLES)
    write_repository(root / "owner/shards", *SHARDS, FULL[1])
    (root / "owner/shards" / f"{UNET}.safetensors.index.json").write_text("{}")
    write_repository(root / "owner/half-shards", SHARDS[0], FULL[1])
    write_repository(root / "owner/no-encoder", FULL[0])
    write_repository(root / "owner/code", *FULL, unet=["my_unet", "MyUNet"])
    (root / "owner/code/unet/my_unet.py").write_text("raise SystemExit")
    write_repository(root / "owner/own-pipeline", *FULL, _class_name=["pipeline", "MyPipeline"])
    write_repository(root / "private/model", *FULL)
    write_repository(root / "family/config")
    write_repository(root / "owner/large", *FULL)
    write_weights(root / "owner/large" / FULL[0], {"large": ("F32", [12 << 20])})
    write_weights(root / "owner/files/dream v8.safetensors", dict.fromkeys(DENOISER, ("F16", [8])))
    write_weights(root / "owner/files/whole.safetensors", dict.fromkeys([*DENOISER, *TEXT], ("F16", [8])))
    (root / "owner/files/old.ckpt").write_bytes(b"PK\x03\x04")
    for place in ("owner/vae", "owner/with-a-vae/vae"):
        for name in (f"{WEIGHTS}.safetensors", f"{WEIGHTS}.fp16.safetensors"):
            write_weights(root / place / name, dict.fromkeys(VAE, ("F16" if "fp16" in name else "F32", [1000])))
        (root / place / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    write_repository(root / "owner/with-a-vae", *FULL)
    write_weights(root / "owner/vae-file" / VAE_FILE, dict.fromkeys(VAE, ("F32", [1000])))
    (root / "owner/vae-file/vae.ckpt").write_bytes(b"PK\x03\x04")
    with serve_hub(root) as server:
        yield server


WEIGHTS = "diffusion_pytorch_model"
VAE = ("decoder.conv_in.weight", "decoder.conv_in.bias")
VAE_FILE = "vae-ft-mse-840000-ema-pruned.safetensors"
DENOISER = ("model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2.weight")
TEXT = ("cond_stage_model.transformer.text_model.final_layer_norm.weight",)


@pytest.fixture(scope="module")
def shared_client(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(hub.address, tmp_path_factory.mktemp("cache"))
    yield client
    client.stop()


@pytest.fixture
def client(shared_client: Client, hub: HubServer) -> Client:
    """With an empty cache."""
    shutil.rmtree(shared_client.cache / "hub", ignore_errors=True)
    hub.forget()
    return shared_client


@pytest.mark.parametrize(
    ("repository", "asked", "weights", "variant"),
    [
        ("owner/both", {"dtype": "float16"}, HALF, "fp16"),
        ("owner/both", {"dtype": "bfloat16"}, HALF, "fp16"),
        ("owner/both", {"dtype": "float32"}, FULL, None),
        ("owner/both", {"dtype": "float32", "variant": "fp16"}, HALF, "fp16"),
        ("owner/full", {"dtype": "float16"}, FULL, None),
        ("owner/half-unet", {"dtype": "float16"}, (HALF[0], FULL[1]), "fp16"),
        ("owner/only-half", {"dtype": "float32", "variant": "fp16"}, HALF, "fp16"),
        ("owner/shards", {"dtype": "float32"}, (*SHARDS, f"{UNET}.safetensors.index.json", FULL[1]), None),
        ("owner/pickles", {"allow_pickles": True}, PICKLES, None),
        ("owner/both", {"allow_pickles": True}, FULL, None),
    ],
    ids=str,
)
def test_only_what_is_loaded_is_downloaded(
    client: Client,
    hub: HubServer,
    repository: str,
    asked: dict[str, Any],
    weights: tuple[str, ...],
    variant: str | None,
) -> None:
    answer = client.ask(repository, **asked)
    assert answer["pauses"] == []
    assert answer["commit"] == COMMIT
    assert (answer["variant"], answer["files"]) == (variant, variant or "")
    assert hub.files == CONFIGURATION | set(weights)
    here = {path.relative_to(answer["directory"]).as_posix() for path in Path(answer["directory"]).rglob("*.*")}
    assert here == hub.files


def test_memory_is_known_from_the_heads_of_the_files(client: Client) -> None:
    assert client.ask("owner/both", dtype="float16")["loaded_bytes"] == {"text_encoder": 2000, "unet": 2000}
    assert client.ask("owner/both", dtype="float32")["loaded_bytes"] == {"text_encoder": 4000, "unet": 4000}


REFUSED = {
    "gone/model": "gone/model on the Hugging Face Hub does not exist or is private: check model.source, or set",
    "secret/model": "does not exist or is private: check model.source, or set model.source.hugging",
    "private/model": "does not exist or is private: check model.source, or set model.source.hugging",
    "gated/model": "is gated: accept its licence on its page, then set model.source.huggingFace.tokenSecretName",
    "old/model": "has no revision 'v9'; check model.source.huggingFace.revision",
    "down/model": "was not reached for down/model in 4 attempts",
    "not a repository": "is no repository id; model.source must be OWNER/NAME or an absolute path",
    "owner/files": "has no model_index.json: model.source must name a pipeline in diffusers' layout; it has single "
    "files, name one in model.source.huggingFace.file: dream v8.safetensors (",
    "owner/only-half": "component text_encoder has weights of the variant fp16 only; set variant",
    "owner/pickles": "component text_encoder has pickles alone (text_encoder/pytorch_model.bin), which can hold "
    "code and are not loaded; take a repository with .safetensors, convert them",
    "owner/half-shards": "component unet has only 1 of the parts of its weights",
    "owner/no-encoder": "component text_encoder has no weights",
    "owner/code": "component unet asks for code of the repository's own (my_unet.MyUNet), and that is never executed",
    "owner/own-pipeline": "asks for code of the repository's own (['pipeline', 'MyPipeline']), and that is never",
}


@pytest.mark.parametrize("source", REFUSED)
def test_the_hubs_refusals_say_what_to_change(client: Client, hub: HubServer, source: str) -> None:
    answer = client.ask(source, revision="v9")
    assert REFUSED[source] in answer["error"]
    # Only a Hub that can't be reached is asked again, and nothing is downloaded in vain.
    assert len(answer["pauses"]) == (3 if source.startswith("down") else 0)
    assert not any(name.endswith((".safetensors", ".bin", ".py")) for name in hub.files)


REFUSED_ADD_ONS = {
    "gone/ink": "ink (gone/ink): gone/ink on the Hugging Face Hub does not exist or is private: check its source, or "
    "set spec.downloads.tokenSecretName to a Secret with a Hub token that may read it",
    "gated/ink": "is gated: accept its licence on its page, then set spec.downloads.tokenSecretName",
    "old/ink": "has no revision 'v9'; check its revision",
    "down/ink": "or put it on a volume and name its path in its source",
    "owner/both": "ink (owner/both) has 5 files of weights; name one in its file: text_encoder/model.",
}


@pytest.mark.parametrize("source", REFUSED_ADD_ONS)
def test_the_hubs_refusals_of_an_add_on_speak_of_its_own_fields(client: Client, source: str) -> None:
    answer = client.ask(source, revision="v9", is_add_on=True)
    assert REFUSED_ADD_ONS[source] in answer["error"]
    assert "model.source" not in answer["error"]


@pytest.mark.parametrize(
    ("source", "asked", "fetched", "loaded_bytes"),
    [
        ("owner/vae", {}, {"config.json", f"{WEIGHTS}.safetensors"}, 8000),
        ("owner/vae", {"dtype": "float16"}, {"config.json", f"{WEIGHTS}.fp16.safetensors"}, 4000),
        (
            "owner/with-a-vae",
            {"variant": "fp16"},
            {"model_index.json", "vae/config.json", f"vae/{WEIGHTS}.fp16.safetensors"},
            8000,
        ),
        ("owner/vae-file", {"file": VAE_FILE}, {VAE_FILE}, 8000),
        ("owner/vae", {"file": f"{WEIGHTS}.safetensors"}, {"config.json", f"{WEIGHTS}.safetensors"}, 8000),
    ],
    ids=["whole", "half precision", "of a pipeline", "file of its own", "file by its name"],
)
def test_of_a_vae_only_what_is_loaded_is_downloaded(
    client: Client, hub: HubServer, source: str, asked: dict[str, Any], fetched: set[str], loaded_bytes: int
) -> None:
    answer = client.ask(source, is_vae=True, **asked)
    assert "error" not in answer
    assert hub.files == fetched
    assert (answer["is_single"], answer["loaded_bytes"]) == ("file" in asked, loaded_bytes)
    assert answer["class"] == (None if source == "owner/vae-file" else "AutoencoderKL")


REFUSED_VAES: dict[str, tuple[str, dict[str, Any], str]] = {
    "gated": ("gated/vae", {}, "is gated: accept its licence on its page, then set model.vae.source.huggingFace.token"),
    "away": (
        "gone/vae",
        {},
        "VAE gone/vae: gone/vae on the Hugging Face Hub does not exist or is private: check model.v",
    ),
    "files alone": ("owner/vae-file", {}, "has no config.json; name one of its files in model.vae.source.huggingFace"),
    "another file": ("owner/vae-file", {"file": "x.safetensors"}, f"has no file 'x.safetensors' (it has {VAE_FILE}"),
    "a pickle": ("owner/vae-file", {"file": "vae.ckpt"}, "vae.ckpt is a pickle, which can hold code, and is not load"),
    "a model": ("owner/files", {"file": "whole.safetensors"}, "is a model; name an autoencoder of the model's own"),
    "a pipeline without one": ("owner/full", {}, "the repository has no vae/config.json"),
}


@pytest.mark.parametrize("case", REFUSED_VAES)
def test_refusals_of_a_vae_speak_of_its_own_fields(client: Client, case: str) -> None:
    source, asked, sentence = REFUSED_VAES[case]
    assert sentence in client.ask(source, is_vae=True, **asked)["error"]


def test_an_add_ons_file_comes_from_the_hub_and_nothing_beside_it(client: Client, hub: HubServer) -> None:
    answer = client.ask("owner/both", file=FULL[0], is_add_on=True)
    assert Path(answer["path"]).read_bytes() == (hub.root / "owner/both" / FULL[0]).read_bytes()
    assert {name for name in hub.files if name.endswith(".safetensors")} == {FULL[0]}


def test_a_variant_that_there_is_not_is_named_with_those_that_there_are(client: Client, hub: HubServer) -> None:
    error = client.ask("owner/both", variant="bf16")["error"]
    assert "no weights of the variant 'bf16' (there are: those without variant, fp16, non_ema)" in error
    assert hub.files == {"model_index.json"}


def test_a_token_opens_a_private_repository(client: Client) -> None:
    assert client.ask("private/model", token=TOKEN)["commit"] == COMMIT
    assert "give the token" in client.ask("secret/model", token=TOKEN)["error"]


def test_a_mirror_that_is_not_reached_is_named(tmp_path: Path) -> None:
    client = Client("http://127.0.0.1:9", tmp_path)
    answer = client.ask("owner/both")
    client.stop()
    assert "at http://127.0.0.1:9 (HF_ENDPOINT) was not reached for owner/both in 4 attempts" in answer["error"]


def test_a_download_that_broke_off_goes_on_where_it_was(client: Client, hub: HubServer) -> None:
    name = f"owner/large/{FULL[0]}"
    size = (hub.root / name).stat().st_size
    hub.cut_once.add(name)
    answer = client.ask("owner/large")
    assert (Path(answer["directory"]) / FULL[0]).read_bytes() == (hub.root / name).read_bytes()
    assert hub.cut_once == set()
    assert size < hub.sent_bytes[name] < 1.2 * size  # what was in flight comes again; the rest doesn't


def test_without_network_a_full_cache_is_enough_and_what_is_missing_is_named(hub: HubServer, tmp_path: Path) -> None:
    client = Client(hub.address, tmp_path)
    client.ask("owner/both", dtype="float16")
    client.stop()
    offline = Client(hub.address, tmp_path, HF_HUB_OFFLINE="1")
    hub.forget()
    there = offline.ask("owner/both", dtype="float16")
    half = offline.ask("owner/both", dtype="float32")
    nothing = offline.ask("owner/full")
    offline.stop()
    assert there["commit"] == COMMIT
    assert f"HF_HUB_OFFLINE is set, and of owner/both the cache {tmp_path}/hub lacks 2 files (" in half["error"]
    assert FULL[0] in half["error"]
    assert f"HF_HUB_OFFLINE is set, and of owner/full the cache {tmp_path}/hub lacks revision main" in nothing["error"]
    assert hub.requests == []


def test_a_cache_that_holds_all_is_enough_while_the_hub_is_down(hub: HubServer, tmp_path: Path) -> None:
    client = Client(hub.address, tmp_path)
    client.ask("owner/both", dtype="float16")
    client.stop()
    cut_off = Client("http://127.0.0.1:9", tmp_path)
    answer = cut_off.ask("owner/both", dtype="float16")
    cut_off.stop()
    assert (answer["commit"], answer["pauses"]) == (COMMIT, [])


def test_of_a_file_of_a_repository_only_it_and_the_configuration_of_its_family_are_fetched(
    client: Client, hub: HubServer
) -> None:
    answer = client.ask("owner/files", file="whole.safetensors")
    assert answer["commit"] == COMMIT
    assert answer["files"] == f"whole.safetensors family/config@{COMMIT}"
    assert hub.files == CONFIGURATION | {"whole.safetensors"}


def test_what_a_file_lacks_comes_with_its_configuration(client: Client, hub: HubServer) -> None:
    answer = client.ask("owner/files", file="dream v8.safetensors", config_repository="owner/both", dtype="float16")
    assert answer["files"] == f"dream v8.safetensors owner/both@{COMMIT}"
    assert hub.files == CONFIGURATION | {"dream v8.safetensors", HALF[1]}


def test_what_a_file_lacks_and_nobody_has_is_named(client: Client) -> None:
    error = client.ask("owner/files", file="dream v8.safetensors")["error"]
    assert "looked for in family/config: component text_encoder has no weights" in error
    assert "Without network, put model_index.json" in error
    assert "model.configRepository" in error


def test_a_file_that_there_is_not_is_named_with_those_that_there_are(client: Client) -> None:
    error = client.ask("owner/files", file="dream.safetensors")["error"]
    assert "has no file 'dream.safetensors'; its single files: dream v8.safetensors (" in error
    assert "is a pickle, which can hold code" in client.ask("owner/files", file="old.ckpt")["error"]


def test_a_disk_that_is_too_small_is_named_before_anything_is_downloaded(client: Client, hub: HubServer) -> None:
    huge = hub.root / "owner/huge"
    write_repository(huge, *FULL)
    with (huge / FULL[0]).open("r+b") as file:
        file.truncate(1 << 42)  # a hole: it takes no room here
    hub.forget()
    error = client.ask("owner/huge")["error"]
    assert re.search(r"owner/huge needs 4096\.\d GiB on the disk .* and [\d.]+ GiB are free", error)
    assert hub.files == {"model_index.json"}
