"""What tests of this folder share."""

import pytest
from easel_contract.add_ons import AddOnConfig

from tests.inference_server.engine.add_ons.control_nets import PREFIXES, UNIONS, stock_net, stock_union


@pytest.fixture(scope="session")
def nets(tmp_path_factory) -> dict[str, AddOnConfig]:
    folder = tmp_path_factory.mktemp("controlnets")
    configs = {}
    for name in PREFIXES:
        stock_net(name).save_pretrained(folder / name)
        configs[name] = AddOnConfig(name="canny", source=str(folder / name))
    return configs


@pytest.fixture(scope="session")
def unions(tmp_path_factory) -> dict[str, AddOnConfig]:
    folder = tmp_path_factory.mktemp("unions")
    configs = {}
    for name in UNIONS:
        stock_union(name).save_pretrained(folder / name)
        configs[name] = AddOnConfig(name="union", source=str(folder / name))
    return configs
