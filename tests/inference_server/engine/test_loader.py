"""Loading: what is chosen, and what a user reads when it can't work."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from easel_contract.server_config import DType, ModelConfig
from easel_server.engine.interface import ModelLoadError
from easel_server.engine.loading import load_engine

from tests.support.tiny_engine import tiny_engine, tiny_model_directory

pytestmark = pytest.mark.torch


def test_the_description_says_what_runs_where():
    description = tiny_engine("sdxl").description
    assert (description.engine, description.pipeline, description.dtype, description.model) == (
        "diffusers",
        "StableDiffusionXLPipeline",
        "float32",
        "sdxl",
    )
    assert description.device == "cpu"
    assert description.load_seconds > 0


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(ModelLoadError, match=f"model m: directory {tmp_path}/gone does not exist; check model.source"):
        load_engine(ModelConfig(name="m", source=f"{tmp_path}/gone"), hub_token=None)


def test_a_directory_without_a_pipeline_is_named_with_what_is_in_it(tmp_path):
    (tmp_path / "weights.ckpt").touch()
    with pytest.raises(ModelLoadError, match=r"has no model_index.json \(found: weights.ckpt\)"):
        load_engine(ModelConfig(name="m", source=str(tmp_path)), hub_token=None)


def test_broken_weights_are_the_models_fault(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model_directory("sd15"), model)
    (model / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelLoadError, match=r"can't be read as a diffusers pipeline .*download the model again"):
        load_engine(ModelConfig(name="m", source=str(model)), hub_token=None)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_half_precision_without_an_accelerator_is_refused(dtype):
    config = ModelConfig(name="m", source=str(tiny_model_directory("sd15")), dtype=dtype)
    with pytest.raises(ModelLoadError, match=f"dtype {dtype} needs an accelerator, .*GPU resource"):
        load_engine(config, hub_token=None)


class FakeHub(BaseHTTPRequestHandler):
    """Answers as the Hub does, by the owner's name in the path."""

    ANSWERS: ClassVar = {
        "gone": (404, "RepoNotFound"),
        "secret": (401, "RepoNotFound"),
        "gated": (403, "GatedRepo"),
        "old": (404, "RevisionNotFound"),
        "down": (503, ""),
    }

    def do_GET(self) -> None:
        owner = next(owner for owner in self.ANSWERS if f"/{owner}/" in self.path)
        code, error = self.ANSWERS[owner]
        self.send_response(code)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  # the base class's convention

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


HUB_CASES = {
    "gone/model": "does not exist or is private: check model.source, or set model.tokenSecretName",
    "secret/model": "does not exist or is private: check model.source, or set model.tokenSecretName",
    "gated/model": "is gated: accept its licence on its page, then set model.tokenSecretName",
    "old/model": "has no revision 'v9'; check model.revision",
    "down/model": "was not reached for down/model in 4 attempts",
    "not a repository": "is no repository id; model.source must be OWNER/NAME or an absolute directory",
}

# The Hub's address is read when its client is imported, hence a process of its own; one for all cases.
PROGRAM = """
import json, sys
from easel_contract.server_config import ModelConfig
from easel_server.engine.model_files.hub import download_model
from easel_server.engine.interface import ModelLoadError
answers = {}
for source in json.loads(sys.argv[1]):
    pauses = []
    try:
        download_model(ModelConfig(name="m", source=source, revision="v9"), token=None, pause=pauses.append)
    except ModelLoadError as error:
        answers[source] = [str(error), len(pauses)]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def hub_answers(tmp_path_factory):
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path_factory.mktemp("hub")),
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(list(HUB_CASES))],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        server.shutdown()
    return json.loads(done.stdout)


@pytest.mark.parametrize("source", HUB_CASES)
def test_the_hubs_refusals_say_what_to_change(hub_answers, source):
    message, _ = hub_answers[source]
    assert HUB_CASES[source] in message
    assert source in message


@pytest.mark.parametrize("source", HUB_CASES)
def test_only_an_unreachable_hub_is_tried_again(hub_answers, source):
    _, pauses = hub_answers[source]
    assert pauses == (3 if source.startswith("down") else 0)
