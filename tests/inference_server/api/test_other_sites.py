"""A server without keys and the pages of other sites, over HTTP: refused in the shape of the API that was called."""

from collections.abc import Iterator

import httpx2
import pytest
from easel_contract.gateway_config import GatewayConfig

from tests.inference_server.api.serving import RunningGateway

EVIL = {"Origin": "https://evil.example"}
BODIES = {
    "/v1/images/generations": {"prompt": "a cat", "seed": 1},
    "/v1/predictions": {"input": {"prompt": "a cat", "seed": 1}},
    "/sdapi/v1/txt2img": {"prompt": "a cat", "seed": 1},
}


def message_of(answer: httpx2.Response) -> str:
    body = answer.json()
    return body["error"]["message"] if isinstance(body.get("error"), dict) else body.get("detail") or body["errors"]


@pytest.mark.parametrize("path", BODIES)
def test_a_page_of_another_site_gets_nothing_generated(
    gateway: RunningGateway, client: httpx2.Client, path: str
) -> None:
    before = list(gateway.worker.seen)
    for headers in (EVIL, {"Sec-Fetch-Site": "cross-site"}):
        answer = client.post(path, json=BODIES[path], headers=headers)
        assert answer.status_code == 403
        assert "allowedOrigins" in message_of(answer)
    assert gateway.worker.seen == before
    assert client.post(path, json=BODIES[path]).status_code in (200, 201)


@pytest.mark.parametrize("path", ["/sdapi/v1/interrupt", "/v1/predictions/some-job-id/cancel", "/sdapi/v1/options"])
def test_it_stops_nobodys_work(client: httpx2.Client, path: str) -> None:
    assert client.post(path, headers=EVIL).status_code == 403


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "kind", ["text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_a_body_that_a_form_could_send_is_no_json(client: httpx2.Client, path: str, kind: str) -> None:
    answer = client.post(path, content=b'{"prompt": "a cat"}', headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert "Content-Type: application/json" in message_of(answer)


@pytest.mark.parametrize(
    "kind", [None, "application/json", "application/json; charset=utf-8", "application/vnd.api+json"]
)
def test_json_is_json_and_a_program_need_not_say_so(client: httpx2.Client, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = client.post("/v1/images/generations", content=b'{"prompt": "a cat"}', headers=headers)
    assert answer.status_code == 200


def test_neither_does_a_cached_answer_go_to_another_site(client: httpx2.Client) -> None:
    body = b'{"prompt": "a cat", "seed": 77}'
    json = {"Content-Type": "application/json"}
    for _ in range(3):
        last = client.post("/v1/images/generations", content=body, headers=json)
    assert last.headers["X-Cache"] == "hit"
    assert client.post("/v1/images/generations", content=body, headers=json | EVIL).status_code == 403
    assert (
        client.post("/v1/images/generations", content=body, headers={"Content-Type": "text/plain"}).status_code == 415
    )


def test_a_name_that_leads_here_by_rebinding_reads_no_image(client: httpx2.Client) -> None:
    prediction = client.post("/v1/predictions", json=BODIES["/v1/predictions"], headers={"Prefer": "wait=20"}).json()
    path = prediction["output"][0].partition("/v1")[2]
    rebound = {"Host": "evil.example:8080"}
    for url in (f"/v1{path}", "/", "/openapi.json", "/v1/models"):
        answer = client.get(url, headers=rebound)
        assert answer.status_code == 403
        assert "--allowed-host" in message_of(answer)
    assert client.get(f"/v1{path}").status_code == 200
    assert client.get("/healthz", headers=rebound).status_code == 200  # says nothing


@pytest.fixture
def friendly() -> Iterator[RunningGateway]:
    with RunningGateway(GatewayConfig(allowed_origins=("https://app.example.com",))) as gateway:
        yield gateway


def test_pages_of_a_site_that_is_allowed_may_ask_and_read(friendly: RunningGateway) -> None:
    origin = "https://app.example.com"
    with friendly.client(Origin=origin) as page:
        preflight = page.options(
            "/v1/predictions",
            headers={"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"},
        )
        assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, origin)
        answer = page.post("/v1/predictions", json=BODIES["/v1/predictions"])
        assert answer.status_code == 201
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert "X-Prediction-Id" in answer.headers["Access-Control-Expose-Headers"]
        refused = page.post("/v1/predictions", json={"input": {}})
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (422, origin)
    with friendly.client(**EVIL) as page:
        assert page.post("/v1/predictions", json=BODIES["/v1/predictions"]).status_code == 403
