"""What is in the images, and what isn't."""

import json
import re
from pathlib import Path

import pytest

from images.engine import Engine
from images.plan import IMAGES, Source
from tests.images.containers import LIKE_A_POD, run_python

ROOT = Path(__file__).resolve().parents[2]
PRESENT = "import importlib.util, sys; print(*(n for n in sys.argv[1:] if importlib.util.find_spec(n)))"
ABSENT = {
    "operator": ["pip", "ensurepip", "setuptools", "easel_server", "easel_cli", "torch", "numpy"],
    "gateway": ["pip", "ensurepip", "setuptools", "easel_operator", "torch", "diffusers", "transformers", "kubernetes"],
}


@pytest.mark.parametrize("name", list(ABSENT))
def test_an_image_has_only_what_its_program_needs(name: str, engine: Engine, names: dict[str, str]) -> None:
    code = f"import importlib.util; print([n for n in {ABSENT[name]} if importlib.util.find_spec(n)])"
    assert run_python(engine, names[name], code) == "[]"
    looking = "import shutil; print([n for n in ('pip', 'pip3', 'cc', 'gcc') if shutil.which(n)])"
    assert run_python(engine, names[name], looking) == "[]"


def test_the_operator_runs_on_what_is_left_of_the_client(engine: Engine, names: dict[str, str]) -> None:
    """Its parts and kopf's, as far as they come without a cluster."""
    code = (
        "import asyncio, easel_operator.main, easel_operator.farewell_command, kopf, kubernetes.config\n"
        "from kubernetes.aio import client\n"
        "from easel_operator.cluster.client import KubernetesClient\n"
        "async def main():\n"
        "    await KubernetesClient(client.Configuration()).close()\n"
        "asyncio.run(main())\n"
        "print('works')"
    )
    assert run_python(engine, names["operator"], code) == "works"


def test_an_image_runs_as_a_user_with_a_name_and_a_home_to_write_to(engine: Engine, image: str) -> None:
    code = "import getpass, os, pathlib; (pathlib.Path.home() / 'x').touch(); print(os.getuid(), getpass.getuser())"
    assert run_python(engine, image, code) == "65532 easel"


def test_an_image_works_as_a_user_that_the_platform_assigns(engine: Engine, image: str) -> None:
    """OpenShift's are of no image's list, and of group 0."""
    code = "import os, pathlib; (pathlib.Path.home() / 'x').touch(); print(os.getuid(), os.getgid())"
    assert run_python(engine, image, code, "--user", "1000730000:0") == "1000730000 0"


def test_help_needs_nothing_else(engine: Engine, image: str) -> None:
    said = engine.call("run", "--rm", "--network", "none", *LIKE_A_POD, image, "--help")
    assert said.startswith("usage: easel-")


def test_code_is_compiled_and_no_source_is_looked_at_to_know_it(engine: Engine, names: dict[str, str]) -> None:
    """A root that is read-only can't keep what Python compiles: it would do so at every start."""
    code = (
        "import importlib.util, pathlib, easel_contract.names as n\n"
        "head = pathlib.Path(importlib.util.cache_from_source(n.__file__)).read_bytes()[4:8]\n"
        "print(int.from_bytes(head, 'little'))"
    )
    assert run_python(engine, names["operator"], code) == "1", "https://peps.python.org/pep-0552/: by hash, unchecked"


@pytest.mark.parametrize("name", ["operator", "gateway"])
def test_labels_say_what_an_image_is_and_of_which_commit(
    name: str, engine: Engine, names: dict[str, str], source: Source
) -> None:
    said = json.loads(engine.call("image", "inspect", "--format", "{{json .Config.Labels}}", names[name]))
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in said.items()}
    assert (labels["title"], labels["version"]) == (f"easel-{name}", source.version)
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    said_by_metrics = run_python(engine, names[name], "import os; print(os.environ['EASEL_REVISION'])")
    assert said_by_metrics == labels["revision"]
    assert labels["licenses"] == "Apache-2.0"
    assert labels["created"].endswith("Z")
    assert labels["base.name"]


@pytest.mark.parametrize("name", ["operator", "gateway"])
def test_the_bill_of_materials_has_each_package_with_its_locked_version(
    name: str, engine: Engine, names: dict[str, str]
) -> None:
    bill = json.loads(run_python(engine, names[name], "print(open('/opt/easel/sbom.cdx.json').read())"))
    assert bill["bomFormat"] == "CycloneDX"
    listed = {
        f"{each['name'].lower().replace('_', '-').replace('.', '-')}=={each['version']}" for each in bill["components"]
    }
    (requirements,) = [each.requirements for each in IMAGES if each.name == name]
    lines = (ROOT / f"requirements/{requirements}.txt").read_text().splitlines()
    locked = {line.split()[0].lower() for line in lines if re.match(r"^[a-z].*==", line)}
    assert {each for each in listed if not each.startswith("easel-serving==")} <= locked
    assert any(each.startswith("easel-serving==") for each in listed)
    needed = {line.split()[0] for line in lines if re.match(r"^[a-z][^;]*== ?[^;]*\\$", line)}
    assert needed <= listed, "those of all platforms"
