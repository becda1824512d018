"""Each figure on /metrics against what the clients counted: real HTTP, a real Redis, a gateway and a worker.

The worker generates with the synthetic engine, so the time that a job takes in it is known.
"""

import base64
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from easel_contract import metrics as contract
from easel_contract.gateway_config import GatewayConfig, LimitsConfig, WebhookConfig
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig
from prometheus_client.parser import text_string_to_metric_families

from tests.inference_server.api.serving import wait_for
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess
from tests.support.webhook_receiver import WebhookReceiver

pytestmark = pytest.mark.redis

SECRET = "whsec_" + base64.b64encode(b"a signing secret of 32 bytes....").decode()
GENERATIONS, PREDICTIONS, PREDICTION = "/v1/images/generations", "/v1/predictions", "/v1/predictions/{prediction_id}"

SIDE_PIXELS = 512
STEPS = 8
LONG_STEPS = 1000
STEP_MILLISECONDS = 20  # of a megapixel
IMAGE_MILLISECONDS = 20
LOAD_SECONDS = 1
RUN_SECONDS = STEPS * SIDE_PIXELS**2 / 2**20 * STEP_MILLISECONDS / 1000  # of one image; no guidance
SETTINGS = {"num_inference_steps": STEPS, "guidance_scale": 0.0}

CONFIG = ServerConfig(
    model=ModelConfig(name="any", source="any"),
    engine=EngineConfig(
        kind=EngineKind.SYNTHETIC,
        synthetic=SyntheticConfig(
            milliseconds_per_step=STEP_MILLISECONDS,
            milliseconds_per_image=IMAGE_MILLISECONDS,
            load_seconds=LOAD_SECONDS,
        ),
    ),
    gateway=GatewayConfig(
        limits=LimitsConfig(max_steps=LONG_STEPS), webhook=WebhookConfig(allowed_networks=("127.0.0.0/8",))
    ),
)


