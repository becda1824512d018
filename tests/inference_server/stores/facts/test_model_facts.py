"""What gateways know of the model: configured, read from its files, published by a worker, or assumed."""

import json

import pytest
from easel_contract.gateway_config import DefaultsConfig
from easel_contract.server_config import ModelConfig
from easel_server.generation.cost import CostModel, CostSums, Measurement
from easel_server.generation.models import GenerationDefaults, ModelFacts, describe_model, read_defaults
from easel_server.generation.samplers import SAMPLERS
from easel_server.generation.tasks import Task
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.facts.model_facts import (
    COST_REFRESH_SECONDS,
    REFRESH_SECONDS,
    SharedCostModel,
    SharedModelFacts,
    publish_defaults,
    publish_facts,
)

from tests.support.fake_engine import DESCRIPTION

MODEL = ModelConfig(name="m", source="owner/model", revision="main")
XL_DEFAULTS = GenerationDefaults(width_pixels=1024, height_pixels=1024, steps=30, guidance_scale=5.0)
XL = ModelFacts(
    defaults=XL_DEFAULTS, engine="diffusers", tasks=(Task.TEXT_TO_IMAGE,), samplers=("Euler", "DDIM"), load_seconds=41.5
)
SD15 = GenerationDefaults()
SD15_FILES = GenerationDefaults(family="Stable Diffusion")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Store:
    """Facts and cost sums in memory; it can be away, and counts the questions."""

    def __init__(self):
        self.facts: dict[str, bytes] = {}
        self.sums = CostSums()
        self.is_away = False
        self.questions = 0

    def answer(self):
        self.questions += 1
        if self.is_away:
            raise StoreUnavailableError("redis:6379", "GET", "ConnectionError", "check it")

    async def get(self, name):
        self.answer()
        return self.facts.get(name)

    async def put(self, name, value, *, ttl_seconds):
        self.answer()
        self.facts[name] = value

    async def cost_sums(self):
        self.answer()
        return self.sums


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def clock():
    return Clock()


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
def test_the_models_files_say_its_size_and_guidance(tmp_path, pipeline, sample_size, denoiser, side, guidance):
    defaults = read_defaults(write_model(tmp_path, pipeline, sample_size, 4, denoiser))
    assert (defaults.width_pixels, defaults.height_pixels, defaults.guidance_scale) == (side, side, guidance)


@pytest.mark.parametrize("sample_size", [None, "64", [64, 96]])
def test_what_the_files_do_not_say_is_stable_diffusions_own(tmp_path, sample_size):
    assert read_defaults(write_model(tmp_path, "StableDiffusionPipeline", sample_size, 4)) == SD15_FILES


def test_no_files_and_broken_files_are_no_error(tmp_path):
    (tmp_path / "model_index.json").write_text("{")
    assert read_defaults(tmp_path) == read_defaults(tmp_path / "gone") == SD15


async def test_until_a_worker_has_reported_nothing_is_known_to_be_impossible(store):
    facts = await SharedModelFacts(store, lambda: MODEL, None).look()
    assert facts.engine is None
    assert set(facts.tasks) == set(Task)
    assert set(facts.samplers) == set(SAMPLERS)
    assert facts.defaults == SD15


async def test_a_gateway_learns_what_a_worker_published(store, clock):
    shared = SharedModelFacts(store, lambda: MODEL, None, clock=clock)
    assert (await shared.look()).engine is None
    await publish_facts(store, MODEL, XL)
    assert await shared.look() == XL, "the next request already has the right size"
    other = describe_model(DESCRIPTION)
    await publish_facts(store, MODEL, other)
    assert await shared.look() == XL, "known facts aren't asked for at every request"
    clock.now += REFRESH_SECONDS
    assert await shared.look() == other
    assert (other.engine, other.load_seconds) == ("fake", DESCRIPTION.load_seconds)


async def test_when_another_model_is_served_its_own_facts_are_looked_for(store):
    served = [MODEL]
    shared = SharedModelFacts(store, lambda: served[0], None)
    await publish_facts(store, MODEL, XL)
    assert await shared.look() == XL
    served[0] = MODEL.model_copy(update={"revision": "v2"})
    assert (await shared.look()).engine is None


async def test_another_models_facts_are_not_ours(store):
    await publish_facts(store, MODEL.model_copy(update={"revision": "v2"}), XL)
    assert (await SharedModelFacts(store, lambda: MODEL, None).look()).engine is None


async def test_what_is_configured_wins_over_the_files_and_these_over_what_was_published(store, tmp_path):
    visible = ModelConfig(name="m", source=str(write_model(tmp_path, "StableDiffusionPipeline", 96, 4)))
    await publish_facts(store, visible, XL)
    look = await SharedModelFacts(store, lambda: visible, DefaultsConfig(steps=4, guidance_scale=0.0)).look()
    assert look.defaults == GenerationDefaults(
        width_pixels=768, height_pixels=768, steps=4, guidance_scale=0.0, family="Stable Diffusion"
    )
    assert (look.engine, look.samplers) == (XL.engine, XL.samplers), "what the files don't say is the worker's"


async def test_defaults_are_reported_ahead_of_the_model_and_never_in_place_of_more(store):
    await publish_defaults(store, MODEL, XL_DEFAULTS)
    early = await SharedModelFacts(store, lambda: MODEL, None).look()
    assert (early.defaults, early.engine) == (XL_DEFAULTS, None)
    await publish_facts(store, MODEL, XL)
    await publish_defaults(store, MODEL, SD15)
    assert await SharedModelFacts(store, lambda: MODEL, None).look() == XL


async def test_an_outage_and_strange_content_change_nothing(store, clock):
    store.is_away = True
    shared = SharedModelFacts(store, lambda: MODEL, None, clock=clock)
    assert (await shared.look()).defaults == SD15
    store.is_away = False
    await publish_facts(store, MODEL, XL)
    assert await shared.look() == XL
    clock.now += REFRESH_SECONDS
    for name in store.facts:
        store.facts[name] = b"{}{"
    assert await shared.look() == XL


async def test_costs_are_learned_from_finished_jobs_and_asked_for_now_and_then(store, clock):
    shared = SharedCostModel(store, clock)
    assert await shared.look() == CostModel()
    for units in (1.0, 2.0, 3.0, 4.0):
        store.sums = store.sums.add(Measurement(units, 0.5 + 2 * units))
    assert await shared.look() == CostModel()
    assert store.questions == 1
    clock.now += COST_REFRESH_SECONDS
    learned = await shared.look()
    assert learned.overhead_seconds == pytest.approx(0.5)
    assert learned.seconds_per_unit == pytest.approx(2.0)
    clock.now += COST_REFRESH_SECONDS
    store.is_away = True
    assert await shared.look() == learned
