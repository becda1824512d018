"""The page's files and what they are served with; playground/ uses it in a real browser."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx2
import pytest
from easel_contract.gateway_config import GatewayConfig, LimitsConfig
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig
from easel_server.api.playground.routes import build_page_config, build_preprocessors, read_static_files
from easel_server.generation.add_ons import LATENT_MODES, ControlType, Feature
from easel_server.generation.models import GenerationDefaults, ModelFacts
from easel_server.generation.tasks import Task

from tests.inference_server.api.playground.page import KEY, build_config, serve
from tests.support.live_configs import build_live_config

ROOT = Path(__file__).resolve().parents[4]
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FILES = sorted(read_static_files())


def test_browsers_get_the_page_and_others_an_object(client: httpx2.Client):
    page = client.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Easel playground</title>" in page.text
    for accept in ("application/json", "*/*"):
        answer = client.get("/", headers={"Accept": accept})
        assert answer.json()["images"] == "/v1/images/generations"
    assert page.headers["vary"] == answer.headers["vary"] == "Accept"


@pytest.mark.parametrize("name", [name for name in FILES if name != "index.html"])
def test_each_part_of_the_page_is_served_with_its_type_and_no_rights_beyond_its_own_host(client: httpx2.Client, name):
    answer = client.get(f"/playground/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] in {"text/css", "text/javascript", "image/svg+xml"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_file_that_the_browser_has_is_not_sent_again(client: httpx2.Client):
    first = client.get("/playground/app.js")
    again = client.get("/playground/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/playground/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "..%2Fapp.py", "%2e%2e/app.py", "__init__.py"])
def test_nothing_else_is_served(client: httpx2.Client, name):
    assert client.get(f"/playground/{name}").status_code == 404


def test_the_page_asks_nothing_of_other_hosts():
    text = "\n".join(file.content.decode() for file in read_static_files().values())
    code = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
    assert set(re.findall(r"https?://[^\s\"'`)]+", code)) == {"http://www.w3.org/2000/svg"}


def test_the_form_is_given_the_services_bounds_and_the_models_defaults():
    config = ServerConfig(
        model=ModelConfig(name="sdxl", source="/m"),
        gateway=GatewayConfig(
            limits=LimitsConfig(max_images=2, max_width_pixels=768, max_height_pixels=1024, max_steps=20),
            api_keys_directory="/keys",
        ),
    )
    facts = ModelFacts(
        defaults=GenerationDefaults(width_pixels=1024, height_pixels=1024, guidance_scale=5.0), samplers=("Euler",)
    )
    page = json.loads(json.dumps(build_page_config(config.gateway, build_live_config(config), facts)))
    assert page == {
        "model": "sdxl",
        "is_synthetic": False,
        "needs_key": True,
        "bounds": {
            "width": {"min": 64, "step": 8, "max": 768},
            "height": {"min": 64, "step": 8, "max": 1024},
            "num_inference_steps": {"min": 1, "max": 20},
            "guidance_scale": {"min": 0, "max": 100.0},
            "num_outputs": {"min": 1, "max": 2},
            "clip_skip": {"min": 1, "max": 12},
        },
        "defaults": {
            "width": 768,
            "height": 1024,
            "num_inference_steps": 20,
            "guidance_scale": 5.0,
            "num_outputs": 1,
            "output_format": "png",
        },
        "samplers": ["Euler"],
        "eta_samplers": [],
        "formats": ["png", "jpeg", "webp"],
        "tasks": list(Task),
        "features": list(Feature),
        "adapters": [],
        "control_nets": [],
        "preprocessors": build_preprocessors(build_live_config(config)),
        "control_modes": ["Balanced", "My prompt is more important", "ControlNet is more important"],
        "control_fits": ["Just Resize", "Crop and Resize", "Resize and Fill"],
        "control_types": list(ControlType),
        "control_passes": ["Both", "Low res only", "High res only"],
        "upscalers": ["Lanczos", "Nearest"],
        "hires_upscalers": [*LATENT_MODES, "Lanczos", "Nearest"],
        "limits": {
            "max_width": 768,
            "max_height": 1024,
            "max_pixels": 16777216,
            "max_bytes": 2506752,
            "max_lone_bytes": 12533760,
            "max_adapters": 8,
            "max_controls": 3,
            "max_hires_pixels": 1 << 22,
            "max_upscaled_pixels": 1 << 24,
            "max_upscaled_side": 8192,
            "max_factor": 8.0,
            "default_factor": 2.0,
            "default_hires_strength": 0.7,
        },
    }


def test_a_service_with_keys_lists_its_add_ons_to_those_who_have_one(tmp_path):
    (tmp_path / "alice").write_text(KEY)
    (tmp_path / "bob").write_text(KEY.replace("alice", "robert"))
    with serve(api_keys_directory=str(tmp_path)) as url:
        names = [
            [adapter["name"] for adapter in httpx2.get(f"{url}/playground/config", headers=headers).json()["adapters"]]
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {KEY}"})
        ]
    assert names == [[], [], ["ink", "clay"]]


def test_what_the_model_can_not_do_is_not_offered():
    config = build_config()
    facts = ModelFacts(features=())
    page = build_page_config(config.gateway, build_live_config(config), facts)
    lists = ("adapters", "control_nets", "preprocessors", "control_modes", "upscalers", "hires_upscalers")
    assert [page[name] for name in lists] == [[]] * len(lists)
    assert "clip_skip" not in page["bounds"]
    assert build_page_config(config.gateway, build_live_config(config), ModelFacts())["adapters"] == [
        {"name": "ink", "default_weight": 0.7},
        {"name": "clay", "default_weight": 1.0},
    ]


def test_upscalers_of_the_service_come_where_they_are_meant_without_a_name():
    config = build_config()
    page = build_page_config(config.gateway, build_live_config(config), ModelFacts())
    assert page["upscalers"] == ["sharp", "Lanczos", "Nearest"]
    assert page["hires_upscalers"] == [*LATENT_MODES, "Lanczos", "Nearest", "sharp"]
    assert page["eta_samplers"] == ["DDIM"]
    assert page["bounds"]["eta"] == {"min": 0, "max": 1}


def test_a_model_with_packed_latents_has_no_latent_modes_and_no_layers_to_skip():
    config = build_config()
    facts = ModelFacts(defaults=GenerationDefaults(family="Flux"))
    page = build_page_config(config.gateway, build_live_config(config), facts)
    assert page["hires_upscalers"] == ["Lanczos", "Nearest", "sharp"]
    assert "clip_skip" not in page["bounds"]


@pytest.mark.parametrize(
    ("configured", "loaded", "is_synthetic"),
    [
        (EngineKind.DIFFUSERS, None, False),
        (EngineKind.DIFFUSERS, "diffusers", False),
        (EngineKind.DIFFUSERS, "synthetic", True),  # workers say what they run, whatever a gateway was told
        (EngineKind.SYNTHETIC, None, True),
    ],
)
def test_a_synthetic_engine_is_announced(configured, loaded, is_synthetic):
    config = ServerConfig(model=ModelConfig(name="m", source="/m"), engine=EngineConfig(kind=configured))
    assert (
        build_page_config(config.gateway, build_live_config(config), ModelFacts(engine=loaded))["is_synthetic"]
        is is_synthetic
    )


def test_an_installed_wheel_has_the_page(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    program = "import easel_server.api.playground.routes as p; print(p.__file__, *sorted(p.read_static_files()))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    where, *names = done.stdout.split()
    assert where.startswith(str(tmp_path))
    assert names == FILES
