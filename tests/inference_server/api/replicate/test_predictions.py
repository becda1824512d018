"""Predictions in Replicate's shape: create, wait, cancel, idempotence, isolation."""

import httpx2
import pytest
from easel_server.api.replicate import routes
from easel_server.api.replicate.responses import build_progress_line
from easel_server.generation.job import JobState

from tests.inference_server.api.serving import MODEL, RunningGateway
from tests.support.jobs import build_job

CAT = {"input": {"prompt": "a cat", "seed": 5}}


def finished(client: httpx2.Client, body: dict, **headers: str) -> dict:
    answer = client.post("/v1/predictions", json=body, headers={"Prefer": "wait=20", **headers})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_prediction_has_replicates_fields(client, gateway):
    prediction = finished(client, CAT)
    url = f"{gateway.url}/v1/predictions/{prediction['id']}"
    assert prediction["status"] == "succeeded"
    assert prediction["model"] == prediction["version"] == MODEL
    assert prediction["input"] == {
        "prompt": "a cat",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "num_outputs": 1,
        "num_inference_steps": 4,
        "guidance_scale": 7.5,
        "seed": 5,
        "output_format": "png",
        "priority": "Normal",
        "reproducibility": "Close",
    }
    assert prediction["output"] == [f"{url}/output/0"]
    assert prediction["urls"] == {"get": url, "cancel": f"{url}/cancel", "stream": f"{url}/stream"}
    assert prediction["error"] is None
    assert prediction["logs"] == "100%|##########| 4/4\n"
    assert prediction["created_at"] <= prediction["started_at"] <= prediction["completed_at"]
    assert prediction["metrics"]["predict_time"] >= 0


def test_the_output_is_the_image(client):
    prediction = finished(client, {"input": {**CAT["input"], "num_outputs": 2, "output_format": "webp"}})
    answers = [client.get(url) for url in prediction["output"]]
    assert [answer.content for answer in answers] == [b"a cat 5", b"a cat 6"]
    assert answers[0].headers["Content-Type"] == "image/webp"
    assert answers[0].headers["Cache-Control"] == "private, max-age=31536000, immutable"


@pytest.mark.parametrize("index", ["1", "-1", "99999", "x", "0x0"])
def test_an_output_that_is_not_there_is_not_found(client, index):
    prediction = finished(client, CAT)
    assert client.get(f"/v1/predictions/{prediction['id']}/output/{index}").status_code == 404


def test_without_prefer_the_answer_comes_at_once_and_the_result_later(client, gateway):
    gateway.call(gateway.worker.hold())
    answer = client.post("/v1/predictions", json={"input": {"prompt": "a cat"}})
    assert (answer.status_code, answer.json()["status"], answer.json()["output"]) == (201, "starting", None)
    gateway.do(gateway.worker.go_on)
    gateway.call(gateway.stores.jobs.wait(answer.json()["id"], 10))
    assert client.get(answer.json()["urls"]["get"]).json()["status"] == "succeeded"


