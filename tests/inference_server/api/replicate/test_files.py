"""Files that Replicate's clients upload, to begin predictions with."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.inference_server.api.serving import RunningGateway
from tests.support.client_images import decoded, encoded, halves

ALICE, BOB = ({"Authorization": f"Bearer {name}-secret-key"} for name in ("alices", "bobs"))
PNG = encoded(halves())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    keys = tmp_path_factory.mktemp("keys")
    (keys / "alice").write_text("alices-secret-key")
    (keys / "bob").write_text("bobs-secret-key")
    with RunningGateway(keys=keys) as gateway:
        yield gateway


@pytest.fixture
def client(guarded: RunningGateway) -> Iterator[httpx2.Client]:
    with guarded.client() as client:
        yield client


def upload(
    client: httpx2.Client, content: bytes = PNG, headers: dict[str, str] = ALICE, **files: Any
) -> dict[str, Any]:
    answer = client.post("/v1/files", files={"content": ("image.png", content), **files}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_file_is_described_and_deleted_by_its_owner_alone(client):
    file = upload(client, metadata=("", b'{"subject": "a cat"}', "application/json"))
    assert (file["content_type"], file["size"], file["metadata"]) == ("image/png", len(PNG), {"subject": "a cat"})
    url = file["urls"]["get"]
    assert client.get(url, headers=ALICE).json() == file
    assert file in client.get("/v1/files", headers=ALICE).json()["results"]
    assert client.get("/v1/files", headers=BOB).json()["results"] == []
    assert [client.request(method, url, headers=BOB).status_code for method in ("GET", "DELETE")] == [404, 404]
    assert client.get(url).status_code == 401
    assert client.delete(url, headers=ALICE).status_code == 204
    assert client.get(url, headers=ALICE).status_code == 404


def test_a_prediction_begins_with_a_file_by_its_address(client, guarded):
    mask = encoded(Image.new("L", (64, 64), 255))
    given = {"prompt": "a cat from a file", "image": upload(client)["urls"]["get"]}
    given["mask"] = upload(client, mask)["urls"]["get"]
    answer = client.post("/v1/predictions", json={"input": given}, headers={**ALICE, "Prefer": "wait=20"})
    assert answer.json()["status"] == "succeeded", answer.text
    claim = guarded.worker.claims[-1]
    parameters = claim.job.parameters
    assert decoded(claim.inputs[parameters.image_digest]).convert("RGB").tobytes() == halves().tobytes()
    assert set(claim.inputs) == {parameters.image_digest, parameters.mask_digest}


@pytest.mark.parametrize(
    ("make_url", "sentence"),
    [
        (lambda url: url.replace("/v1/files/", "/v1/files/x"), "is a web address, and this service fetches none"),
        (lambda url: url[:-26] + "a" * 26, "does not exist, is not yours, or has expired"),
        (lambda url: url + "?x=1", "is a web address, and this service fetches none"),
    ],
)
def test_an_address_of_no_file_of_ones_own_is_refused(client, make_url, sentence):
    given = {"prompt": "a cat", "image": make_url(upload(client)["urls"]["get"])}
    answer = client.post("/v1/predictions", json={"input": given}, headers=ALICE)
    assert (answer.status_code, answer.json()["invalid_fields"][0]["field"]) == (422, "input.image")
    assert sentence in answer.json()["detail"]


def test_who_names_a_web_address_hears_of_both_ways_to_send_an_image(client):
    given = {"prompt": "a cat", "image": "https://example.com/cat.png"}
    detail = client.post("/v1/predictions", json={"input": given}, headers=ALICE).json()["detail"]
    assert "data: URL" in detail
    assert "/v1/files" in detail


def test_another_customers_file_is_no_input(client):
    given = {"prompt": "a cat", "image": upload(client)["urls"]["get"]}
    answer = client.post("/v1/predictions", json={"input": given}, headers=BOB)
    assert "does not exist, is not yours, or has expired" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ({"content": ("a.txt", b"no image")}, "content"),
        ({"other": ("a.png", PNG)}, "content"),
        ({"content": ("a.png", PNG), "metadata": ("", b"[1]", "application/json")}, "metadata"),
        (
            {"content": ("a.png", PNG), "metadata": ("", b'{"a":"' + b"x" * 5000 + b'"}', "application/json")},
            "metadata",
        ),
    ],
)
def test_what_is_no_image_or_no_metadata_is_refused(client, files, field):
    answer = client.post("/v1/files", files=files, headers=ALICE)
    assert (answer.status_code, answer.json()["invalid_fields"][0]["field"]) == (422, field)


def test_uploads_need_a_key_and_are_bounded(client):
    assert client.post("/v1/files", files={"content": PNG}).status_code == 401
    assert client.post("/v1/files", files={"content": PNG + bytes(17 << 20)}, headers=ALICE).status_code == 413
