"""Limits per key and per service, in requests and in GPU-seconds; refusals by predicted wait."""

import json
from contextlib import ExitStack

import pytest
from easel_contract.gateway_config import CacheConfig, GatewayConfig, LimitsConfig, RateLimitConfig
from easel_contract.server_config import Priority
from easel_server.gateway.ending import Ending
from easel_server.gateway.refusals import RefusalError
from easel_server.generation.request import CachePolicy, Customer
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import Claim, HeartbeatReply, JobConflictError
from easel_server.transport.streams import Streams
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference_server.api.serving import IDENTITY, CountingMetrics, RunningGateway
from tests.inference_server.api.submitting import ALICE, LOAD_SECONDS, Submitting
from tests.support.stored_images import succeed

BOB = Customer("bob")
TWO_REQUESTS = RateLimitConfig(requests_per_minute=1, burst=2)
TEN_GPU_SECONDS = RateLimitConfig(gpu_seconds_per_minute=60, gpu_seconds_burst=10)


async def refusal_of(submitting: Submitting, **order) -> RefusalError:
    with pytest.raises(RefusalError) as caught:
        await submitting.submit(**order)
    return caught.value


@given(
    per_minute=st.integers(1, 5000),
    burst=st.integers(1, 5),
    gpu_seconds_per_minute=st.integers(1, 5000),
    gpu_seconds_burst=st.integers(1, 100),
    gpu_seconds=st.floats(0.01, 50),
)
@settings(max_examples=40, deadline=None)
async def test_waiting_as_long_as_one_is_asked_to_really_gets_through(
    per_minute, burst, gpu_seconds_per_minute, gpu_seconds_burst, gpu_seconds
):
    rate = RateLimitConfig(
        requests_per_minute=per_minute,
        burst=burst,
        gpu_seconds_per_minute=gpu_seconds_per_minute,
        gpu_seconds_burst=gpu_seconds_burst,
    )
    submitting = Submitting(GatewayConfig(rate_limit=rate, service_rate_limit=TWO_REQUESTS), gpu_seconds=gpu_seconds)
    refusals = []
    for _ in range(12):
        try:
            await submitting.submit()
        except RefusalError as error:
            refusals.append(error)
            submitting.advance(int(error.headers["Retry-After"]))
            assert (await submitting.submit()).headers["RateLimit-Limit"]
    assert {refusal.code for refusal in refusals} == {"rate_limit_exceeded"}


async def test_each_key_has_its_own_bucket_and_all_share_the_services():
    config = GatewayConfig(rate_limit=TWO_REQUESTS, service_rate_limit=RateLimitConfig(requests_per_minute=1, burst=3))
    submitting = Submitting(config)
    await submitting.submit()
    await submitting.submit()
    own = await refusal_of(submitting)
    await submitting.submit(customer=BOB)
    services = await refusal_of(submitting, customer=BOB)
    assert "this API key's rate limit of 1 requests a minute (at most 2 at once) is used up" in own.message
    assert "the service's rate limit of 1 requests a minute (at most 3 at once) is used up" in services.message


async def test_a_customers_own_limit_takes_the_place_of_the_services_for_each_key():
    submitting = Submitting(GatewayConfig(rate_limit=TWO_REQUESTS))
    carol = Customer("carol", rate_limit=RateLimitConfig(requests_per_minute=1, burst=5))
    for _ in range(5):
        await submitting.submit(customer=carol)
    assert (await refusal_of(submitting, customer=carol)).code == "rate_limit_exceeded"


async def test_gpu_seconds_are_charged_as_they_are_predicted():
    submitting = Submitting(GatewayConfig(rate_limit=TEN_GPU_SECONDS), gpu_seconds=2.5)
    remaining = [(await submitting.submit()).headers["RateLimit-Remaining"] for _ in range(4)]
    assert remaining == ["7", "5", "2", "0"]
    refusal = await refusal_of(submitting)
    assert refusal.headers["Retry-After"] == "3"  # 2.5 GPU-seconds at one a second
    assert "rate limit of 60 gpu-seconds a minute" in refusal.message


