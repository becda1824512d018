"""Routes that go ahead of FastAPI's own are described, counted and bounded as those are."""

import pytest

from tests.inference_server.api.serving import RunningGateway, wait_for

BODY = {"input": {"prompt": "a cat"}}


@pytest.fixture
def gateway():
    with RunningGateway() as gateway:
        yield gateway


def test_they_are_described(gateway):
    with gateway.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert "post" in paths["/v1/images/generations"]
    assert "post" in paths["/v1/predictions"]
    assert {"get", "put"} <= paths["/v1/predictions/{prediction_id}"].keys()


def test_they_are_counted_by_their_template(gateway):
    with gateway.client() as client:
        created = client.post("/v1/predictions", json=BODY)
        client.get(f"/v1/predictions/{created.json()['id']}")
    counts = gateway.metrics.counts  # each is counted once its answer is out
    wait_for(lambda: counts["request", "/v1/predictions", "201"] == 1)
    wait_for(lambda: counts["request", "/v1/predictions/{prediction_id}", "200"] == 1)


def test_other_methods_are_refused_as_by_the_routes_behind_them(gateway):
    with gateway.client() as client:
        assert client.delete("/v1/predictions/some-prediction").status_code == 405
        assert client.patch("/v1/predictions").status_code == 405
        assert client.delete("/v1/models/some-model/predictions").headers["allow"] == "POST"


def test_the_description_begins_with_the_api_that_most_clients_speak(gateway):
    with gateway.client() as client:
        assert next(iter(client.get("/openapi.json").json()["paths"])) == "/v1/images/generations"