def test_a_wait_that_ends_first_gives_the_prediction_as_it_is(client, gateway):
    gateway.call(gateway.worker.hold())
    answer = client.post("/v1/predictions", json={"input": {"prompt": "a cat"}}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (201, "starting")


@pytest.mark.parametrize("seconds", [0, 61, 600])
def test_a_wait_beyond_a_minute_is_refused(client, seconds):
    answer = client.post("/v1/predictions", json=CAT, headers={"Prefer": f"wait={seconds}"})
    assert answer.status_code == 422
    assert answer.json()["invalid_fields"] == [
        {"field": "Prefer", "description": f"waits {seconds} s, allowed are 1 to 60"}
    ]


def test_a_failed_prediction_says_why(client):
    prediction = finished(client, {"input": {"prompt": "fail"}})
    assert (prediction["status"], prediction["error"]) == ("failed", "the model refused the request: no")
    assert prediction["output"] is None


def test_a_running_prediction_is_cancelled(client, gateway):
    prediction = client.post("/v1/predictions", json={"input": {"prompt": "slow"}}).json()
    assert client.post(prediction["urls"]["cancel"]).status_code == 200
    gateway.call(gateway.stores.jobs.wait(prediction["id"], 10))
    assert client.get(prediction["urls"]["get"]).json()["status"] == "canceled"


def test_put_creates_once_under_the_clients_id(client):
    first = client.put("/v1/predictions/my-own-id-1", json={"input": {"prompt": "a cat"}})
    again = client.put("/v1/predictions/my-own-id-1", json={"input": {"prompt": "a cat"}})
    other = client.put("/v1/predictions/my-own-id-1", json={"input": {"prompt": "a dog"}})
    assert [answer.status_code for answer in (first, again, other)] == [201, 200, 422]
    assert first.json()["id"] == again.json()["id"] == "my-own-id-1"
    assert first.json()["input"]["seed"] == again.json()["input"]["seed"]
    assert other.json()["detail"].startswith("job my-own-id-1 exists already with different content")


@pytest.mark.parametrize("own_id", ["short", "x" * 65, "white%20space", "semi;colon", "ünïcode-id"])
def test_an_id_of_another_form_is_refused(client, own_id):
    answer = client.put(f"/v1/predictions/{own_id}", json=CAT)
    assert answer.status_code == 422
    assert "allowed are 8 to 64 letters, digits, hyphens and underscores" in answer.json()["detail"]


def test_an_idempotency_key_creates_once(client):
    headers = {"Idempotency-Key": "again and again"}
    first = client.post("/v1/predictions", json={"input": {"prompt": "a cat"}}, headers=headers)
    again = client.post("/v1/predictions", json={"input": {"prompt": "a cat"}}, headers=headers)
    assert [first.status_code, again.status_code] == [201, 200]
    assert first.json()["id"] == again.json()["id"]


def test_an_unknown_field_is_named_by_its_path(client):
    answer = client.post("/v1/predictions", json={"input": {"prompt": "a", "widht": 64}})
    assert answer.status_code == 422
    body = answer.json()
    assert body["invalid_fields"] == [{"field": "input.widht", "description": "is not a known field"}]
    assert (body["status"], body["code"]) == (422, "invalid_value")


def test_another_model_is_not_found(client):
    answer = client.post("/v1/predictions", json={**CAT, "version": "other"})
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


def test_an_unknown_prediction_is_not_found(client):
    for answer in (client.get("/v1/predictions/nothing"), client.post("/v1/predictions/nothing/cancel")):
        assert (answer.status_code, answer.json()["title"]) == (404, "Not Found")


def test_a_webhook_needs_a_signing_secret(client):
    answer = client.post("/v1/predictions", json={**CAT, "webhook": "https://example.com/hook"})
    assert answer.status_code == 422
    assert "gateway.webhook.signingSecretName (EASEL_WEBHOOK_SECRET" in answer.json()["detail"]


@pytest.fixture(scope="module")
def signing_gateway():
    with RunningGateway(is_signing_configured=True) as gateway:
        yield gateway


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/hook",
        "example.com/hook",
        "/hook",
        "http://",
        "http://[half",
        "http://example.com:99999/",
        "https://example.com/a b",
        "https://example.com/\nX-Injected: 1",
        "https://example.com/" + "x" * 2048,
        "",
    ],
)
def test_a_webhook_that_is_no_web_address_is_refused(signing_gateway, url):
    with signing_gateway.client() as client:
        answer = client.post("/v1/predictions", json={**CAT, "webhook": url})
    assert answer.status_code == 422
    assert answer.json()["invalid_fields"][0]["field"] == "webhook"


@pytest.mark.parametrize(
    ("chosen", "stored"),
    [
        (None, ("start", "completed")),
        (["completed"], ("completed",)),
        (["completed", "start", "start"], ("start", "completed")),
        (["output", "logs", "completed"], ("completed",)),
        ([], ()),
    ],
)
def test_the_events_asked_for_are_stored_with_the_job(signing_gateway, chosen, stored):
    body = {**CAT, "webhook": "https://example.com/hook"}
    if chosen is not None:
        body["webhook_events_filter"] = chosen
    with signing_gateway.client() as client:
        prediction = client.post("/v1/predictions", json=body).json()
    job = signing_gateway.call(signing_gateway.stores.jobs.get(prediction["id"]))
    assert job.webhook.events == stored


def test_an_event_that_is_not_sent_is_refused(signing_gateway):
    body = {**CAT, "webhook": "https://example.com/hook", "webhook_events_filter": ["logs"]}
    with signing_gateway.client() as client:
        answer = client.post("/v1/predictions", json=body)
    assert answer.json()["invalid_fields"][0]["field"] == "webhook_events_filter"
    assert "['logs'], of which nothing would be sent" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("state", "steps_done", "line"),
    [
        pytest.param(JobState.RUNNING, 0, "  0%|          | 0/30\n", id="nothing done"),
        pytest.param(JobState.RUNNING, 12, " 40%|####      | 12/30\n", id="some steps done"),
        pytest.param(JobState.SUCCEEDED, 29, "100%|##########| 30/30\n", id="success is all of it"),
        pytest.param(JobState.CANCELED, 15, " 50%|#####     | 15/30\n", id="where it stopped"),
    ],
)
def test_progress_is_reported_as_replicates_clients_read_it(state, steps_done, line):
    job = build_job("one", steps=30)
    job = job.model_copy(update={"state": state, "steps_done": steps_done, "started_at": job.submitted_at})
    assert build_progress_line(job) == line


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("90", 90), ("30s", 30), ("2m", 120), ("1h", 3600), ("1h30m10s", 5410), ("24h", 86400)],
)
def test_a_time_to_cancel_after_becomes_the_deadline(client, gateway, header, seconds):
    gateway.call(gateway.worker.hold())
    answer = client.post("/v1/predictions", json={"input": {"prompt": "a cat"}}, headers={"Cancel-After": header})
    job = gateway.call(gateway.stores.jobs.get(answer.json()["id"]))
    assert round((job.deadline_at - job.submitted_at).total_seconds()) == seconds


