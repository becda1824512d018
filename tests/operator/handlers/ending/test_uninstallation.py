"""What the Job before an uninstallation does, and whose Job it takes for one."""

from typing import Any

import pytest
from easel_operator.cluster.capabilities import METRICS_API_SERVICE, Installation
from easel_operator.cluster.client import ApiRefusedError, ApiUnreachableError
from easel_operator.cluster.metrics_endpoint import Registration
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.config import FarewellConfig
from easel_operator.handlers.ending.last_words import LastWords
from easel_operator.handlers.ending.uninstallation import END_SECONDS, Uninstallation
from easel_operator.objects import API_SERVICES, DEPLOYMENTS, JOBS, PODS, Json

from tests.operator.fake_api import FakeApi
from tests.operator.handlers.test_reconciler import PATH, Bench
from tests.operator.objects import NOW, build_service

REGISTRATION = API_SERVICES.path(None, METRICS_API_SERVICE)
DEPLOYMENT = DEPLOYMENTS.path("easel", "easel-operator")
JOB = JOBS.path("easel", "easel-farewell")
POD = PODS.path("easel", "easel-operator-a")
OURS = Installation("easel", "easel-metrics", is_api_wanted=False)
CONFIG = FarewellConfig.from_environment(
    {
        "EASEL_OPERATOR_NAMESPACE": "easel",
        "EASEL_METRICS_SERVICE": "easel-metrics",
        "EASEL_DEPLOYMENT": "easel-operator",
        "EASEL_FAREWELL_JOB": "easel-farewell",
        "EASEL_WATCH_NAMESPACES": "studio",
    }
)


class Installed:
    """An operator that runs, a settled service, a registration, and the Job as its maker left it."""

    def __init__(self, bench: Bench, *, maker: str) -> None:
        self.api = bench.api
        self.seconds = 0.0
        self.ends_after: float | None = 3.0  # None: never
        target = {"namespace": "easel", "name": "easel-metrics"}
        self.api.store(REGISTRATION, {"metadata": {"name": METRICS_API_SERVICE}, "spec": {"service": target}})
        labels = {"app.kubernetes.io/component": "operator"}
        spec = {"replicas": 2, "selector": {"matchLabels": labels}}
        self.api.store(DEPLOYMENT, {"metadata": {"name": "easel-operator"}, "spec": spec})
        self.api.store(POD, {"metadata": {"name": "easel-operator-a", "labels": labels}})
        made = [{"manager": maker}, {"manager": "kube-controller-manager", "subresource": "status"}]
        self.api.store(JOB, {"metadata": {"name": "easel-farewell", "managedFields": made}})
        last_words = LastWords(
            ClusterWriter(bench.api, bench.children, pod_name="farewell", clock=lambda: NOW),
            give_back=Registration(bench.api, OURS).give_back,
            clock=lambda: NOW,
        )
        self.uninstallation = Uninstallation(
            bench.api, last_words, CONFIG, monotonic=lambda: self.seconds, sleep=self.pass_time
        )

    @classmethod
    async def begin(cls, *, maker: str = "helm") -> "Installed":
        bench = Bench(FakeApi())
        bench.submit(build_service())
        await bench.settle()
        return cls(bench, maker=maker)

    async def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        if self.ends_after is not None and self.seconds >= self.ends_after:
            self.api.objects.pop(POD, None)

    @property
    def replicas(self) -> int:
        return int(self.api.objects[DEPLOYMENT]["spec"]["replicas"])

    def read_ready(self) -> tuple[str, str]:
        conditions: list[Json] = self.api.objects[PATH]["status"]["conditions"]
        ready = next(each for each in conditions if each["type"] == "Ready")
        return ready["status"], ready["reason"]


