"""What a request gets that doesn't say: configured, published by a worker, or read from the model's files."""

import json

import pytest
from easel_contract.server_config import DefaultsConfig, ModelConfig
from easel_server.broker.interface import BrokerSettings, BrokerUnavailableError
from easel_server.broker.memory import MemoryBroker
from easel_server.generation_defaults import GenerationDefaults, read_defaults
from easel_server.shared_defaults import REFRESH_SECONDS, SharedDefaults, _key, publish_defaults

MODEL = ModelConfig(name="m", source="owner/model", revision="main")
SDXL = GenerationDefaults(width_pixels=1024, height_pixels=1024, steps=30, guidance_scale=5.0)
SD15 = GenerationDefaults()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class AwayBroker:
    async def get_fact(self, _name):
        raise BrokerUnavailableError("redis:6379", "GET", "ConnectionError", "check it")

    async def put_fact(self, _name, _value, *, ttl_seconds):
        raise BrokerUnavailableError("redis:6379", "SET", "ConnectionError", "check it")


@pytest.fixture
def broker():
    return MemoryBroker(BrokerSettings())


def write_model(directory, pipeline: str, sample_size: object, blocks: int, denoiser: str = "unet"):
    for name, content in {
        "model_index.json": {"_class_name": pipeline},
        f"{denoiser}/config.json": {"sample_size": sample_size},
        "vae/config.json": {"block_out_channels": [32] * blocks},
    }.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    ("pipeline", "sample_size", "denoiser", "side", "guidance"),
    [
        ("StableDiffusionPipeline", 64, "unet", 512, 7.5),
        ("StableDiffusionXLPipeline", 128, "unet", 1024, 5.0),
        ("StableDiffusion3Pipeline", 128, "transformer", 1024, 7.0),
    ],
)
def test_the_models_files_tell_its_size_and_guidance(tmp_path, pipeline, sample_size, denoiser, side, guidance):
    defaults = read_defaults(write_model(tmp_path, pipeline, sample_size, 4, denoiser))
    assert (defaults.width_pixels, defaults.height_pixels, defaults.guidance_scale) == (side, side, guidance)


@pytest.mark.parametrize("sample_size", [None, "64", [64, 96]])
def test_what_the_files_do_not_tell_is_stable_diffusions_own(tmp_path, sample_size):
    assert read_defaults(write_model(tmp_path, "StableDiffusionPipeline", sample_size, 4)) == SD15


def test_no_files_and_broken_files_are_no_error(tmp_path):
    (tmp_path / "model_index.json").write_text("{")
    assert read_defaults(tmp_path) == read_defaults(tmp_path / "gone") == SD15


async def test_a_gateway_learns_what_a_worker_published(broker):
    clock = Clock()
    shared = SharedDefaults(broker, MODEL, None, clock=clock)
    assert await shared.look() == SD15
    await publish_defaults(broker, MODEL, SDXL)
    assert await shared.look() == SDXL, "the next request already has the right size"
    other = GenerationDefaults(width_pixels=768, height_pixels=768)
    await publish_defaults(broker, MODEL, other)
    assert await shared.look() == SDXL, "known defaults aren't asked for at every request"
    clock.now += REFRESH_SECONDS
    assert await shared.look() == other


async def test_another_models_defaults_are_not_ours(broker):
    await publish_defaults(broker, MODEL.model_copy(update={"revision": "v2"}), SDXL)
    assert await SharedDefaults(broker, MODEL, None).look() == SD15


async def test_what_is_configured_wins(broker):
    await publish_defaults(broker, MODEL, SDXL)
    look = await SharedDefaults(broker, MODEL, DefaultsConfig(steps=4, guidance_scale=0.0)).look()
    assert look == GenerationDefaults(width_pixels=1024, height_pixels=1024, steps=4, guidance_scale=0.0)


async def test_an_outage_and_strange_content_change_nothing(broker):
    assert await SharedDefaults(AwayBroker(), MODEL, None).look() == SD15
    shared = SharedDefaults(broker, MODEL, None)
    await broker.put_fact(_key(MODEL), b"{}{", ttl_seconds=60)
    assert await shared.look() == SD15
