"""Scraping over real sockets on loopback: bounded, concurrent, and blind to one dead pod at the most."""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from random import Random

import pytest
from aiohttp import web
from easel_contract import names
from easel_contract.resource import ScalingSpec
from easel_operator.autoscaling.counters import CounterReading
from easel_operator.autoscaling.observation import PodMetrics, PodSample, QueueReading, observe
from easel_operator.autoscaling.planner import begin_state, plan, to_external_values
from easel_operator.autoscaling.workers import PodCounts
from easel_operator.cluster import scraper as module
from easel_operator.cluster.external_metrics import to_quantity
from easel_operator.cluster.scraper import Scraper, ScrapeTarget, parse_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from tests.operator.metrics_api.support import NOW

TIMEOUT_SECONDS = 2.0  # an answer on loopback takes milliseconds, also on a busy machine
PAGE = """\
# HELP easel_broker_up 1 while Redis answers
# TYPE easel_broker_up gauge
easel_broker_up 1.0
easel_redis_full 1.0
# HELP easel_redis_evicts 1 while Redis is refused
# TYPE easel_redis_evicts gauge
easel_redis_evicts 1.0
# TYPE easel_queue_depth gauge
easel_queue_depth{state="Waiting"} 5.0
easel_queue_depth{state="Running"} 2.0
easel_backlog_gpu_seconds{state="Waiting"} 21.5
easel_backlog_gpu_seconds{state="Running"} 1.5
easel_bounded_backlog_gpu_seconds{state="Waiting"} 20.5
easel_bounded_backlog_gpu_seconds{state="Running"} 1.25
easel_overrunning_jobs 1.0
easel_oldest_waiting_age_seconds 3.5
easel_jobs_in_flight 1.0
easel_longest_job_seconds 42.5
easel_jobs_submitted_total 40.0
easel_predicted_gpu_seconds_total 160.5
easel_bounded_gpu_seconds_total 150.5
easel_work_gpu_seconds_total 128.0
easel_jobs_total{outcome="Succeeded"} 30.0
easel_jobs_total{outcome="Failed"} 2.0
easel_jobs_total{outcome="Canceled"} 7.0
easel_job_latency_seconds_bucket{le="1.0"} 10.0
easel_job_latency_seconds_bucket{le="+Inf"} 32.0
easel_job_latency_seconds_count 32.0
easel_http_requests_total{route="/v1/images/generations",code="200"} 12.0
python_info{implementation="CPython"} 1.0
"""
READ = PodMetrics(
    broker_up=True,
    is_redis_full=True,
    is_redis_evicting=True,
    queue=QueueReading(5, 2, 3.5, 21.5, 1.5, 20.5, 1.25, 1),
    in_flight=1,
    counters=CounterReading(
        submitted=40,
        predicted_gpu_seconds=160.5,
        bounded_gpu_seconds=150.5,
        finished=32,
        work_gpu_seconds=128,
        latency_buckets={1.0: 10, math.inf: 32},
    ),
    longest_job_seconds=42.5,
)

Handler = Callable[[web.Request], Awaitable[web.Response]]
ServePod = Callable[[Handler], Awaitable[ScrapeTarget]]


@pytest.fixture
async def serve_pod() -> AsyncIterator[ServePod]:
    runners: list[web.AppRunner] = []

    async def serve(handler: Handler) -> ScrapeTarget:
        application = web.Application()
        application.router.add_get(names.PATH_METRICS, handler)
        runner = web.AppRunner(application, shutdown_timeout=0)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return ScrapeTarget(f"pod-{len(runners)}", names.COMPONENT_WORKER, "127.0.0.1", runner.addresses[0][1])

    yield serve
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def scraper() -> AsyncIterator[Scraper]:
    async with Scraper(timeout_seconds=TIMEOUT_SECONDS, clock=lambda: NOW) as made:
        yield made


async def answer(_: web.Request) -> web.Response:
    return web.Response(text=PAGE)


async def test_a_pod_is_read(serve_pod: ServePod, scraper: Scraper) -> None:
    target = await serve_pod(answer)
    (sample,) = await scraper.scrape([target])
    assert (sample.metrics, sample.error, sample.scraped_at) == (READ, None, NOW)
    assert (sample.pod_name, sample.component) == (target.pod_name, target.component)