class Page:
    """A page of metrics."""

    def __init__(self, process: ServerProcess) -> None:
        text = httpx2.get(f"{process.url}/metrics?labels=none", timeout=10).text
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._samples[name, frozenset(labels.items())]

    def by_label(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """All samples of a metric that aren't 0, by the values of these labels."""
        found = {}
        for (sample_name, pairs), value in self._samples.items():
            if sample_name == name and value:
                found[tuple(dict(pairs)[label] for label in labels)] = value
        return found


class Clients:
    """Everything that is asked of the server, and what the askers counted."""

    def __init__(self, gateway: ServerProcess, receiver: WebhookReceiver) -> None:
        self._gateway = gateway
        self._receiver = receiver
        self._http = httpx2.Client(base_url=gateway.url, timeout=60)
        self.requests: Counter[tuple[str, str]] = Counter()
        self.refusals: Counter[tuple[str]] = Counter()
        self.cache: Counter[tuple[str]] = Counter()
        self.submitted = 0
        self.outcomes: Counter[tuple[str]] = Counter()
        self.images = 0  # that a worker drew
        self.latency_seconds = 0.0  # of succeeded jobs, as clients saw it
        self.began = time.monotonic()

    def ask(self, method: str, path: str, route: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self._http.request(method, path, json=body)
        self.requests[route, str(answer.status_code)] += 1
        result: dict[str, Any] = answer.json()
        if answer.status_code >= 400:
            self.refusals[(result.get("code") or result["error"]["code"],)] += 1
        elif "x-cache" in answer.headers and method == "POST":
            self.cache[(answer.headers["x-cache"],)] += 1
            self.submitted += answer.headers["x-cache"] in {"miss", "bypass"}
        return result

    def generate(self, *, images: int = 1, **body: Any) -> None:
        """A generation that is waited for. One that the cache answers is no job."""
        began = time.monotonic()
        before = self.submitted
        self.ask("POST", GENERATIONS, GENERATIONS, {"prompt": "a cat", "n": images, **SETTINGS, **body})
        if self.submitted > before:
            self._count_success(images, time.monotonic() - began)

    def refused(self, path: str, body: dict[str, Any]) -> None:
        before = self.refusals.total()
        self.ask("POST", path, path, body)
        assert self.refusals.total() == before + 1

    def predict(self, webhook: str | None = None, **given: Any) -> str:
        body: dict[str, Any] = {"input": {"prompt": "a cat", **SETTINGS, **given}}
        if webhook is not None:
            body |= {"webhook": webhook, "webhook_events_filter": ["completed"]}
        return str(self.ask("POST", PREDICTIONS, PREDICTIONS, body)["id"])

    def status(self, prediction: str) -> str:
        return str(self.ask("GET", f"{PREDICTIONS}/{prediction}", PREDICTION)["status"])

    def expect_success(self, prediction: str, since: float, *, is_drawn: bool = True) -> None:
        wait_for(lambda: self.status(prediction) == "succeeded", timeout_seconds=60)
        if is_drawn:
            self._count_success(1, time.monotonic() - since)

    def cancel(self, prediction: str) -> None:
        self.ask("POST", f"{PREDICTIONS}/{prediction}/cancel", PREDICTION + "/cancel")
        wait_for(lambda: self.status(prediction) == "canceled", timeout_seconds=60)
        self.outcomes["Canceled",] += 1
        self.images += 1  # of a batch that was begun

    def follow(self, prediction: str) -> Any:
        """An event stream, as a context manager."""
        headers = {"Accept": "text/event-stream"}
        return self._http.stream("GET", f"{PREDICTIONS}/{prediction}/stream", headers=headers)

    def close(self) -> None:
        self._http.close()

    def _count_success(self, images: int, seconds: float) -> None:
        self.outcomes["Succeeded",] += 1
        self.images += images
        self.latency_seconds += seconds


class Busy:
    """What was seen while one job ran and others waited."""

    def __init__(self, clients: Clients, gateway: ServerProcess, worker: ServerProcess) -> None:
        self.running = clients.predict(num_inference_steps=LONG_STEPS)
        wait_for(lambda: clients.status(self.running) == "processing", timeout_seconds=60)
        before = Page(gateway)
        with clients.follow(self.running) as stream:
            assert stream.status_code == 200
            began = time.monotonic()
            waiting = clients.predict(seed=900)
            self.waiting_since = time.monotonic()
            equal = clients.predict(seed=900)
            another = clients.predict()
            scraped = time.monotonic()
            self.gateway, self.worker = Page(gateway), Page(worker)
            self.least_age_seconds = scraped - self.waiting_since
            self.most_age_seconds = time.monotonic() - began
            self.waiting_gpu_seconds = self.gateway(contract.PREDICTED_GPU_SECONDS_TOTAL) - before(
                contract.PREDICTED_GPU_SECONDS_TOTAL
            )
            self.running_gpu_seconds = before(contract.PREDICTED_GPU_SECONDS_TOTAL)
            clients.cancel(self.running)
        clients.expect_success(waiting, began)
        clients.expect_success(equal, began, is_drawn=False)
        clients.expect_success(another, began)


class Driven:
    """The load, and the pages before and after it."""

    def __init__(self, redis: RedisServer, receiver: WebhookReceiver) -> None:
        environment: dict[str, Any] = {"EASEL_REDIS_URL": redis.url, "EASEL_WEBHOOK_SECRET": SECRET}
        self.receiver = receiver
        with ServerProcess("--role", "gateway", config=CONFIG, **environment) as gateway:
            gateway.wait_until_ready()
            self.clients = Clients(gateway, receiver)
            began = time.monotonic()
            early = self.clients.predict()  # there is no worker yet
            with ServerProcess("--role", "worker", config=CONFIG, **environment) as worker:
                worker.wait_until_ready()
                self.clients.expect_success(early, began)
                self._drive(self.clients)
                self.busy = Busy(self.clients, gateway, worker)
                self.busy_seconds = time.monotonic() - began
                # Clients hear of an end a moment before it is counted.
                wait_for(lambda: Page(gateway)(contract.STREAMS) == 0)
                wait_for(lambda: Page(worker)(contract.IN_FLIGHT) == 0)
                wait_for(lambda: sum(Page(gateway).by_label(contract.WEBHOOKS_TOTAL, "outcome").values()) == 2)
                self.clients.close()
                self.gateway, self.worker = Page(gateway), Page(worker)

    def _drive(self, clients: Clients) -> None:
        for images in (1, 2):
            clients.generate(images=images)
        for seed in (1, 2):
            for _ in range(3):
                clients.generate(seed=seed)  # the first is a miss, the others are hits
        for body in ({"prompt": ""}, {"prompt": "a cat", "num_inference_steps": 5000}, {"prompt": "x", "model": "no"}):
            clients.refused(GENERATIONS, body)
        for url in (self.receiver.url, self.receiver.gone_url):
            clients.expect_success(clients.predict(webhook=url), time.monotonic())
        wait_for(lambda: self.receiver.answers.total() == 2, timeout_seconds=60)


@pytest.fixture(scope="module")
def driven() -> Iterator[Driven]:
    with RedisServer() as redis, WebhookReceiver() as receiver:
        yield Driven(redis, receiver)


# The gateway


def test_requests_are_counted_by_route_and_code(driven):
    counted = driven.gateway.by_label(contract.HTTP_REQUESTS_TOTAL, "route", "code")
    asked = driven.clients.requests
    assert {key: value for key, value in counted.items() if key in asked} == asked


def test_refusals_are_counted_by_reason(driven):
    assert driven.gateway.by_label(contract.REFUSALS_TOTAL, "reason") == driven.clients.refusals
    assert driven.clients.refusals.total() == 3


def test_cache_results_are_those_that_the_answers_named(driven):
    assert driven.gateway.by_label(contract.CACHE_REQUESTS_TOTAL, "result") == driven.clients.cache
    assert driven.clients.cache["hit",] == 4
    assert driven.clients.cache["shared",] == 1


def test_submitted_jobs_are_those_that_neither_the_cache_nor_another_job_answered(driven):
    assert driven.gateway(contract.JOBS_SUBMITTED_TOTAL) == driven.clients.submitted


def test_webhooks_are_counted_by_what_the_receiver_answered(driven):
    assert driven.gateway.by_label(contract.WEBHOOKS_TOTAL, "outcome") == {
        ("delivered",): driven.receiver.answers[204],
        ("failed",): driven.receiver.answers[410],
    }


def test_an_event_stream_is_seen_while_it_is_open(driven):
    assert driven.busy.gateway(contract.STREAMS) == 1
    assert driven.gateway(contract.STREAMS) == 0


# The queue: the same figures from every pod


@pytest.mark.parametrize("pod", ["gateway", "worker"])
def test_the_queue_is_what_the_clients_put_there(driven, pod):
    busy = getattr(driven.busy, pod)
    assert busy(contract.QUEUE_DEPTH, state="Waiting") == 2, "who follows an equal job is no work"
    assert busy(contract.QUEUE_DEPTH, state="Running") == 1
    assert busy(contract.BROKER_UP) == 1
    assert busy(contract.WORKERS) == 1
    age = busy(contract.OLDEST_WAITING_AGE_SECONDS)
    assert driven.busy.least_age_seconds <= age <= driven.busy.most_age_seconds
    empty = getattr(driven, pod)
    assert empty(contract.QUEUE_DEPTH, state="Waiting") == empty(contract.QUEUE_DEPTH, state="Running") == 0
    assert empty(contract.OLDEST_WAITING_AGE_SECONDS) == 0


@pytest.mark.parametrize("pod", ["gateway", "worker"])
def test_the_backlog_is_the_predicted_work_that_was_accepted(driven, pod):
    busy = getattr(driven.busy, pod)
    assert busy(contract.BACKLOG_GPU_SECONDS, state="Waiting") == pytest.approx(
        driven.busy.waiting_gpu_seconds, rel=1e-3
    )
    assert 0 < busy(contract.BACKLOG_GPU_SECONDS, state="Running") <= driven.busy.running_gpu_seconds
    assert getattr(driven, pod)(contract.BACKLOG_GPU_SECONDS, state="Waiting") == pytest.approx(0, abs=1e-3)


# The worker


def test_jobs_are_counted_by_outcome_and_seen_while_they_run(driven):
    assert driven.worker.by_label(contract.JOBS_TOTAL, "outcome") == driven.clients.outcomes
    assert driven.busy.worker(contract.IN_FLIGHT) == 1
    assert driven.worker(contract.IN_FLIGHT) == 0


def test_at_each_step_the_images_are_counted_that_take_it(driven):
    images, steps = driven.worker(contract.BATCH_IMAGES + "_sum"), driven.worker(contract.BATCH_IMAGES + "_count")
    assert steps > driven.clients.outcomes["Succeeded",] * STEPS, "and some of the cancelled one"
    assert images - steps == (driven.clients.images - driven.clients.outcomes.total()) * STEPS


def test_latency_is_what_the_clients_saw_but_for_their_own_way(driven):
    succeeded = driven.clients.outcomes["Succeeded",]
    generated = driven.clients.images - 1  # without the cancelled one
    engine_seconds = generated * (RUN_SECONDS + IMAGE_MILLISECONDS / 1000)
    assert driven.worker(contract.JOB_LATENCY_SECONDS + "_count") == succeeded
    assert engine_seconds <= driven.worker(contract.JOB_LATENCY_SECONDS + "_sum") <= driven.clients.latency_seconds


def test_the_phases_add_up_to_the_latency_and_each_is_what_the_engine_took(driven):
    succeeded = driven.clients.outcomes["Succeeded",]
    generated = driven.clients.images - 1
    sums = {}
    for phase in ("queue", "load", "run", "encode"):
        assert driven.worker(contract.JOB_PHASE_SECONDS + "_count", phase=phase) == succeeded
        sums[phase] = driven.worker(contract.JOB_PHASE_SECONDS + "_sum", phase=phase)
    assert sum(sums.values()) == pytest.approx(driven.worker(contract.JOB_LATENCY_SECONDS + "_sum"))
    assert sums["run"] >= generated * RUN_SECONDS
    assert sums["encode"] >= generated * IMAGE_MILLISECONDS / 1000
    assert sums["load"] >= LOAD_SECONDS, "one job waited for the model"
    assert sums["queue"] > 0


def test_the_gpu_was_generating_within_the_time_that_the_worker_was_busy(driven):
    generated = driven.clients.images - 1
    generating = driven.worker(contract.WORK_GPU_SECONDS_TOTAL)
    busy = driven.worker(contract.BUSY_SECONDS_TOTAL)
    assert generated * (RUN_SECONDS + IMAGE_MILLISECONDS / 1000) <= generating <= busy <= driven.busy_seconds


def test_the_engine_says_that_it_is_synthetic(driven):
    labels = {"engine": "synthetic", "device": "none", "dtype": "none", "model": "any"}
    assert driven.worker(contract.ENGINE_INFO, **labels) == 1
    assert driven.worker(contract.MODEL_LOAD_SECONDS) >= LOAD_SECONDS
    assert driven.worker.by_label(contract.JOB_PHASE_SECONDS + "_count", "phase").keys() == {
        ("queue",),
        ("load",),
        ("run",),
        ("encode",),
    }
