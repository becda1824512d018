"""What Replicate's clients ask for besides predictions."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from easel_server.generation.request import derive_webhook_secret

from tests.inference_server.api.serving import MODEL, WEBHOOK_SECRET, RunningGateway

ALICE, BOB = ({"Authorization": f"Bearer {name}-secret-key"} for name in ("alices", "bobs"))
SECRET_PATH = "/v1/webhooks/default/secret"  # an address


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx2.Client]:
    (tmp_path / "alice").write_text("alices-secret-key")
    (tmp_path / "bob").write_text("bobs-secret-key")
    with RunningGateway(keys=tmp_path, is_signing_configured=True) as gateway, gateway.client() as client:
        yield client


def test_the_account_is_the_customer_whose_key_it_is(client):
    assert client.get("/v1/account", headers=BOB).json() == {"type": "user", "username": "bob", "name": "bob"}
    assert client.get("/v1/account").status_code == 401


def test_a_customers_webhook_secret_is_theirs_alone(client):
    alices, bobs = (client.get(SECRET_PATH, headers=headers) for headers in (ALICE, BOB))
    assert alices.json()["key"] == derive_webhook_secret(WEBHOOK_SECRET, "alice")
    assert len({alices.json()["key"], bobs.json()["key"], WEBHOOK_SECRET}) == 3
    assert alices.headers["Cache-Control"] == "no-store"
    assert client.get(SECRET_PATH).status_code == 401


def test_without_a_secret_the_service_says_who_sets_one():
    with RunningGateway() as gateway, gateway.client() as client:
        answer = client.get(SECRET_PATH)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_offered")
    assert "gateway.webhook.signingSecretName" in answer.json()["detail"]


def test_the_model_is_found_as_replicates_clients_look_for_it(client):
    model = client.get(f"/v1/models/{MODEL}", headers=ALICE).json()
    assert (model["id"], model["owner"], model["name"]) == (MODEL, "tiny", "sd15"), "OpenAI's and Replicate's at once"
    versions = client.get(f"/v1/models/{MODEL}/versions", headers=ALICE).json()
    assert versions == {"previous": None, "next": None, "results": [model["latest_version"]]}
    assert client.get(f"/v1/models/{MODEL}/versions/{MODEL}", headers=ALICE).json() == model["latest_version"]
    for path in ("someone/else/versions", f"{MODEL}/versions/older"):
        assert client.get(f"/v1/models/{path}", headers=ALICE).status_code == 404


@pytest.mark.parametrize("path", ["/v1/trainings", "/v1/deployments", "/v1/collections", "/v1/hardware"])
def test_what_there_is_none_of_is_said_in_replicates_shape(client, path):
    answer = client.get(path, headers=ALICE).json()
    assert answer["detail"] == f"there is no GET {path} here; /docs lists all that there is"
