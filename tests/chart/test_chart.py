"""The chart as Helm renders it: what an administrator would check before installing it."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from easel_contract.crd import build_crd
from easel_contract.resource import StableDiffusionServiceSpec

from demo.cluster import devcluster_binary

CHART = Path(__file__).resolve().parents[2] / "helm/easel"

pytestmark = pytest.mark.cluster  # helm comes with the embedded cluster's binary


@pytest.fixture(scope="session")
def helm() -> str:
    return str(Path(devcluster_binary()).parent / "helm")


def render(helm: str, *settings: str) -> subprocess.CompletedProcess[str]:
    words = [helm, "template", "easel", str(CHART), "--namespace", "easel-system"]
    for setting in settings:
        words += ["--set", setting]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def objects(helm: str, *settings: str) -> list[dict[str, Any]]:
    done = render(helm, *settings)
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def of_kind(rendered: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in rendered if item["kind"] == kind]


def test_the_crd_is_the_contracts_and_stays_when_the_release_goes(helm: str) -> None:
    (crd,) = of_kind(objects(helm), "CustomResourceDefinition")
    assert crd["spec"] == build_crd()["spec"]
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_notes_apply_the_example_where_the_operator_looks(helm: str) -> None:
    def notes(*settings: str) -> str:
        words = [helm, "install", "easel", str(CHART), "--namespace", "easel-system", "--dry-run=client", *settings]
        environment = {**os.environ, "KUBECONFIG": os.devnull}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("NOTES:")[2]

    narrowed = notes("--set", "operator.watchNamespaces={team-a,team-b}")
    assert "these namespaces only (operator.watchNamespaces): team-a, team-b." in narrowed
    commands = [line for line in narrowed.splitlines() if line.startswith("  kubectl")]
    assert [" -n team-a " in command for command in commands] == [True] * 3
    assert " -n " not in notes()


def test_a_second_release_for_another_team_shares_no_object_with_the_first(helm: str) -> None:
    first = render(helm, "operator.watchNamespaces={team-a}")
    words = [helm, "template", "easel-b", str(CHART), "--namespace", "easel-b", "--set", "crd.install=false"]
    words += ["--set", "operator.watchNamespaces={team-b}", "--set", "externalMetrics.mode=Disabled"]
    second = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    found = [
        {
            (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
            for item in yaml.safe_load_all(out)
            if item
        }
        for out in (first.stdout, second.stdout)
    ]
    assert found[0] & found[1] == set()
    assert any(kind == "ClusterRole" for kind, _, _ in found[1])


def test_values_of_an_earlier_chart_still_install_the_crd(helm: str) -> None:
    """As ``helm upgrade --reuse-values`` brings them."""
    rendered = objects(helm, "crd=null", "monitoring=null")
    assert len(of_kind(rendered, "CustomResourceDefinition")) == 1


def test_pods_satisfy_the_restricted_pod_security_standard(helm: str) -> None:
    workloads = [item for item in objects(helm) if item["kind"] in {"Deployment", "StatefulSet"}]
    assert len(workloads) == 2
    for workload in workloads:
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]
            assert container["livenessProbe"]
            assert container["readinessProbe"]


def test_the_operator_may_do_what_it_needs_and_no_more(helm: str) -> None:
    rendered = objects(helm)
    rules = [rule for role in of_kind(rendered, "ClusterRole") for rule in role["rules"]]
    assert all("*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]] for rule in rules)
    on_secrets = [rule["verbs"] for rule in rules if "secrets" in rule["resources"]]
    assert on_secrets, "the operator writes Secrets"
    assert not any({"list", "watch"} & set(verbs) for verbs in on_secrets), "it must not read everybody's"


def find_bound(rendered: list[dict[str, Any]], kind: str) -> dict[str | None, set[str]]:
    """The operator's ClusterRoles by the namespace that they are bound in."""
    found: dict[str | None, set[str]] = {}
    for binding in of_kind(rendered, kind):
        if binding["roleRef"]["kind"] == "ClusterRole":
            found.setdefault(binding["metadata"].get("namespace"), set()).add(binding["roleRef"]["name"])
    return found


