"""The demo, and what it prints while it runs: first image, burst, scale-out, a crash, scale-in, summary."""

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import cluster as clusters
from demo.load import Tally, burst, first_image, forwarded
from demo.observe import Observer, Sighting, kill_a_busy_worker
from demo.plot import plot
from demo.prometheus import ClusterPrometheus

SERVICE = "tiny"
REQUESTS = 100
CLIENTS = 24
STEPS = 40
WORKERS = 4


class Narrator:
    """Prints the story and keeps the time of each phase."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.phases_seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """One line, with the time since the demo began."""
        sys.stdout.write(f"[{time.monotonic() - self._began:6.1f} s] {text}\n")
        sys.stdout.flush()

    def finish(self) -> None:
        """All of it, from the first step to here."""
        self.phases_seconds["total"] = round(time.monotonic() - self._began, 1)

    def phase(self, name: str, seconds: float, text: str) -> None:
        """A phase that ended, and how long it took."""
        self.phases_seconds[name] = round(seconds, 1)
        self.say(f"{text} ({seconds:.1f} s)")


class Table:
    """The live table: a row every five seconds and whenever the number of pods changes; the reason when it is new."""

    HEADER = f"{'queue':>6} {'desired':>8} {'pods':>5} {'ready':>6} {'p95':>8}  why"

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._last: Sighting | None = None
        self.is_on = False

    def show(self, look: Sighting) -> None:
        """Called with every sighting."""
        last = self._last
        pods = (look.desired, look.existing, look.ready)
        if not self.is_on or (
            last and look.at_seconds - last.at_seconds < 5 and pods == (last.desired, last.existing, last.ready)
        ):
            return
        if last is None:
            self._narrator.say(self.HEADER)
        self._last = look
        queue = "-" if look.queue_depth is None else f"{look.queue_depth:.0f}"
        reason = look.reason if last is None or look.reason != last.reason else ""
        latency = "-" if look.latency_p95_seconds is None else f"{look.latency_p95_seconds:.1f} s"
        self._narrator.say(f"{queue:>6} {look.desired:>8} {look.existing:>5} {look.ready:>6} {latency:>8}  {reason}")


@dataclass(frozen=True)
class DemoResult:
    """How the demo went."""

    tally: Tally
    phases_seconds: dict[str, float]

    @property
    def exit_code(self) -> int:
        """0 when nothing was lost."""
        return 1 if self.tally.lost else 0

    def to_record(self) -> dict[str, Any]:
        """The figures, for benchmarks/results/demo.json."""
        return {
            "phases_seconds": self.phases_seconds,
            "load": {"requests": REQUESTS, "clients": CLIENTS, "steps": STEPS},
            "asked": self.tally.asked,
            "delivered": self.tally.delivered,
            "lost": self.tally.lost,
            "latency_p50_seconds": round(self.tally.percentile_seconds(0.5), 2),
            "latency_p95_seconds": round(self.tally.percentile_seconds(0.95), 2),
        }


def run_demo(state: Path, output: Path) -> DemoResult:
    """Runs the whole demo; the cluster stays up. Raises ClusterError or TimeoutError when a step doesn't come."""
    narrator, tally = Narrator(), Tally()
    table = Table(narrator)
    output.mkdir(exist_ok=True)
    cluster = _bring_up(state, narrator)
    with ClusterPrometheus(cluster) as prometheus:
        applied_at = time.time()
        _apply_service(cluster, narrator)
        with forwarded(cluster, SERVICE) as url:
            _show_first_image(url, output / "first.png", narrator)
            with Observer(cluster, SERVICE, table.show) as observer:
                events = asyncio.run(_burst_and_crash(cluster, url, observer, table, tally, narrator))
                _wait_for_scale_in(observer, narrator)
        begun = time.monotonic()
        target_seconds = cluster.get("sds", SERVICE)["spec"]["scaling"]["targetLatencySeconds"]
        files = output / "demand-and-pods.png", output / "dashboard.png"
        plot(observer.sightings, events, files[0], target_latency_seconds=target_seconds)
        _plot_dashboard(prometheus.url, applied_at, files[1])
    _summarise(tally, narrator)
    narrator.phase("plots", time.monotonic() - begun, f"what happened, and as a dashboard: {files[0]}, {files[1]}")
    narrator.finish()
    _how_to_go_on(cluster)
    return DemoResult(tally, narrator.phases_seconds)