async def test_cached_images_cost_a_request_and_no_gpu_seconds():
    rate = RateLimitConfig(requests_per_minute=1, burst=4, gpu_seconds_per_minute=1, gpu_seconds_burst=2)
    submitting = Submitting(GatewayConfig(rate_limit=rate), gpu_seconds=2)
    first = await submitting.submit(seed=1)
    await submitting.work()
    await submitting.context.results.wait(first.job, 10)
    for _ in range(3):
        assert (await submitting.submit(seed=1)).headers["X-Cache"] == "hit"
    refusal = await refusal_of(submitting, seed=1)
    assert "requests a minute" in refusal.message


async def test_sharing_images_that_are_under_way_costs_no_gpu_seconds():
    submitting = Submitting(GatewayConfig(rate_limit=TEN_GPU_SECONDS), gpu_seconds=6)
    await submitting.submit(seed=1)
    for _ in range(3):
        # Enough must be left to pass, for nobody knows beforehand that it will be given back.
        submitting.advance(2)
        assert (await submitting.submit(seed=1)).headers["X-Cache"] == "shared"
    submitting.advance(2)
    assert (await submitting.submit(seed=2)).headers["X-Cache"] == "miss"


async def test_a_request_that_is_not_served_is_not_charged():
    limits = LimitsConfig(max_queue_depth=1)
    submitting = Submitting(GatewayConfig(rate_limit=TWO_REQUESTS, limits=limits))
    await submitting.submit(job_id="first-job")
    for _ in range(5):
        assert (await refusal_of(submitting)).code == "queue_full"
        with pytest.raises(JobConflictError):
            await submitting.submit(job_id="first-job", prompt="another")
        assert (await refusal_of(submitting, cache=CachePolicy(only_if_cached=True))).status == 504
    await submitting.work()
    await submitting.submit()
    assert (await refusal_of(submitting)).status == 429


async def test_a_request_that_is_repeated_is_neither_charged_again_nor_refused():
    submitting = Submitting(GatewayConfig(rate_limit=TWO_REQUESTS))
    for _ in range(4):
        submitted = await submitting.submit(job_id="same-job")
    assert not submitted.created
    await submitting.submit()
    assert (await refusal_of(submitting)).status == 429
    assert (await submitting.submit(job_id="same-job")).job.id == "same-job"
    with pytest.raises(JobConflictError):
        await submitting.submit(job_id="same-job", prompt="another")


async def test_charges_that_cannot_be_refunded_spoil_no_request(monkeypatch, caplog):
    submitting = Submitting(GatewayConfig(rate_limit=TWO_REQUESTS))

    async def be_away(charges):
        raise StoreUnavailableError("redis:6379", "take", "ConnectionError", "wait")

    await submitting.submit(job_id="same-job")
    monkeypatch.setattr(submitting.stores.limits, "refund", be_away)
    assert not (await submitting.submit(job_id="same-job")).created
    assert "stays charged" in caplog.text


async def test_whoever_would_wait_too_long_learns_at_once_how_long():
    config = GatewayConfig(limits=LimitsConfig(max_wait_seconds=60), max_workers=2)
    submitting = Submitting(config, gpu_seconds=10)
    await submitting.work()  # the job store hears of one worker
    for _ in range(10):
        await submitting.submit()
    refusal = await refusal_of(submitting)
    # One worker now, two after 30 s: 30 + (ahead - 30) / 2 seconds to wait.
    assert (refusal.status, refusal.code) == (429, "wait_too_long")
    assert refusal.message == "the predicted wait is 65 s, at most 60 s are allowed; try again in 5 s"
    assert refusal.headers["Retry-After"] == "5"


async def test_a_crowd_that_waits_too_long_keeps_nobody_else_out():
    submitting = Submitting(GatewayConfig(limits=LimitsConfig(max_wait_seconds=60), max_workers=1), gpu_seconds=10)
    await submitting.work()
    for _ in range(7):
        await submitting.submit()
    assert (await refusal_of(submitting)).code == "wait_too_long"
    assert (await submitting.submit(customer=BOB)).created
    assert (await refusal_of(submitting)).code == "wait_too_long"


async def test_where_nothing_generates_and_nothing_is_about_to_requests_are_refused():
    submitting = Submitting(GatewayConfig(limits=LimitsConfig(max_wait_seconds=60)))
    refusal = await refusal_of(submitting)
    assert (refusal.status, refusal.code) == (503, "no_workers")
    assert int(refusal.headers["Retry-After"]) > 0


