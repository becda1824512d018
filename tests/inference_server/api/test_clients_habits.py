"""What clients do that is allowed and seldom thought of: empty fields, byte order marks, HEAD."""

import codecs
import json

import pytest

from tests.support.images import build_image
from tests.support.raw_http import build_head, connected, read_all

IMAGES, EDITS = "/v1/images/generations", "/v1/images/edits"


def test_empty_fields_of_a_form_are_absent(client):
    """As Go's and browsers' forms have them."""
    empty = dict.fromkeys(("response_format", "size", "n", "seed", "mask", "output_format", "stream", "user"), "")
    files = {"image": ("cat.png", build_image(64, 64)), "mask": ("", b"", "application/octet-stream")}
    answer = client.post(EDITS, data={"prompt": "a cat", **empty}, files=files)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["b64_json"]


def test_a_field_that_must_be_given_is_missing_where_it_is_empty(client):
    answer = client.post(EDITS, data={"prompt": ""}, files={"image": build_image(64, 64)})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "prompt: is missing and must be given"


def test_an_empty_file_that_was_chosen_is_not_taken_for_none(client):
    answer = client.post(EDITS, data={"prompt": "a cat"}, files={"image": ("cat.png", b"")})
    assert answer.status_code == 400
    assert "is no image" in answer.json()["error"]["message"]


def test_empty_values_of_a_query_and_of_headers_are_absent(client):
    created = client.post(
        "/v1/predictions", json={"input": {"prompt": "a"}}, headers={"Cancel-After": "", "Prefer": ""}
    )
    assert created.status_code == 201, created.text
    assert client.get("/v1/predictions/" + created.json()["id"] + "/stream?progress=").status_code == 200
    assert client.get("/sdapi/v1/progress?skip_current_image=").status_code == 200


@pytest.mark.parametrize("path", [IMAGES, "/v1/predictions", "/sdapi/v1/txt2img"])
def test_a_byte_order_mark_before_json_is_skipped(client, path):
    body = {"input": {"prompt": "a cat"}} if path == "/v1/predictions" else {"prompt": "a cat"}
    answer = client.post(path, content=codecs.BOM_UTF8 + json.dumps(body).encode())
    assert answer.status_code in {200, 201}, answer.text


def test_head_has_the_head_that_get_has_and_no_body(client, gateway):
    created = client.post("/v1/predictions", json={"input": {"prompt": "a cat"}}, headers={"Prefer": "wait"}).json()
    one = f"/v1/predictions/{created['id']}"
    paths = [
        "/",
        "/playground/app.js",
        "/playground/config",
        "/docs",
        "/openapi.json",
        "/healthz",
        "/readyz",
        "/metrics",
    ]
    paths += ["/v1/models", "/v1/models/tiny/sd15", one, f"{one}/output/0", f"{one}/stream", "/sdapi/v1/sd-models"]
    passing = {"date", "x-request-id"}
    for path in [*paths, "/v1/predictions/unknown-one"]:
        got, head = client.get(path), client.head(path)
        assert head.status_code == got.status_code, path
        assert head.content == b""
        ours, theirs = ({n: v for n, v in each.headers.items() if n not in passing} for each in (head, got))
        theirs.pop("transfer-encoding", None)  # of a stream, whose length nobody knows
        assert ours == theirs, path
    with connected(gateway.url) as connection:  # and nothing comes behind the head
        connection.sendall(build_head("HEAD", f"{one}/output/0", "Connection: close"))
        assert read_all(connection).endswith(b"\r\n\r\n")


def test_every_path_that_is_got_has_a_head(gateway):
    methods: dict[str, set[str]] = {}
    for route in gateway.app.routes:
        methods.setdefault(route.path, set()).update(route.methods or ())
    assert [path for path, allowed in methods.items() if "GET" in allowed and "HEAD" not in allowed] == []
    assert not any("head" in operations for operations in gateway.app.openapi()["paths"].values())