def test_nobody_is_bound_to_secrets_in_the_whole_cluster(helm: str) -> None:
    """The operator binds itself where services live, to one role alone."""
    rendered = objects(helm)
    assert find_bound(rendered, "ClusterRoleBinding") == {None: {"easel-operator", "easel-operator-services"}}
    assert find_bound(rendered, "RoleBinding") == {}
    roles = {each["metadata"]["name"]: each["rules"] for each in of_kind(rendered, "ClusterRole")}
    with_secrets = {name for name, rules in roles.items() for rule in rules if "secrets" in rule["resources"]}
    assert with_secrets == {"easel-operator-secrets"}
    on_rbac = [rule for rule in roles["easel-operator"] if "rbac.authorization.k8s.io" in rule["apiGroups"]]
    for rule in on_rbac:
        if rule["verbs"] != ["get"]:
            assert rule["resourceNames"] == ["easel-operator-secrets"]
    environment = read_environment(rendered)
    assert environment["EASEL_SECRETS_ROLE"] == "easel-operator-secrets"
    assert environment["EASEL_SERVICE_ACCOUNT"] == "easel-operator"


def test_watched_namespaces_narrow_the_rights(helm: str) -> None:
    rendered = objects(helm, "operator.watchNamespaces={team-b,team-a,team-b}")
    assert find_bound(rendered, "ClusterRoleBinding") == {None: {"easel-operator"}}
    both = {"easel-operator-services", "easel-operator-watched-secrets"}
    assert find_bound(rendered, "RoleBinding") == {"team-a": both, "team-b": both}
    (role,) = [each for each in of_kind(rendered, "ClusterRole") if each["metadata"]["name"] == "easel-operator"]
    unnamed = {
        (resource, verb)
        for rule in role["rules"]
        if "resourceNames" not in rule
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    # To see services that nobody looks after, and to say so to their team.
    services = "stablediffusionservices"
    assert unnamed == {(services, "get"), (services, "list"), ("events", "create")}
    verbs = {verb for rule in role["rules"] for verb in rule["verbs"]}
    assert "bind" not in verbs
    assert "EASEL_SECRETS_ROLE" not in read_environment(rendered)
    names = {(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in rendered}
    assert len(names) == len(rendered)


def test_no_way_of_installing_can_take_the_external_metrics_api_from_another_adapter(helm: str) -> None:
    """The operator registers it at run time, where nobody has it; what is rendered would be applied over anybody's."""
    assert of_kind(objects(helm), "APIService") == []
    (operator,) = of_kind(objects(helm, "externalMetrics.mode=Disabled"), "Deployment")
    environment = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "EASEL_EXTERNAL_METRICS", "value": "Disabled"} in environment


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("redis.existingSecret=team-redis", "monitoring.enabled=true"),
        ("redis.url=redis://u:p@cache.example/0", "externalMetrics.mode=Disabled", "operator.watchNamespaces={b,a}"),
    ],
)
def test_two_renders_are_equal_byte_for_byte(helm: str, settings: tuple[str, ...]) -> None:
    first, second = render(helm, *settings), render(helm, *settings)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    # What only refuses, and renders nothing, may look at the cluster.
    rendering = [path for path in (CHART / "templates").rglob("*.*") if path.name != "_checks.tpl"]
    templates = "".join(path.read_text() for path in rendering)
    unstable = ("lookup ", "randAlpha", "randNumeric", "randAscii", "randBytes", "uuidv4", "genCA", "genPriv", "now ")
    assert [word for word in unstable if word in templates] == [], "a render that sees a cluster or a clock is another"


def read_environment(rendered: list[dict[str, Any]]) -> dict[str, Any]:
    """The operator's variables."""
    (operator,) = of_kind(rendered, "Deployment")
    entries = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    return {entry["name"]: entry.get("value") for entry in entries}