async def test_dead_and_silent_pods_do_not_blind_the_rest(serve_pod: ServePod, scraper: Scraper) -> None:
    released = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response(text=PAGE)

    silent = [await serve_pod(hang) for _ in range(5)]
    alive = await serve_pod(answer)
    dead = ScrapeTarget("dead", names.COMPONENT_WORKER, "127.0.0.1", 1)
    began = asyncio.get_running_loop().time()
    samples = await scraper.scrape([*silent, dead, alive])
    took = asyncio.get_running_loop().time() - began
    released.set()
    assert [sample.error for sample in samples[:5]] == ["no answer within 2 s"] * 5
    assert samples[5].error is not None
    assert samples[5].error.startswith("ClientConnectorError")
    assert samples[6].metrics == READ
    assert took < 4 * TIMEOUT_SECONDS  # five time-outs side by side, not one after the other


async def test_waiting_for_a_turn_is_no_fault_of_the_pod(serve_pod: ServePod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONCURRENT_SCRAPES", 1)
    released = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response(text=PAGE)

    targets = [await serve_pod(hang), await serve_pod(answer)]
    async with Scraper(timeout_seconds=TIMEOUT_SECONDS, clock=lambda: NOW) as scraper:
        samples = await scraper.scrape(targets)
    released.set()
    assert samples[1].metrics == READ


async def test_refusals_and_nonsense_are_errors_in_words(serve_pod: ServePod, scraper: Scraper) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=503)

    async def redirect(_: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    async def babble(_: web.Request) -> web.Response:
        return web.Response(text='easel_queue_depth{state="Waiting" 5')

    async def binary(_: web.Request) -> web.Response:
        return web.Response(body=b"\xff\xfe")

    targets = [await serve_pod(handler) for handler in (refuse, redirect, babble, binary)]
    samples = await scraper.scrape(targets)
    assert all(sample.metrics is None and sample.error for sample in samples)
    assert "HTTP 503" in (samples[0].error or "")
    assert "HTTP 302" in (samples[1].error or "")


async def test_an_endless_page_is_cut(serve_pod: ServePod, scraper: Scraper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 100)
    (sample,) = await scraper.scrape([await serve_pod(answer)])
    assert "more than 100 bytes" in (sample.error or "")


async def test_nothing_to_scrape_is_nothing(scraper: Scraper) -> None:
    assert await scraper.scrape([]) == ()


MISSING = {
    "an empty page": "",
    "NaN": PAGE.replace("5.0", "NaN"),
    "half of the queue": PAGE.replace('easel_queue_depth{state="Running"} 2.0\n', ""),
    "infinity": PAGE.replace("5.0", "+Inf"),
    "a negative depth": PAGE.replace("5.0", "-5.0"),
}


@pytest.mark.parametrize("text", MISSING.values(), ids=MISSING.keys())
def test_a_queue_that_is_not_reported_whole_is_missing_and_not_zero(text: str) -> None:
    assert parse_metrics(text).queue is None


def test_absent_figures_are_missing() -> None:
    assert parse_metrics("python_info 1\n") == PodMetrics()


def test_a_server_that_bounds_no_work_leaves_it_unknown_and_not_zero() -> None:
    earlier = "\n".join(line for line in PAGE.splitlines() if "bounded" not in line and "overrunning" not in line)
    read = parse_metrics(earlier)
    assert read.queue == QueueReading(5, 2, 3.5, 21.5, 1.5)
    assert (read.counters.predicted_gpu_seconds, read.counters.bounded_gpu_seconds) == (160.5, None)


def test_add_ons_that_a_worker_cant_have_are_read_by_key_with_the_reason() -> None:
    text = (
        'easel_add_on_unavailable{name="ink",key="0a1b",message="ink (/add-ons) has no \\"ink\\"; correct {it}"} 1.0\n'
        'easel_add_on_unavailable{name="of a later release"} 1.0\n'
    )
    assert parse_metrics(text).add_on_problems == {"0a1b": 'ink (/add-ons) has no "ink"; correct {it}'}


def test_an_address_may_be_ipv6() -> None:
    assert (
        str(module.build_url(ScrapeTarget("pod", "worker", "fd00::7"))) == "http://[fd00::7]:9090/metrics?labels=none"
    )


MALFORMED = {
    "a bucket without its bound": PAGE.replace('{le="1.0"}', '{to="1.0"}'),
    "a bucket whose bound is no number": PAGE.replace('{le="1.0"}', '{le="one"}'),
    "a bucket whose bound is NaN": PAGE.replace('{le="1.0"}', '{le="NaN"}'),
    "a text after a value": PAGE.replace("easel_jobs_in_flight 1.0", "easel_jobs_in_flight 1.0 busy"),
    "a series that comes twice": PAGE + "easel_jobs_submitted_total 40.0\n",
    "a line that ends in the middle": PAGE[: PAGE.index('ucceeded"')],
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
async def test_one_pods_malformed_page_is_counted_and_named_and_the_others_are_read(
    text: str, serve_pod: ServePod, scraper: Scraper, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer_malformed(_: web.Request) -> web.Response:
        return web.Response(text=text)

    before = REGISTRY.get_sample_value("easel_operator_malformed_pages_total") or 0
    malformed, alive = await serve_pod(answer_malformed), await serve_pod(answer)
    for _ in range(2):
        bad, good = await scraper.scrape([malformed, alive])
        assert (bad.metrics, good.metrics) == (None, READ)
        assert bad.error is not None
    assert REGISTRY.get_sample_value("easel_operator_malformed_pages_total") == before + 2
    said = [record.getMessage() for record in caplog.records if record.name.startswith("easel_operator")]
    assert [malformed.pod_name in message for message in said] == [True], "logged once, by its name"


def mutate(random: Random) -> str:
    """The page with one to six changes that a broken exporter or a cut connection may make."""
    text = PAGE
    for _ in range(random.randrange(1, 7)):
        at, to = sorted(random.randrange(len(text) + 1) for _ in range(2))
        to = min(to, at + random.randrange(1, 60))
        lines = text.split("\n")
        match random.randrange(6):
            case 0:
                text = text[:at] + text[to:]
            case 1:
                text = text[:at] + random.choice(JUNK) + text[at:]
            case 2:
                text = text[:at] + random.choice(JUNK) + text[to:]
            case 3:
                text = "\n".join([*lines, random.choice(lines)])
            case 4:
                label = random.choice(re.findall(r"(\w+)=", text) or ["le"])
                text = text.replace(f"{label}=", f"{random.choice(JUNK)}=")
            case _:
                text = re.sub(r"\d+\.\d", lambda _: random.choice(JUNK), text, count=random.randrange(3))
    return text


JUNK = (
    "{",
    "}",
    '"',
    "\\",
    "=",
    ",",
    " ",
    "\t",
    "#",
    "NaN",
    "-1",
    "1e308",
    "+Inf",
    "\x00",
    "\u0665",
    "le",
    "\u2028",
    "0x1",
    "1_0",
)


@given(st.integers(min_value=0, max_value=2**32))
@settings(max_examples=400, deadline=None)
def test_whatever_is_done_to_a_page_it_is_read_or_refused_and_the_planner_goes_on(seed: int) -> None:
    text = mutate(Random(seed))  # noqa: S311 - seeds replay a run
    try:
        read = parse_metrics(text)
    except ValueError:
        return
    pods = PodCounts(desired=1, existing=1, ready=1, starting=0, unschedulable=0)
    observation, state = None, begin_state(1, NOW)
    for seconds, metrics in enumerate((READ, read, READ, read)):
        now = NOW + timedelta(seconds=2 * seconds)
        samples = [PodSample("pod", names.COMPONENT_WORKER, now, metrics)]
        observation = observe(samples, observation, pods, now)
        decision = plan(observation, state, ScalingSpec(max_replicas=8), now)
        state = decision.state
        assert 1 <= decision.desired_replicas <= 8
        assert all(to_quantity(value) for value in to_external_values(decision, observation).values())
