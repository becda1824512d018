"""What add-ons hold: workers report it, gateways look images up under it."""

from datetime import UTC, datetime

from easel_contract.add_ons import AddOnConfig
from easel_server.generation.models import build_cache_key
from easel_server.stores.facts.add_on_contents import AddOnContents
from easel_server.stores.facts.memory import MemoryFacts

from tests.support.jobs import build_identity

INK = AddOnConfig(name="ink", source="someone/ink")
CLAY = AddOnConfig(name="clay", source="/add-ons/loras", file="clay.safetensors")


async def test_nothing_is_looked_up_until_the_content_of_all_is_known() -> None:
    facts = MemoryFacts(lambda: datetime.now(UTC))
    worker, gateway = AddOnContents(facts), AddOnContents(facts)
    assert await gateway.find([INK, CLAY]) is None
    await worker.report({INK.key: "sha256:1"})
    assert await gateway.find([INK, CLAY]) is None
    await worker.report({CLAY.key: "sha256:2"})
    assert await gateway.find([INK, CLAY]) == {"ink": "sha256:1", "clay": "sha256:2"}


async def test_the_last_report_is_believed_whoever_made_it() -> None:
    facts = MemoryFacts(lambda: datetime.now(UTC))
    first, second, gateway = AddOnContents(facts), AddOnContents(facts), AddOnContents(facts)
    await first.report({INK.key: "sha256:1"})
    await second.report({INK.key: "sha256:2"})
    assert await gateway.find([INK]) == {"ink": "sha256:2"}
    await first.report({INK.key: "sha256:1"})
    assert await gateway.find([INK]) == {"ink": "sha256:1"}


def test_an_image_is_found_under_the_content_that_it_was_generated_with_alone() -> None:
    identity = build_identity()
    before, after = identity.with_add_ons({"ink": "sha256:1"}), identity.with_add_ons({"ink": "sha256:2"})
    keys = {build_cache_key("parameters", each) for each in (identity, before, after)}
    assert len(keys) == 3
    assert before.with_add_ons({}) == before
