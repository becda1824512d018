"""What is built, as far as it is decided without an engine."""

from pathlib import Path

import pytest

from images.debian_base import name_base
from images.engine import EngineError, build_environment, find_engine
from images.plan import IMAGES, Base, Options, PlanError, Source, build_arguments, choose_images, read_base, write_base
from images.prune import PRUNED, is_pruned, prune_record

DIGEST = "sha256:" + "0a" * 32
BASE_ENV = f"# why\nBASE_IMAGE=registry.example:5000/python:3.13-slim\nBASE_DIGEST={DIGEST}\n"
SOURCE = Source("0.1.0", "c0ffee", 1_700_000_000)


def list_arguments(program: str, *, certificates: Path | None = None) -> list[str]:
    options = Options("0.1.0", program=program, certificates=certificates)
    return build_arguments(IMAGES[0], SOURCE, read_base(BASE_ENV), options)


def test_a_digest_decides_in_place_of_the_bases_tag() -> None:
    assert read_base(BASE_ENV).pulled == f"registry.example:5000/python@{DIGEST}"
    assert read_base(write_base(BASE_ENV, "")).pulled == "registry.example:5000/python:3.13-slim"


@pytest.mark.parametrize(
    ("text", "said"),
    [("BASE_DIGEST=\n", "names no BASE_IMAGE"), ("BASE_IMAGE=a:1\nBASE_DIGEST=latest\n", "BASE_DIGEST .* is 'latest'")],
)
def test_a_base_that_cannot_be_read_is_refused_with_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        read_base(text)


def test_images_are_chosen_by_name_and_an_unknown_one_is_named() -> None:
    assert [image.name for image in choose_images("")] == ["operator", "gateway", "worker"]
    assert [image.name for image in choose_images("gateway operator")] == ["operator", "gateway"]
    with pytest.raises(PlanError, match="there is no image server: may be operator, gateway, worker"):
        choose_images("server")


def test_the_stand_in_has_a_name_for_each_platform_and_is_no_image_of_a_registry() -> None:
    assert name_base("").reference == "localhost/easel-base:debian-trixie"
    assert name_base("linux/arm64").reference == "localhost/easel-base:debian-trixie-arm64"


def test_two_builds_of_a_commit_are_given_the_same_time() -> None:
    podman, docker = list_arguments("podman"), list_arguments("docker")
    assert podman[podman.index("--timestamp") + 1] == str(SOURCE.created)
    assert "--timestamp" not in docker, "docker takes it from the argument"
    assert f"SOURCE_DATE_EPOCH={SOURCE.created}" in docker
    assert "org.opencontainers.image.created=2023-11-14T22:13:20Z" in docker


def test_the_builders_authorities_come_as_a_secret_and_nowhere_else() -> None:
    arguments = list_arguments("podman", certificates=Path("/etc/mine.crt"))
    assert "id=certificates,src=/etc/mine.crt" in arguments
    assert [each for each in arguments if "/etc/mine.crt" in each] == ["id=certificates,src=/etc/mine.crt"]
    assert not any("certificates" in each for each in list_arguments("podman"))


def test_the_base_is_named_with_its_digest_where_it_has_one() -> None:
    assert f"org.opencontainers.image.base.digest={DIGEST}" in list_arguments("docker")
    assert Base("a:1", "").pulled == "a:1"


def write_program(folder: Path, name: str, exit_code: int) -> None:
    (folder / name).write_text(f"#!/bin/sh\necho {name} says no >&2\nexit {exit_code}\n")
    (folder / name).chmod(0o755)


def test_the_engine_that_answers_is_taken_and_not_the_client_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(tmp_path, "docker", 1)
    write_program(tmp_path, "podman", 0)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_engine({"PATH": f"{tmp_path}:/usr/bin:/bin"}).program == "podman"
    with pytest.raises(EngineError, match=r"no container engine answers.*docker info: docker says no"):
        find_engine({"PATH": str(tmp_path), "ENGINE": "docker"})
    with pytest.raises(EngineError, match="ENGINE is 'containerd': may be docker or podman"):
        find_engine({"ENGINE": "containerd"})


def test_podman_gets_what_cgroups_v1_ask_for_unless_it_has_settings_of_its_own() -> None:
    (setting,) = build_environment("podman", {}, has_unified_cgroups=False).values()
    assert Path(setting).is_file()
    own = {"CONTAINERS_CONF": "/mine"}
    assert build_environment("podman", own, has_unified_cgroups=False) == own
    assert build_environment("podman", {}, has_unified_cgroups=True) == {}
    assert build_environment("docker", {}, has_unified_cgroups=False) == {}


def test_what_is_pruned_is_gone_from_the_record_too() -> None:
    record = (
        "easel_server/main.py,sha256=x,1\neasel_contract/names.py,sha256=y,2\n../../../bin/easel-server,sha256=z,3\n"
    )
    left, gone = prune_record(record, PRUNED["operator"])
    assert left == "easel_contract/names.py,sha256=y,2\n"
    assert gone == ["easel_server/main.py", "../../../bin/easel-server"]


@pytest.mark.parametrize(
    ("path", "is_gone"),
    [
        ("kubernetes/aio/client/api/core_v1_api.py", True),
        ("kubernetes/aio/client/models/v1_pod.py", True),
        ("kubernetes/aio/client/models/__init__.py", False),
        ("kubernetes/aio/client/api_client.py", False),
        ("kubernetes/client/models/v1_object_meta.py", False),
        ("../../../bin/easel-operator", False),
    ],
)
def test_of_the_client_the_operator_keeps_its_connection(path: str, *, is_gone: bool) -> None:
    assert is_pruned(path, PRUNED["operator"]) is is_gone
