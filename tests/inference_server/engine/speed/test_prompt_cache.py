"""The same prompts are encoded once, and nobody sees a difference."""

from types import SimpleNamespace
from typing import Any

import pytest
from easel_server.generation.parameters import GenerationParameters

from tests.support.tiny_engine import generate, tiny_engine, tiny_model_directory, tiny_parameters

pytestmark = pytest.mark.torch


@pytest.fixture
def counted() -> SimpleNamespace:
    """A pipeline whose ``encode_prompt`` counts its calls, and a small cache."""
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.speed.prompt_cache import PromptCache  # noqa: PLC0415  # loads torch

    class Pipeline:
        calls = 0

        def encode_prompt(
            self, prompt: Any, device: Any = None, embeds: Any = None, lora_scale: float | None = None
        ) -> Any:
            del device, embeds, lora_scale
            Pipeline.calls += 1
            return torch.full((1, 2, 2), float(len(str(prompt)))), None

    return SimpleNamespace(Pipeline=Pipeline, cache=PromptCache(max_entries=2, max_bytes=100), torch=torch)


def attach(counted: SimpleNamespace) -> Any:
    pipeline = counted.Pipeline()
    counted.cache.attach(pipeline)
    return pipeline


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_images_are_the_same_to_the_byte_and_text_encoders_run_once(model: str) -> None:
    from easel_contract.server_config import ModelConfig  # noqa: PLC0415
    from easel_server.engine.loading import load_engine  # noqa: PLC0415

    engine: Any = load_engine(ModelConfig(name=model, source=str(tiny_model_directory(model))), hub_token=None)
    encoder = next(iter(engine._pipelines.values())).pipeline.text_encoder
    runs: list[int] = []
    encoder.register_forward_hook(lambda *_: runs.append(1))

    def run(**changes: object) -> bytes:
        parameters: GenerationParameters = tiny_parameters(negative_prompt="fur", prompt="an owl", **changes)
        return generate(engine, parameters)[0][0]

    first = run()
    count = len(runs)
    assert run() == first
    assert run(seed=8) != first
    assert len(runs) == count, "the prompts were encoded already"
    run(images=2)
    assert len(runs) > count, "embeddings of two images are others"
    fresh = generate(tiny_engine(model), tiny_parameters(negative_prompt="fur", prompt="an owl"))[0][0]
    assert fresh == first


def test_every_argument_counts(counted: SimpleNamespace) -> None:
    pipeline = attach(counted)
    for arguments in (("a cat",), ("a dog",), (["a cat"],), ("a cat", "cpu")):
        pipeline.encode_prompt(*arguments)
        pipeline.encode_prompt(*arguments)
    assert counted.Pipeline.calls == 4


def test_positions_names_and_defaults_are_one(counted: SimpleNamespace) -> None:
    pipeline = attach(counted)
    pipeline.encode_prompt("a cat")
    pipeline.encode_prompt(prompt="a cat", device=None)
    attach(counted).encode_prompt("a cat", None)
    assert counted.Pipeline.calls == 1


def test_numbers_and_truths_are_not_confused(counted: SimpleNamespace) -> None:
    pipeline = attach(counted)
    for device in (1, True, 1.0):
        pipeline.encode_prompt("a cat", device)
    assert counted.Pipeline.calls == 3


@pytest.mark.parametrize("given", ["embeds", "lora_scale"])
def test_given_embeddings_and_a_loras_scale_are_never_recalled(counted: SimpleNamespace, given: str) -> None:
    pipeline = attach(counted)
    options = {given: counted.torch.zeros(1) if given == "embeds" else 0.5}
    for _ in range(2):
        pipeline.encode_prompt("a cat", **options)
    assert counted.Pipeline.calls == 2


def test_the_least_recently_used_goes_when_there_are_too_many(counted: SimpleNamespace) -> None:
    pipeline = attach(counted)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        pipeline.encode_prompt(prompt)
    assert counted.Pipeline.calls == 4, "only b went"


def test_what_is_kept_is_bounded_in_bytes(counted: SimpleNamespace) -> None:
    """An entry has 16 bytes."""
    from easel_server.engine.speed.prompt_cache import PromptCache  # noqa: PLC0415  # loads torch

    pipeline = counted.Pipeline()
    PromptCache(max_entries=9, max_bytes=31).attach(pipeline)
    for prompt in ("a", "b", "a"):
        pipeline.encode_prompt(prompt)
    assert counted.Pipeline.calls == 3
    pipeline = counted.Pipeline()
    PromptCache(max_entries=9, max_bytes=15).attach(pipeline)
    for _ in range(2):
        pipeline.encode_prompt("too large")
    assert counted.Pipeline.calls == 5


def test_whoever_writes_into_an_embedding_writes_into_its_own(counted: SimpleNamespace) -> None:
    pipeline = attach(counted)
    for _ in range(3):
        embedding = pipeline.encode_prompt("a cat")[0]
        assert embedding.unique().tolist() == [5.0]
        embedding.zero_()


def test_a_pipeline_without_prompts_is_left_alone(counted: SimpleNamespace) -> None:
    pipeline = SimpleNamespace()
    counted.cache.attach(pipeline)
    assert vars(pipeline) == {}