def test_ones_own_redis_replaces_the_charts(helm: str) -> None:
    rendered = objects(helm, "redis.url=rediss://user:word@cache.example:6380/0")
    assert of_kind(rendered, "StatefulSet") == []
    (secret,) = of_kind(rendered, "Secret")
    assert secret["stringData"] == {"url": "rediss://user:word@cache.example:6380/0"}
    assert read_environment(rendered)["EASEL_REDIS_SECRET"] == secret["metadata"]["name"]

    rendered = objects(helm, "redis.urlSecretName=my-redis")
    assert of_kind(rendered, "Secret") == []
    environment = read_environment(rendered)
    assert environment["EASEL_REDIS_SECRET"] == "my-redis"
    assert "EASEL_REDIS_SERVERS" not in environment, "the operator keeps no password of it"
    pods = [rule for role in of_kind(rendered, "Role") for rule in role["rules"] if "pods" in rule["resources"]]
    assert [rule["verbs"] for rule in pods] == [["list"]], "nor may it delete any pod"


def test_the_password_of_users_own_secret_reaches_the_operator(helm: str) -> None:
    environment = read_environment(objects(helm, "redis.existingSecret=team", "redis.existingSecretPasswordKey=word"))
    assert environment["EASEL_REDIS_PASSWORD_SECRET"] == "team"
    assert environment["EASEL_REDIS_PASSWORD_KEY"] == "word"
    assert environment["EASEL_REDIS_SERVERS"] == "easel-redis.easel-system.svc:6379"


