"""Events of a prediction, as browsers and Replicate's own client follow them."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from easel_contract.gateway_config import GatewayConfig, LimitsConfig

from tests.inference_server.api.serving import MODEL, RunningGateway, wait_for

Event = tuple[str, str, str]  # name, data, id


def read_events(response: httpx2.Response) -> Iterator[Event]:
    """Events of a stream, comments left out; the plain part of the standard's parser."""
    fields: dict[str, list[str]] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            if name:
                fields.setdefault(name, []).append(value)
        elif fields:
            yield fields["event"][0], "\n".join(fields["data"]), fields["id"][0]
            fields = {}


def create(client: httpx2.Client, **given: object) -> dict:
    answer = client.post("/v1/predictions", json={"input": {"prompt": "a cat", "seed": 5, **given}})
    assert answer.status_code == 201, answer.text
    return answer.json()


def follow(client: httpx2.Client, prediction: dict, **headers: str) -> list[Event]:
    with client.stream("GET", prediction["urls"]["stream"], params={"progress": "true"}, headers=headers) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        return list(read_events(response))


def test_a_waiting_prediction_is_followed_to_its_images(client, gateway):
    gateway.call(gateway.worker.hold())
    first = create(client, prompt="another", seed=503)
    prediction = create(client, prompt="step by step", previews=2, seed=501)
    url = prediction["urls"]["get"]
    seen: list[tuple[str, Any]] = []
    with client.stream("GET", prediction["urls"]["stream"], params={"progress": "true"}) as response:
        for name, data, _ in read_events(response):
            seen.append((name, json.loads(data) if data.startswith("{") else data))
            if len(seen) == 1:
                gateway.do(gateway.worker.go_on)
            elif name == "logs":
                gateway.do(gateway.worker.steps.release)
    progress = [data for name, data in seen if name == "progress"]
    assert first["progress"]["queue_position"] == 1
    assert (progress[0]["status"], progress[0]["queue_position"], progress[0]["jobs_ahead"]) == ("starting", 2, 1)
    assert (progress[0]["previews"], progress[0]["workers"]) == ([], 1)
    running = [event for event in progress if event["status"] == "processing"]
    assert [event["steps_done"] for event in running][-4:] == [1, 2, 3, 4]
    assert running[-1]["previews"] == [f"{url}/previews/0", f"{url}/previews/1"]
    assert all(event["steps"] == 4 and event["queue_position"] is event["workers"] is None for event in running)
    assert [data for name, data in seen if name == "logs"][-2] == " 75%|#######   | 3/4\n"
    assert seen[-2:] == [("output", f"{url}/output/0"), ("done", {})]


def test_a_preview_is_fetched_while_the_prediction_runs(client, gateway):
    prediction = create(client, prompt="step by step", previews=3, seed=502)
    gateway.do(gateway.worker.steps.release)

    def look() -> dict:
        return client.get(prediction["urls"]["get"]).json()["progress"]

    progress = wait_for(lambda: (now := look())["previews"] and now)
    preview = client.get(progress["previews"][0])
    assert (preview.content, preview.headers["Content-Type"]) == (b"preview 2", "image/png")
    assert progress["eta_seconds"] is not None
    for _ in range(4):
        gateway.do(gateway.worker.steps.release)
    assert follow(client, prediction)[-1][:2] == ("done", "{}")


@pytest.mark.parametrize("index", ["0", "-1", "9", "x"])
def test_a_preview_that_is_not_there_is_not_found(client, index):
    prediction = create(client)
    assert client.get(f"{prediction['urls']['get']}/previews/{index}").status_code == 404


def test_a_failure_is_reported_and_ends_the_stream(client):
    events = follow(client, create(client, prompt="fail"))
    assert [event[:2] for event in events[-2:]] == [
        ("error", '{"detail": "the model refused the request: no"}'),
        ("done", '{"reason": "error"}'),
    ]


def test_a_cancelled_prediction_ends_its_stream(client):
    prediction = create(client, prompt="slow")
    events: list[Event] = []
    thread = threading.Thread(target=lambda: events.extend(follow(client, prediction)))
    thread.start()
    wait_for(lambda: client.get(prediction["urls"]["get"]).json()["status"] == "processing")
    client.post(prediction["urls"]["cancel"])
    thread.join(timeout=20)
    assert events[-1][:2] == ("done", '{"reason": "canceled"}')


def test_a_client_that_comes_back_misses_nothing_and_gets_no_image_twice(client):
    prediction = create(client, num_outputs=3)
    everything = follow(client, prediction)
    outputs = [event for event in everything if event[0] == "output"]
    assert len(outputs) == 3
    again = follow(client, prediction, **{"Last-Event-ID": outputs[1][2]})
    assert [event for event in again if event[0] == "output"] == outputs[2:]
    assert again[-1] == everything[-1]
    over = client.get(prediction["urls"]["stream"], headers={"Last-Event-ID": everything[-1][2]})
    assert (over.status_code, over.content) == (204, b"")


@pytest.mark.parametrize("strange", ["", "output-999999", "output-x", "x" * 5000])
def test_a_strange_last_event_id_is_as_good_as_none(client, strange):
    events = follow(client, create(client), **{"Last-Event-ID": strange})
    assert [name for name, *_ in events][-2:] == ["output", "done"]


def test_events_of_an_unknown_prediction_are_not_found(client):
    answer = client.get("/v1/predictions/nothing/stream")
    assert (answer.status_code, answer.json()["title"]) == (404, "Not Found")


def test_streams_beyond_the_bound_are_refused_and_a_closed_one_makes_room():
    limits = LimitsConfig(max_streams=1)
    with RunningGateway(GatewayConfig(limits=limits)) as gateway, gateway.client() as client:
        prediction = create(client, prompt="slow")
        url = prediction["urls"]["stream"]
        with client.stream("GET", url) as response:
            events = response.iter_raw()  # held: the connection ends with it
            next(events)
            refused = client.get(url)
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) > 0
        wait_for(lambda: gateway.metrics.open_streams == 0)
        client.post(prediction["urls"]["cancel"])
        assert follow(client, prediction)[-1][:2] == ("done", '{"reason": "canceled"}')


def test_replicates_client_follows_its_prediction(replicate, gateway):
    prediction = replicate.predictions.create(version=MODEL, input={"prompt": "a cat", "seed": 5}, stream=True)
    events = [(event.event.value, str(event.data)) for event in prediction.stream()]
    assert events[-2:] == [("output", f"{gateway.url}/v1/predictions/{prediction.id}/output/0"), ("done", "{}")]


def test_replicates_client_hears_of_a_failure(replicate):
    prediction = replicate.predictions.create(version=MODEL, input={"prompt": "fail"}, stream=True)
    with pytest.raises(RuntimeError, match="the model refused the request: no"):
        list(prediction.stream())
