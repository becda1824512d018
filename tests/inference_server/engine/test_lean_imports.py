"""What is imported of diffusers: the models that are asked for."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from easel_server.engine.lean_imports import LEAN_PACKAGES, read_exports

PROGRAM = """
import sys
from easel_server.engine.lean_imports import LEAN_PACKAGES, install_lean_imports
install_lean_imports()
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
found = {name for name in sys.modules if name.startswith("diffusers.models.")}
assert "diffusers.models.unets.unet_2d_condition" in found
assert "diffusers.models.transformers.transformer_flux" not in found, "nobody asked for it"
assert "diffusers.models.autoencoders.autoencoder_kl_wan" not in found, "nobody asked for it"
import diffusers
from diffusers.models.transformers import FluxTransformer2DModel
assert FluxTransformer2DModel is diffusers.FluxTransformer2DModel
assert "SD3Transformer2DModel" in dir(diffusers.models.transformers)
try:
    from diffusers.models.transformers import NoSuchModel
except ImportError as error:
    assert "NoSuchModel" in str(error)
else:
    raise AssertionError("a name that isn't there was imported")
"""


@pytest.mark.torch
def test_other_families_models_are_imported_when_they_are_asked_for():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", sorted(LEAN_PACKAGES))
def test_the_release_of_diffusers_that_is_locked_has_packages_that_only_reexport(package):
    diffusers = importlib.util.find_spec("diffusers")
    assert diffusers is not None
    assert diffusers.origin is not None
    file = Path(diffusers.origin).parent.joinpath(*package.split(".")[1:], "__init__.py")
    exports = read_exports(file.read_text())
    assert exports is not None
    own = {module for module in exports.values() if not module.startswith("..")}
    assert [module for module in own if not list(file.parent.glob(f"{module[1:].replace('.', '/')}*"))] == []
    assert len(own) > 2


@pytest.mark.parametrize(
    "source",
    [
        "from .a import *",
        "from .a import A as B",
        "import os",
        "from .a import A\nA.register()",
        "if is_flax_available():\n    from .a import A",
        "if is_torch_available():\n    from .a import A\nelse:\n    from .b import A",
    ],
)
def test_a_package_that_does_more_than_reexport_is_left_as_it_is(source):
    assert read_exports(source) is None


def test_names_are_found_where_they_are_defined():
    source = (
        "from ...utils import is_torch_available\nif is_torch_available():\n"
        "    from .a import A, B\n    from .c import C"
    )
    assert read_exports(source) == {"is_torch_available": "...utils", "A": ".a", "B": ".a", "C": ".c"}