async def test_a_service_at_zero_lets_requests_wait_for_its_first_worker():
    submitting = Submitting(GatewayConfig(limits=LimitsConfig(max_wait_seconds=int(LOAD_SECONDS)), max_workers=1))
    assert (await submitting.submit()).created


async def test_an_estimate_tells_the_place_in_the_queue_and_the_time_until_the_images():
    submitting = Submitting(GatewayConfig(), gpu_seconds=4)
    await submitting.submit()
    await submitting.work(finish=False)
    second, third = await submitting.submit(), await submitting.submit()
    estimate = await submitting.context.estimates.progress(third.job)
    assert estimate.jobs_ahead == 1
    assert estimate.eta_seconds == pytest.approx(12, abs=0.1)
    running = await submitting.context.results.find("job-0", "alice")
    assert (await submitting.context.estimates.progress(running)).eta_seconds == pytest.approx(4, abs=0.1)
    await submitting.context.results.cancel(second.job.id, "alice")
    canceled = await submitting.context.results.find(second.job.id, "alice")
    assert (await submitting.context.estimates.progress(canceled)).eta_seconds is None


@pytest.mark.parametrize(
    ("highest", "wanted", "given"),
    [
        (Priority.NORMAL, None, Priority.NORMAL),
        (Priority.HIGH, None, Priority.NORMAL),
        (Priority.LOW, None, Priority.LOW),
        (Priority.HIGH, Priority.HIGH, Priority.HIGH),
        (Priority.NORMAL, Priority.LOW, Priority.LOW),
    ],
)
async def test_a_customer_gets_the_priority_that_it_asks_for_up_to_its_own(highest, wanted, given):
    customer = Customer("carol", weight=3, max_priority=highest)
    submitted = await Submitting(GatewayConfig()).submit(customer=customer, priority=wanted)
    assert (submitted.job.priority, submitted.job.weight) == (given, 3)


async def test_a_priority_above_the_customers_own_is_refused():
    refusal = await refusal_of(Submitting(GatewayConfig()), priority=Priority.HIGH)
    assert refusal.message == "priority: is High, allowed for this API key are Low, Normal"


async def test_a_customer_beside_a_flood_always_gets_in():
    """The maximum is 20: one customer's 20 took them all, and another's first request got 429."""
    submitting = Submitting(GatewayConfig(limits=LimitsConfig(max_queue_depth=20)), is_shared=True)
    flooded = 0
    while await was_taken(submitting, ALICE):
        flooded += 1
    assert flooded == 16, "alone, a customer may have four fifths"
    assert [await was_taken(submitting, BOB) for _ in range(3)] == [True, True, True]
    for number in range(30):
        assert await was_taken(submitting, Customer(f"newcomer-{number}")), "each has a place at least"
    assert not await was_taken(submitting, ALICE)


async def was_taken(submitting: Submitting, customer: Customer) -> bool:
    """Whether the customer's request was queued; if not, the queue was full for it."""
    try:
        await submitting.submit(customer=customer)
    except RefusalError as error:
        if error.code == "queue_full":
            return False
        raise
    return True


async def test_where_nobody_has_a_key_everybody_may_use_the_whole_queue():
    submitting = Submitting(GatewayConfig(limits=LimitsConfig(max_queue_depth=20)))
    assert [await was_taken(submitting, ALICE) for _ in range(21)] == [True] * 20 + [False]