def _bring_up(state: Path, narrator: Narrator) -> clusters.Cluster:
    begun = time.monotonic()
    cluster = clusters.start(state)
    narrator.phase("cluster", time.monotonic() - begun, f"a Kubernetes is up ({cluster.kind})")
    begun = time.monotonic()
    clusters.install_chart(cluster)
    narrator.phase("chart_ready", time.monotonic() - begun, "helm install easel: operator and Redis are ready")
    return cluster


def _apply_service(cluster: clusters.Cluster, narrator: Narrator) -> None:
    begun = time.monotonic()
    cluster.kubectl("apply", "-f", str(clusters.ROOT / "examples/tiny.yaml"))
    cluster.kubectl("wait", "--for=condition=Ready", f"sds/{SERVICE}", "--timeout=600s")
    narrator.phase("service_ready", time.monotonic() - begun, "kubectl apply -f examples/tiny.yaml: Ready")


def _show_first_image(url: str, file: Path, narrator: Narrator) -> None:
    begun = time.monotonic()
    file.write_bytes(first_image(url))
    narrator.phase("first_image", time.monotonic() - begun, f"first image through the Service: {file}")


def _plot_dashboard(prometheus_url: str, since: float, file: Path) -> None:
    """The service's Grafana dashboard, from what a real Prometheus has scraped ``since`` (Unix seconds)."""
    words = ("--service", SERVICE, "--from", str(since), "--to", str(time.time()), "--output", file)
    clusters.run(sys.executable, "-m", "dashboards.picture", "--prometheus", prometheus_url, *words)


async def _burst_and_crash(
    cluster: clusters.Cluster, url: str, observer: Observer, table: Table, tally: Tally, narrator: Narrator
) -> dict[str, float]:
    """The burst; one worker is killed when four are ready. Returns moments for the plot."""
    narrator.say(f"a burst: {REQUESTS} images asked for by {CLIENTS} clients at once")
    table.is_on = True
    began = observer.now_seconds
    before = observer.sightings[-1].desired if observer.sightings else 1
    events = {"burst begins": began}
    load = asyncio.create_task(burst(url, tally, requests=REQUESTS, clients=CLIENTS, steps=STEPS))

    def watch() -> None:
        decided = observer.wait_until(lambda look: look.desired > max(before, 1), "scale-out decided", 180)
        narrator.phase("scale_out_decided", decided.at_seconds - began, f"more pods are ordered: {decided.desired}")
        full = observer.wait_until(lambda look: look.ready >= WORKERS, f"{WORKERS} workers ready", 600)
        narrator.phase("pods_ready", full.at_seconds - began, f"{WORKERS} workers are ready")
        victim = kill_a_busy_worker(cluster, SERVICE)
        events["a worker is killed"] = observer.now_seconds
        narrator.say(f"SIGKILL to {victim} while it works")

    await asyncio.to_thread(watch)
    await load
    events["all delivered"] = observer.now_seconds
    narrator.phase("burst", observer.now_seconds - began, f"burst over: {tally.delivered} of {tally.asked} delivered")
    return events


def _wait_for_scale_in(observer: Observer, narrator: Narrator) -> None:
    began = observer.now_seconds
    back = observer.wait_until(lambda look: look.desired == 0 and look.existing == 0, "back to zero pods", 600)
    narrator.phase("back_down", back.at_seconds - began, "nobody asks any more: back to 0 pods")


def _summarise(tally: Tally, narrator: Narrator) -> None:
    narrator.say(f"asked {tally.asked}, delivered {tally.delivered}, lost {tally.lost}")
    for failure in tally.failures[:5]:
        narrator.say(f"  lost: {failure}")
    p50, p95 = tally.percentile_seconds(0.5), tally.percentile_seconds(0.95)
    narrator.say(f"latency as the clients saw it: p50 {p50:.1f} s, p95 {p95:.1f} s")


def _how_to_go_on(cluster: clusters.Cluster) -> None:
    sys.stdout.write(
        f"""
The cluster stays up. To play on:

  export KUBECONFIG={cluster.kubeconfig} PATH={Path(cluster.kubectl_path).parent}:$PATH
  kubectl get sds,pods,hpa -o wide
  kubectl describe sds {SERVICE}
  kubectl port-forward service/{SERVICE} 8080:80 &
  curl -s http://127.0.0.1:8080/v1/images/generations -H 'content-type: application/json' \\
    -d '{{"prompt": "a red fox", "seed": 1}}' | head -c 300

`make demo-down` takes it down and leaves nothing behind.
"""
    )
