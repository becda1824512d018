"""What the demo shows, asserted: images through the Service, workers that follow the work, nothing lost.

A Prometheus watches, and every query of the shipped dashboards must have something to show of it.
"""

import asyncio
import time

import httpx2

from demo.load import Tally, burst, first_image, forwarded
from demo.observe import Observer, kill_a_busy_worker
from demo.prometheus import ClusterPrometheus
from tests.e2e.dashboard_queries import WITHOUT_DATA, find_unanswered, write_plots
from tests.e2e.waiting import Services, tiny


def test_from_apply_to_images_out_to_four_workers_and_back_to_zero_with_a_crash(services: Services) -> None:
    with ClusterPrometheus(services.cluster) as prometheus:
        began = time.time()
        name = services.apply(tiny("tiny", worker__pricePerGpuHour=2.5))
        services.wait_for(name, "Ready", "True", timeout_seconds=120)
        follow_the_work(services, name)
        ended = time.time()
        write_plots(prometheus.url, name, began, ended)
        unanswered = find_unanswered(prometheus.url, name, began, ended)
    assert unanswered - set(WITHOUT_DATA) == set()


def follow_the_work(services: Services, name: str) -> None:
    tally = Tally()
    with forwarded(services.cluster, name) as url, Observer(services.cluster, name, lambda _: None) as observer:
        refused = httpx2.post(f"{url}/v1/images/generations", json={"prompt": "an easel", "size": "7x7"})
        assert refused.status_code == 400
        assert first_image(url).startswith(b"\x89PNG")

        async def load_and_crash() -> None:
            load = asyncio.create_task(burst(url, tally, requests=100, clients=20, steps=40))
            await asyncio.to_thread(observer.wait_until, lambda look: look.ready >= 3, "three workers ready", 300)
            await asyncio.to_thread(kill_a_busy_worker, services.cluster, name)
            await load

        asyncio.run(load_and_crash())
        assert (tally.asked, tally.delivered, tally.failures) == (100, 100, [])
        assert max(look.desired for look in observer.sightings) == 4
        ordered = [look for look in observer.sightings if look.desired == 4]
        assert "4 pods" in ordered[-1].reason, "the last decision is in the status"

        idle = observer.wait_until(lambda look: look.desired == look.existing == 0, "back to zero", 300)
        assert idle.queue_depth == 0
        services.wait_for(name, "Ready", "True", "ScaledToZero")
        reported = services.cluster.get("sds", name)["status"]["termination"]
        assert reported["longestJobSeconds"] >= 1, "workers that are gone have reported how long their jobs took"

        # And from zero again, by the first request.
        assert first_image(url, seed=8).startswith(b"\x89PNG")