# Helm names its field manager after its program; Flux, Terraform and Argo CD after theirs.
@pytest.mark.parametrize("maker", ["helm", "helm-controller", "terraform-provider-helm_v3", "argocd-controller"])
async def test_operators_end_first_then_services_say_so_and_the_metrics_api_is_given_back(maker: str) -> None:
    installed = await Installed.begin(maker=maker)
    await installed.uninstallation.prepare()
    assert installed.replicas == 0
    assert POD not in installed.api.objects
    assert installed.read_ready() == ("Unknown", "OperatorGone")
    assert REGISTRATION not in installed.api.objects
    order = [path for _, path in installed.api.writes]
    assert order.index(DEPLOYMENT) < order.index(f"{PATH}/status", order.index(DEPLOYMENT)) < order.index(REGISTRATION)


@pytest.mark.parametrize("maker", ["kubectl", "kubectl-client-side-apply", "kustomize-controller", "pulumi-kubernetes"])
async def test_a_job_that_came_with_a_rendered_installation_does_nothing_and_says_why(
    maker: str, caplog: pytest.LogCaptureFixture
) -> None:
    installed = await Installed.begin(maker=maker)
    before, ready = len(installed.api.writes), installed.read_ready()
    await installed.uninstallation.prepare()
    assert installed.api.writes[before:] == []
    assert (installed.replicas, installed.read_ready()) == (2, ready)
    assert f"was made by {maker}" in caplog.text
    assert "helm template --no-hooks" in caplog.text


async def test_an_operator_that_doesn_t_end_is_not_waited_for_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    installed = await Installed.begin()
    installed.ends_after = None
    await installed.uninstallation.prepare()
    assert END_SECONDS <= installed.seconds < END_SECONDS + 2
    assert "Still there after 75 s: easel-operator-a" in caplog.text
    assert installed.read_ready() == ("Unknown", "OperatorGone")
    assert REGISTRATION not in installed.api.objects


async def test_an_operator_that_said_it_all_itself_leaves_nothing_to_write() -> None:
    installed = await Installed.begin()
    await installed.uninstallation.prepare()
    del installed.api.objects[DEPLOYMENT]
    before = len(installed.api.writes)
    await installed.uninstallation.prepare()
    assert installed.api.writes[before:] == []


async def test_an_api_of_another_adapter_stays() -> None:
    installed = await Installed.begin()
    keda: Any = {"metadata": {"name": METRICS_API_SERVICE}, "spec": {"service": {"namespace": "keda", "name": "keda"}}}
    installed.api.store(REGISTRATION, keda)
    await installed.uninstallation.prepare()
    assert installed.api.objects[REGISTRATION]["spec"] == keda["spec"]


async def test_rights_that_are_missing_cost_only_what_they_are_for(caplog: pytest.LogCaptureFixture) -> None:
    installed = await Installed.begin()

    def refuse(method: str, path: str) -> Exception | None:
        is_refused = method == "PATCH" and path == DEPLOYMENT
        return ApiRefusedError(method, path, 403, "Forbidden", "not allowed") if is_refused else None

    installed.api.fault = refuse
    await installed.uninstallation.prepare()
    assert "Operators may still run" in caplog.text
    assert installed.read_ready() == ("Unknown", "OperatorGone")
    assert REGISTRATION not in installed.api.objects


@pytest.mark.parametrize("since", ["the beginning", "the operators ended"])
async def test_an_api_server_that_is_away_keeps_no_installation(since: str, caplog: pytest.LogCaptureFixture) -> None:
    installed = await Installed.begin()

    def refuse(method: str, path: str) -> Exception | None:
        is_away = since == "the beginning" or POD not in installed.api.objects
        return ApiUnreachableError(method, path, TimeoutError()) if is_away else None

    installed.api.fault = refuse
    await installed.uninstallation.prepare()
    if since == "the beginning":
        assert "Nothing is done, as who made this Job isn't known" in caplog.text
    else:
        assert "Services of namespace studio can't be told" in caplog.text
        assert "stays registered" in caplog.text