@given(
    is_shared=st.booleans(),
    depth=st.integers(1, 30),
    gpu_seconds=st.floats(0.1, 40),
    neighbours=st.integers(0, 3),
    workers=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
async def test_a_refused_customer_who_comes_back_when_asked_to_gets_in(
    is_shared, depth, gpu_seconds, neighbours, workers
):
    """Retry-After was 5 s whatever waited, and obeyed in vain."""
    submitting = Submitting(
        GatewayConfig(limits=LimitsConfig(max_queue_depth=depth)), gpu_seconds=gpu_seconds, is_shared=is_shared
    )
    customers = [ALICE, *(Customer(f"neighbour-{number}") for number in range(neighbours))]
    work = Working(submitting, gpu_seconds, workers)
    await work.claim()
    for customer in customers:
        while await was_taken(submitting, customer):
            await work.claim()
    refusal = await refusal_of(submitting)
    await work.go_on(int(refusal.headers["Retry-After"]))
    assert await was_taken(submitting, ALICE)


class Working:
    """Workers, each of which takes as long for a job as was predicted."""

    def __init__(self, submitting: Submitting, gpu_seconds: float, workers: int) -> None:
        self._submitting = submitting
        self._gpu_seconds = gpu_seconds
        self._ends: dict[str, tuple[float, Claim | None]] = {f"w{number}": (0.0, None) for number in range(workers)}
        self._now = 0.0

    async def claim(self) -> None:
        """Every idle worker claims a job, if there is one."""
        jobs = self._submitting.stores.jobs
        for worker, (_, running) in self._ends.items():
            if running is None:
                claims = await jobs.claim(worker, [IDENTITY.key], lease_seconds=1e6, wait_seconds=0)
                if claims:
                    self._ends[worker] = (self._now + self._gpu_seconds, claims[0])
            # As a heartbeat does: so it is known to be there.
            elif await jobs.heartbeat(running, 0) is HeartbeatReply.LOST:
                raise AssertionError("lost")

    async def go_on(self, seconds: float) -> None:
        """Let time pass."""
        until = self._now + seconds
        while True:
            worker, (ends_at, running) = min(
                self._ends.items(), key=lambda item: item[1][0] if item[1][1] else float("inf")
            )
            if running is None or ends_at > until:
                break
            self._submitting.advance(ends_at - self._now)
            self._now = ends_at
            await succeed(self._submitting.stores.jobs, running, (b"image",))
            self._ends[worker] = (0.0, None)
            await self.claim()
        self._submitting.advance(until - self._now)
        self._now = until


def test_streams_are_bounded_and_counted():
    metrics = CountingMetrics()
    streams = Streams(2, metrics, Ending(jobs_outlive=True))
    with streams.hold("a"), streams.hold("a"):
        assert metrics.open_streams == 2
        with pytest.raises(RefusalError) as caught, streams.hold("a"):
            pass
    assert (caught.value.status, metrics.open_streams) == (429, 0)
    with streams.hold("a"):
        assert metrics.open_streams == 1


def test_a_customer_with_many_streams_leaves_some_to_others():
    streams, opened = Streams(20, CountingMetrics(), Ending(jobs_outlive=True), is_shared=True), ExitStack()
    with opened:
        for _ in range(16):
            opened.enter_context(streams.hold("a"))
        with pytest.raises(RefusalError) as caught, streams.hold("a"):
            pass
        assert "16 of them with this API key" in caught.value.message
        for customer in ("b", "b", "b", *map(str, range(30))):
            opened.enter_context(streams.hold(customer))
    assert streams._open == {}


@pytest.fixture
def limited(tmp_path):
    (tmp_path / "alice").write_text("alices-key")
    rate = {"requestsPerMinute": 1, "burst": 3}
    (tmp_path / "bob").write_text(json.dumps({"keys": ["bobs-key", "bobs-next-key"], "rateLimit": rate}))
    config = GatewayConfig(rate_limit=TWO_REQUESTS, cache=CacheConfig(ttl_seconds=0))
    with RunningGateway(config, keys=tmp_path) as gateway:
        yield gateway


def test_answers_say_what_is_left_and_refusals_when_to_come_back(limited):
    with limited.client(Authorization="Bearer alices-key") as client:
        answers = [client.post("/v1/images/generations", json={"prompt": "a"}) for _ in range(3)]
        prediction = client.post("/v1/predictions", json={"input": {"prompt": "a"}})
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["RateLimit-Limit"] for answer in answers} == {"2"}
    assert answers[2].headers["RateLimit-Policy"] == '1;w=60;burst=2;name="requests"'
    assert 55 <= int(answers[2].headers["Retry-After"]) <= 60
    assert answers[2].json()["error"]["type"] == "rate_limit_error"
    assert (prediction.status_code, prediction.json()["code"]) == (429, "rate_limit_exceeded")
    assert int(prediction.headers["RateLimit-Reset"]) > 60


def test_all_keys_of_a_customer_share_its_limit(limited):
    codes = []
    for key in ("bobs-key", "bobs-next-key", "bobs-key", "bobs-next-key"):
        with limited.client(Authorization=f"Bearer {key}") as client:
            codes.append(client.post("/v1/images/generations", json={"prompt": "a"}).status_code)
    assert codes == [200, 200, 200, 429]