@pytest.mark.parametrize("header", ["soon", "-1", "0", "0s", "25h", "1d", "30 s", "m", "1e3", "9999999"])
def test_a_time_to_cancel_after_that_is_none_is_refused(client, header):
    answer = client.post("/v1/predictions", json=CAT, headers={"Cancel-After": header})
    assert answer.status_code == 422
    assert answer.json()["invalid_fields"][0]["field"] == "Cancel-After"


def test_a_priority_is_bounded_by_the_keys(tmp_path):
    (tmp_path / "alice").write_text('{"keys": ["alices-secret-key"], "maxPriority": "High"}')
    (tmp_path / "bob").write_text('{"keys": ["bobs-secret-key"], "maxPriority": "Low"}')
    with RunningGateway(keys=tmp_path) as gateway:

        def ask(key: str, **given: str) -> httpx2.Response:
            with gateway.client(Authorization=f"Bearer {key}") as client:
                return client.post("/v1/predictions", json={"input": {"prompt": "a cat", **given}})

        assert ask("alices-secret-key", priority="High").json()["input"]["priority"] == "High"
        assert ask("bobs-secret-key").json()["input"]["priority"] == "Low"
        refused = ask("bobs-secret-key", priority="Normal")
        assert refused.status_code == 422
        assert refused.json()["detail"] == "priority: is Normal, allowed for this API key are Low"


def test_a_jpeg_may_be_called_jpg_and_has_a_quality(client, gateway):
    """As Replicate's own models call it."""
    given = {"prompt": "a jpg of a cat", "output_format": "jpg", "output_quality": 40}
    answer = client.post("/v1/predictions", json={"input": given}, headers={"Prefer": "wait=10"})
    assert answer.status_code == 201, answer.text
    parameters = gateway.worker.claims[-1].job.parameters
    assert (parameters.image_format, parameters.quality_percent) == ("jpeg", 40)
    assert answer.json()["input"]["output_quality"] == 40


def test_inputs_of_replicates_own_models_are_accepted_where_they_ask_for_nothing(client, gateway):
    given = {
        "refine": "no_refiner",
        "replicate_weights": "",
        "apply_watermark": False,
        "refine_steps": 10,
        "high_noise_frac": 0.8,
        "lora_scale": 0.6,
        "disable_safety_checker": False,
        "size": "64x72",
    }
    answer = client.post("/v1/predictions", json={"input": {"prompt": "a plain cat", **given}})
    assert (answer.status_code, "Warning" in answer.headers) == (201, False), answer.text
    parameters = gateway.call(gateway.stores.jobs.get(answer.json()["id"])).parameters
    assert (parameters.width_pixels, parameters.height_pixels) == (64, 72)
    watermarked = client.post("/v1/predictions", json={"input": {"prompt": "a cat", "apply_watermark": True}})
    assert watermarked.json()["logs"].startswith("warning: input.apply_watermark: True is without effect; no watermark")
    refined = client.post("/v1/predictions", json={"input": {"prompt": "a cat", "refine": "base_image_refiner"}})
    assert (refined.status_code, refined.json()["invalid_fields"][0]["field"]) == (422, "input.refine")


def test_a_prediction_shows_its_webhook(tmp_path):
    with RunningGateway(is_signing_configured=True) as gateway, gateway.client() as client:
        body = {
            "input": {"prompt": "a cat"},
            "webhook": "https://a.example/hook",
            "webhook_events_filter": ["completed"],
        }
        created = client.post("/v1/predictions", json=body).json()
        seen = client.get(created["urls"]["get"]).json()
        (listed,) = client.get("/v1/predictions").json()["results"]
        for prediction in (created, seen, listed):
            assert (prediction["webhook"], prediction["webhook_events_filter"]) == (body["webhook"], ["completed"])
        assert "webhook" not in client.post("/v1/predictions", json={"input": {"prompt": "a cat"}}).json()


def test_own_predictions_are_listed_page_by_page_and_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr(routes, "PAGE_PREDICTIONS", 2)
    (tmp_path / "alice").write_text("alices-secret-key")
    (tmp_path / "bob").write_text("bobs-secret-key")
    with RunningGateway(keys=tmp_path) as gateway, gateway.client() as client:
        alice, bob = ({"Authorization": f"Bearer {name}-secret-key"} for name in ("alices", "bobs"))

        def create(headers: dict[str, str]) -> str:
            return client.post("/v1/predictions", json={"input": {"prompt": "a cat"}}, headers=headers).json()["id"]

        ids = [create(alice) for _ in range(3)]
        create(bob)
        first = client.get("/v1/predictions", headers=alice).json()
        second = client.get(first["next"], headers=alice).json()
        assert [one["id"] for one in (*first["results"], *second["results"])] == ids[::-1]
        assert (first["previous"], second["next"]) == (None, None)
        assert client.get("/v1/predictions").status_code == 401
        wrong = client.get("/v1/predictions?cursor=nonsense", headers=alice)
        assert (wrong.status_code, wrong.json()["invalid_fields"][0]["field"]) == (422, "cursor")
