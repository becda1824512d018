"""The API's description is true: what is generated from it is answered as it says, and nothing gives a 500."""

from collections.abc import Iterator
from contextlib import suppress

import hypothesis
import pytest
import schemathesis
from easel_contract.gateway_config import GatewayConfig, LimitsConfig
from easel_contract.server_config import SyntheticConfig
from easel_server.engine.synthetic_engine import SyntheticEngine
from schemathesis import BaseSchema, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.inference_server.api.serving import MODEL, RunningGateway

KEY = "a-key-for-the-description"
SEED = 20261124  # replays a failure
EXAMPLES = 6  # of each route and mode
REPLICATE_TAGS = ("Predictions", "Replicate account", "Replicate files")
TAGS = ("OpenAI images", "OpenAI models", *REPLICATE_TAGS, "AUTOMATIC1111", "Probes")


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> Iterator[RunningGateway]:
    keys = tmp_path_factory.mktemp("keys")
    (keys / "alice").write_text(KEY)
    limits = LimitsConfig(max_width_pixels=128, max_height_pixels=128, max_images=2, max_prompt_characters=200)
    engine = SyntheticEngine(MODEL, SyntheticConfig(milliseconds_per_step=0, milliseconds_per_image=0))
    with RunningGateway(GatewayConfig(limits=limits), keys=keys, engine=engine) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def schema(described) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{described.url}/openapi.json", headers={"Authorization": f"Bearer {KEY}"})


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("tag", TAGS)
def test_every_route_answers_as_described(schema, tag, mode):
    operations = [found.ok() for found in schema.include(tag=tag).get_all_operations()]
    assert operations
    for operation in operations:

        @hypothesis.seed(SEED)
        @hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None)
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            headers = {"Authorization": f"Bearer {KEY}"}
            # How large an image may be, and much else, is the service's own setting: the description can't tell it, so
            # what it allows may be refused.
            case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

        # A route without parameters can't be called wrongly.
        with suppress(hypothesis.errors.Unsatisfiable):
            check()
