"""Which weights an engine holds: the same for copies of a model, another for other weights, whatever files say."""

import os
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from easel_contract import names
from easel_contract.server_config import ModelConfig
from easel_server.engine.loading import load_engine

from tests.support.tiny_engine import tiny_engine, tiny_model_directory

pytestmark = pytest.mark.torch

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of a tiny model, with other times."""
    model = tmp_path / "copy"
    shutil.copytree(tiny_model_directory("sd15"), model, copy_function=shutil.copyfile)
    return model


def revision_of(directory: Path) -> str:
    return load_engine(ModelConfig(name="m", source=str(directory)), hub_token=None).description.resolved_revision


def test_copies_are_the_same_and_other_models_are_not(copy):
    original = tiny_engine("sd15").description.resolved_revision
    assert original.startswith("sha256:")
    assert revision_of(copy) == original
    assert tiny_engine("sdxl").description.resolved_revision != original


def test_a_weight_that_changes_in_place_is_seen_although_size_and_time_stay(copy):
    before = revision_of(copy)
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    times = file.stat().st_mtime_ns
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the exponent of the last weight
    file.write_bytes(content)
    os.utime(file, ns=(times, times))
    assert revision_of(copy) != before


def test_the_scheduler_and_the_vocabulary_count_and_a_readme_does_not(copy):
    before = revision_of(copy)
    (copy / "README.md").write_text("A model.")
    assert revision_of(copy) == before
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace('"beta_end": 0.012', '"beta_end": 0.013'))
    changed = revision_of(copy)
    assert changed != before
    file = copy / "tokenizer" / "tokenizer_config.json"
    file.write_text(file.read_text() + " ")
    assert revision_of(copy) not in {before, changed}


def test_the_versions_of_what_may_change_pixels_are_reported():
    versions = tiny_engine().description.versions
    libraries = {
        "easel": names.DISTRIBUTION,
        "diffusers": "diffusers",
        "torch": "torch",
        "transformers": "transformers",
    }
    assert versions == {name: version(library) for name, library in libraries.items()}


def test_parts_of_words_count():
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.model_files.content_hash import hash_content  # noqa: PLC0415  # loads torch

    class Pipeline:
        def __init__(self, values: list[float]) -> None:
            module = torch.nn.Module()
            odd = torch.zeros(3, dtype=torch.float16)[1:]  # does not begin at a word
            module.register_buffer("odd", odd)
            module.register_buffer("scalar", torch.tensor(values[0]))
            module.register_buffer("five", torch.tensor(values, dtype=torch.float16))
            self.components = {"unet": module, "tokenizer": None}

    directory = tiny_model_directory("sd15")
    hashes = {hash_content(Pipeline(values), directory) for values in ([1.0] * 5, [1.0] * 4 + [2.0], [2.0] + [1.0] * 4)}
    assert len(hashes) == 3
