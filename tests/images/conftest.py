"""The images that `make test-images` has built, in the container engine that answers."""

from pathlib import Path

import pytest

from images import plan
from images.__main__ import read_source
from images.engine import Engine, find_engine


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what needs a container engine; leaves out of other runs what is marked."""
    here = Path(__file__).parent
    mine = [item for item in items if here in item.path.parents]
    for item in mine:
        if "engine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.images)
    own = [item for item in mine if item.get_closest_marker("images") is not None]
    if "images" not in config.getoption("markexpr"):
        config.hook.pytest_deselected(items=own)
        items[:] = [item for item in items if item not in own]


@pytest.fixture(scope="session")
def engine() -> Engine:
    return find_engine()


@pytest.fixture(scope="session")
def source() -> plan.Source:
    return read_source()


@pytest.fixture(scope="session")
def names(source: plan.Source) -> dict[str, str]:
    """Repository and tag, by the image's name."""
    return {image.name: plan.name_image(image, source.version) for image in plan.IMAGES}


@pytest.fixture(params=["operator", "gateway"])
def image(request: pytest.FixtureRequest, names: dict[str, str]) -> str:
    """Each image that is built in minutes."""
    return names[request.param]
