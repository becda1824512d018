"""What a service has in place of its model's own, an autoencoder and a sampler, as clients see it and may name it."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from easel_contract.server_config import ModelConfig, SchedulerConfig, SourceConfig
from webuiapi import WebUIApi  # type: ignore[import-untyped]

from tests.inference_server.api.automatic1111.test_automatic1111 import connected
from tests.inference_server.api.serving import MODEL, RunningGateway

VAE = "vae-ft-mse-840000-ema-pruned.safetensors"
SMALL: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "seed": 5}
SERVED = ModelConfig(
    name=MODEL,
    source="/nowhere",
    vae=SourceConfig(source="stabilityai/sd-vae-ft-mse-original", file=VAE),
    scheduler=SchedulerConfig(sampler="DPM++ 2M Karras"),
)


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with RunningGateway(model=SERVED, vae_digest=f"sha256:{'5cd1' * 16}") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def api(gateway: RunningGateway) -> Iterator[WebUIApi]:
    with connected(gateway) as api:
        yield api


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gateway.url) as client:
        yield client


def ask(client: httpx2.Client, vae: Any) -> httpx2.Response:
    return client.post("/sdapi/v1/txt2img", json={**SMALL, "override_settings": {"sd_vae": vae}})


def test_the_services_vae_is_listed_and_is_the_option_that_is_set(api: WebUIApi) -> None:
    assert api.get_sd_vae() == [{"model_name": VAE, "filename": VAE}]
    assert api.get_options()["sd_vae"] == VAE
    api.set_options({"sd_vae": VAE})


def test_an_answer_says_which_vae_its_image_is_of(client: httpx2.Client) -> None:
    info = json.loads(client.post("/sdapi/v1/txt2img", json=SMALL).json()["info"])
    assert (info["sd_vae_name"], info["sd_vae_hash"]) == (VAE, "5cd15cd15c")


@pytest.mark.parametrize("vae", [VAE, VAE.removesuffix(".safetensors"), "Automatic", "automatic", "", None])
def test_a_request_may_name_the_vae_that_runs(client: httpx2.Client, vae: Any) -> None:
    answer = ask(client, vae)
    assert answer.status_code == 200
    assert "warning" not in answer.headers


@pytest.mark.parametrize("vae", ["None", "other.safetensors", ["other"], {"name": VAE}, 3])
def test_one_that_does_not_run_is_refused_by_name_with_what_does(client: httpx2.Client, vae: Any) -> None:
    """The model's own among them: images would be others than were asked for."""
    refused = ask(client, vae)
    assert (refused.status_code, refused.json()["errors"]) == (422, "override_settings.sd_vae")
    assert f"allowed are 'Automatic' and '{VAE}', which this service runs" in refused.text


def test_options_refuse_another_vae_too(client: httpx2.Client) -> None:
    refused = client.post("/sdapi/v1/options", json={"sd_vae": "other.safetensors"})
    assert (refused.status_code, refused.json()["errors"]) == (422, "sd_vae")


def test_without_an_override_the_models_own_runs_and_may_be_named_so() -> None:
    with RunningGateway() as gateway, httpx2.Client(base_url=gateway.url) as client:
        assert client.get("/sdapi/v1/sd-vae").json() == []
        assert client.get("/sdapi/v1/options").json()["sd_vae"] == "Automatic"
        assert [ask(client, name).status_code for name in ("None", "Automatic", None)] == [200, 200, 200]
        assert "allowed are 'Automatic' and 'None'" in ask(client, VAE).text


def test_a_request_that_names_no_sampler_gets_the_services(client: httpx2.Client, gateway: RunningGateway) -> None:
    info = json.loads(client.post("/sdapi/v1/txt2img", json=SMALL).json()["info"])
    assert info["sampler_name"] == "DPM++ 2M"
    assert "Sampler: DPM++ 2M, Schedule type: Karras" in info["infotexts"][0]
    named = client.post("/sdapi/v1/txt2img", json={**SMALL, "sampler_name": "Euler a"}).json()
    assert json.loads(named["info"])["sampler_name"] == "Euler a"
    client.post("/v1/images/generations", json={"prompt": "a dog", "size": "64x64"})
    assert gateway.worker.claims[-1].job.parameters.sampler == "DPM++ 2M Karras"


def test_models_are_listed_with_their_vae_and_their_default_sampler(client: httpx2.Client) -> None:
    [model] = client.get("/v1/models").json()["data"]
    assert (model["vae"], model["default_sampler"]) == (VAE, "DPM++ 2M Karras")
