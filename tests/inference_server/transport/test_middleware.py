"""Request ids, counts by route, and log lines that hold no secrets."""

import json
import logging

import pytest

from tests.inference_server.api.serving import wait_for


def test_the_clients_request_id_comes_back(client):
    assert client.get("/healthz", headers={"X-Request-Id": "abc-123"}).headers["X-Request-Id"] == "abc-123"


@pytest.mark.parametrize("given", [None, "", "x" * 129, "with space"])
def test_a_missing_or_strange_request_id_is_replaced(client, given):
    headers = {} if given is None else {"X-Request-Id": given}
    own = client.get("/healthz", headers=headers).headers["X-Request-Id"]
    assert len(own) == 32


def test_requests_are_counted_by_route_template_and_code(client, gateway):
    before = gateway.metrics.counts.copy()
    client.get("/v1/predictions/one-of-many")
    client.get("/v1/predictions/another-one")
    client.get("/nobody/serves/this")
    # An answer is counted once it's sent, which may be a moment after it's read.
    wait_for(lambda: (gateway.metrics.counts - before)["request", "unmatched", "404"] == 1)
    change = gateway.metrics.counts - before
    assert change["request", "/v1/predictions/{prediction_id}", "404"] == 2
    assert change["refusal", "not_found"] == 3


def test_probes_and_scrapes_are_not_counted_as_clients_requests(client, gateway):
    before = gateway.metrics.counts.copy()
    for path in ("/healthz", "/readyz", "/metrics"):
        client.get(path)
    client.get("/v1/models")
    wait_for(lambda: (gateway.metrics.counts - before)["request", "/v1/models", "200"] == 1)
    assert [key for key in gateway.metrics.counts - before if key[0] == "request"] == [("request", "/v1/models", "200")]


def test_unknown_paths_and_methods_get_the_apis_error_shape(client):
    assert client.get("/v1/nothing").json()["error"]["code"] == "not_found"
    assert client.delete("/v1/predictions/x").json()["status"] == 405


def test_a_request_leaves_one_line_without_prompt_or_key(client, caplog):
    with caplog.at_level(logging.INFO, logger="easel_server"):
        client.post(
            "/v1/images/generations?secret=query",
            json={"prompt": "a secret cat"},
            headers={"Authorization": "Bearer secret-key"},
        )
        record = wait_for(lambda: next((found for found in caplog.records if found.msg == "request"), None))
    assert record is not None
    assert (record.route, record.code, record.method) == ("/v1/images/generations", 200, "POST")
    assert record.duration_seconds > 0
    assert "secret" not in json.dumps([vars(record) for record in caplog.records], default=str)


def test_probes_leave_no_line_at_info_level(client, caplog):
    with caplog.at_level(logging.INFO, logger="easel_server"):
        client.get("/healthz")
    assert caplog.records == []