def test_redis_waits_for_its_password_rather_than_to_start_without(helm: str) -> None:
    rendered = objects(helm)
    (secret,) = of_kind(rendered, "Secret")
    assert {"data", "stringData"} & set(secret) == set()
    (redis,) = of_kind(rendered, "StatefulSet")
    (users,) = [volume for volume in redis["spec"]["template"]["spec"]["volumes"] if volume["name"] == "users"]
    assert users["secret"] == {
        "secretName": secret["metadata"]["name"],
        "items": [{"key": "users.conf", "path": "users.conf"}],
    }
    (mount,) = [
        mount["mountPath"]
        for mount in redis["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        if mount["name"] == "users"
    ]
    assert read_redis_configuration(rendered).startswith(f"include {mount}/users.conf\n")
    assert read_environment(rendered)["EASEL_REDIS_STATEFUL_SET"] == redis["metadata"]["name"]


def test_redis_is_reached_by_no_pod_for_a_label_that_anybody_may_set(helm: str) -> None:
    """Services' pods are let in by the policy that the operator keeps beside this one."""
    (policy,) = [
        each
        for each in of_kind(objects(helm), "NetworkPolicy")
        if each["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "redis"
    ]
    assert policy["metadata"]["name"] == read_environment(objects(helm))["EASEL_REDIS_SECRET"], "the operator finds it"
    (rule,) = policy["spec"]["ingress"]
    (source,) = rule["from"]
    assert "namespaceSelector" not in source
    assert source["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"


def find_policy(rendered: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    found = [each["spec"] for each in of_kind(rendered, "NetworkPolicy") if each["metadata"]["name"] == name]
    return found[0] if found else None


def test_the_operator_has_a_policy_where_it_is_asked_for(helm: str) -> None:
    assert find_policy(objects(helm), "easel-operator") is None
    assert find_policy(objects(helm, "networkPolicy.operator=null"), "easel-operator") is None, (
        "values of an earlier chart"
    )
    on = "networkPolicy.operator.enabled=true"
    policy = find_policy(objects(helm, on), "easel-operator")
    assert policy is not None
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": "metrics-api"}]]
    ports = [[each["port"] for each in rule["ports"]] for rule in policy["egress"]]
    assert ports == [[53, 53, 5353, 5353], [443, 6443], ["metrics"], ["redis"]]
    team = ["monitors[0].namespaceSelector.matchLabels.team=see", "egress[0].ports[0].port=9090"]
    url = "redis.url=redis://r.example:6380/0"
    policy = find_policy(objects(helm, on, url, *(f"networkPolicy.operator.{each}" for each in team)), "easel-operator")
    assert policy is not None
    assert policy["ingress"][1]["from"] == [{"namespaceSelector": {"matchLabels": {"team": "see"}}}]
    assert policy["egress"][-1] == {"ports": [{"port": 9090}]}
    assert "redis" not in str(policy["egress"]), "it is your own"


def read_redis_configuration(rendered: list[dict[str, Any]]) -> str:
    (config,) = of_kind(rendered, "ConfigMap")
    return str(config["data"]["valkey.conf"])


def test_another_version_of_the_chart_alone_does_not_restart_redis(helm: str, tmp_path: Path) -> None:
    later = tmp_path / "easel"
    shutil.copytree(CHART, later)
    description = (later / "Chart.yaml").read_text()
    (later / "Chart.yaml").write_text(
        re.sub(r"^(version|appVersion): .*$", r"\1: 7.7.7", description, flags=re.MULTILINE)
    )
    words = [helm, "template", "easel", str(later), "--namespace", "easel-system"]
    rendered = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    (now,) = of_kind(objects(helm), "StatefulSet")
    (then,) = of_kind([item for item in yaml.safe_load_all(rendered) if item], "StatefulSet")
    assert then["metadata"]["labels"]["app.kubernetes.io/version"] == "7.7.7"
    assert then["spec"] == now["spec"]


def test_redis_keeps_queued_jobs_when_memory_runs_out(helm: str) -> None:
    configuration = read_redis_configuration(objects(helm))
    assert "maxmemory-policy noeviction" in configuration
    assert "appendonly yes" in configuration


@pytest.mark.parametrize("settings", [(), ("redis.url=redis://u:p@c/0",), ("monitoring.enabled=true",)])
def test_helm_s_own_linter_finds_nothing(helm: str, settings: tuple[str, ...]) -> None:
    words = [helm, "lint", "--strict", str(CHART), *(word for setting in settings for word in ("--set", setting))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert not {"[INFO]", "[WARNING]", "[ERROR]"} & set(done.stdout.split()), done.stdout


def test_the_chart_s_icon_is_where_it_says() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["icon"].endswith("/helm/easel/icon.svg")
    assert (CHART / "icon.svg").read_text().startswith("<svg ")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("operator.replicas=0", "operator"),
        ("redis.url=http://nope", "url"),
        ("redis.maxmemory=1gb", "maxmemory"),
        ("redis.maxMemory=1Gi", "redis.maxMemory is 1Gi: write a number of bytes with kb, mb or gb"),
        ("redis.maxMemory=2gb", "Redis would be killed before it refuses what is too much"),
        ("redis.maxMemory=4096MB", "Redis would be killed before it refuses what is too much"),
        ("redis.persistence.size=8GB", "redis.persistence.size is 8GB, which is no quantity of Kubernetes"),
        ("redis.persistence.size=8GB", "such as 8Gi"),
        ("operator.resources.limits.memory=512MB", "operator.resources.limits.memory is 512MB"),
        ("operator.resources.limits.memory=512MB", "such as 512Mi"),
        ("redis.resources.requests.memory=half a gig", "no quantity of Kubernetes"),
        ("defaults.worker.resources.limits.memory=32 gb", "such as 32Gi"),
        ("externalMetrics.mode=Maybe", "mode"),
        ("operator.watchNamespaces={studio_b}", "operator/watchNamespaces/0"),
        ("defaults.downloads.proxy.address=http://u:p@proxy:3128", "proxy/address"),
        ("helmTest.enabled=true,operator.watchNamespaces={a}", "easel-system, where the operator doesn't look"),
        ("redis.existingSecret=team,redis.url=redis://u:p@c", "redis.existingSecret is the password of the Redis that"),
    ],
)
def test_a_wrong_value_is_named(helm: str, setting: str, words: str) -> None:
    done = render(helm, setting)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize(
    "setting",
    [
        "redis.maxMemory=512MB",
        "redis.maxMemory=1073741824",
        "redis.persistence.size=1.5Ti",
        "operator.resources.limits.cpu=1500m",
        "operator.resources.limits.memory=1e9",
        "redis.resources=null",
    ],
)
def test_what_kubernetes_and_redis_take_the_chart_takes(helm: str, setting: str) -> None:
    done = render(helm, setting)
    assert done.returncode == 0, done.stderr


def test_a_number_of_bytes_in_a_file_of_values_stays_one(helm: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("redis: {maxMemory: 1073741824}\n")
    words = [helm, "template", "easel", str(CHART), "--namespace", "easel-system", "--values", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "maxmemory 1073741824\n" in done.stdout


def test_what_helm_test_runs_is_rendered_only_where_it_is_asked_for(helm: str) -> None:
    """What is rendered may be applied by kubectl, which knows no hooks: the service would stay."""
    hooks = [item["metadata"].get("annotations", {}).get("helm.sh/hook") for item in objects(helm)]
    assert {hook for hook in hooks if hook} == {"pre-delete"}, "whose Job looks who made it"
    watched = [
        item
        for item in objects(helm, "helmTest.enabled=true", "operator.watchNamespaces={team-a,easel-system}")
        if item["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"
    ]
    assert {item["kind"] for item in watched} == {"StableDiffusionService", "Pod"}
    (service,) = of_kind(watched, "StableDiffusionService")
    StableDiffusionServiceSpec.model_validate(service["spec"])
    (pod,) = of_kind(watched, "Pod")
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


def test_the_operator_asks_a_prometheus_only_where_one_is_named(helm: str) -> None:
    def environment(*settings: str) -> dict[str, Any]:
        deployments = of_kind(objects(helm, *settings), "Deployment")
        (operator,) = (item for item in deployments if item["metadata"]["name"].endswith("operator"))
        return {item["name"]: item for item in operator["spec"]["template"]["spec"]["containers"][0]["env"]}

    assert not [name for name in environment() if "PROMETHEUS" in name]
    named = environment("operator.prometheus.url=http://prometheus:9090", "operator.prometheus.tokenSecretName=reader")
    assert named["EASEL_PROMETHEUS_URL"]["value"] == "http://prometheus:9090"
    # A Secret that is missing must not keep the operator from starting.
    reference = {"name": "reader", "key": "token", "optional": True}
    assert named["EASEL_PROMETHEUS_TOKEN"]["valueFrom"] == {"secretKeyRef": reference}


def test_two_operators_by_default_which_no_drain_takes_together(helm: str) -> None:
    rendered = objects(helm)
    (operator,) = of_kind(rendered, "Deployment")
    assert operator["spec"]["replicas"] == 2
    pod = operator["spec"]["template"]["spec"]
    labels = operator["spec"]["template"]["metadata"]["labels"]
    assert [each["topologyKey"] for each in pod["topologySpreadConstraints"]] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    for constraint in pod["topologySpreadConstraints"]:
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway", "one node is enough"
        assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()
    (budget,) = [
        each for each in of_kind(rendered, "PodDisruptionBudget") if each["metadata"]["name"].endswith("operator")
    ]
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"] == operator["spec"]["selector"]
    assert "priorityClassName" not in pod

    (important,) = of_kind(objects(helm, "operator.priorityClassName=system-cluster-critical"), "Deployment")
    assert important["spec"]["template"]["spec"]["priorityClassName"] == "system-cluster-critical"
    alone = of_kind(objects(helm, "operator.replicas=1"), "PodDisruptionBudget")
    assert not any(each["metadata"]["name"].endswith("operator") for each in alone), "a drain would wait for ever"


def test_the_operator_knows_its_own_deployment_and_may_ask_for_it(helm: str) -> None:
    rendered = objects(helm)
    (operator,) = of_kind(rendered, "Deployment")
    name = operator["metadata"]["name"]
    environment = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "EASEL_DEPLOYMENT", "value": name} in environment
    (role,) = [each for each in of_kind(rendered, "Role") if each["metadata"]["name"] == name]
    rules = {
        (group, resource): rule
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rules["apps", "deployments"]["resourceNames"] == [name]
    assert rules["discovery.k8s.io", "endpointslices"]["verbs"] == ["list"]
