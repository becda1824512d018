"""What a service is told of ways in that its cluster doesn't have, and which names it may be called by."""

import json
from dataclasses import replace
from typing import cast

from easel_contract.conditions import Reason
from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.decide.reconcile import decide
from easel_operator.manifests.children import build_children
from easel_operator.manifests.configuration import build_config_map
from easel_operator.manifests.metadata import ChildContext
from easel_operator.objects import Json, ObjectKey

from tests.operator.decide.test_conditions import FIXED, GATEWAY, WORKER, build_running, find
from tests.operator.objects import CAPABLE, HUB_MODEL, OWNER, RELEASE, build_service, build_snapshot

ROUTE = {"httpRoute": {"parentRefs": [{"name": "public"}], "hosts": ["images.example.com"]}}
NO_ROUTES = replace(CAPABLE, unserved_kinds=frozenset({"HTTPRoute"}))


def test_a_cluster_without_the_gateway_api_is_said_and_everything_else_is_made() -> None:
    plan = decide(build_snapshot(build_service({**FIXED, "gateway": ROUTE}), capabilities=NO_ROUTES))
    assert "HTTPRoute" not in {child["kind"] for child in plan.applies}
    assert {"Service", "Deployment"} <= {child["kind"] for child in plan.applies}
    progressing = find(plan, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", Reason.APPLY_FAILED)
    assert "doesn't have gateway.networking.k8s.io/v1 HTTPRoute: install its CRDs" in progressing["message"]


def test_a_service_that_runs_is_ready_inside_the_cluster_meanwhile() -> None:
    service = build_service({**FIXED, "gateway": ROUTE})
    snapshot = replace(build_running(service, GATEWAY, WORKER), capabilities=NO_ROUTES)
    ready = find(decide(snapshot), "Ready")
    assert ready["status"] == "True"
    assert "HTTPRoute" in ready["message"]


def test_services_that_ask_for_no_route_are_not_concerned() -> None:
    snapshot = replace(build_running(build_service(FIXED), GATEWAY, WORKER), capabilities=NO_ROUTES)
    assert find(decide(snapshot), "Ready")["reason"] == Reason.AVAILABLE


def test_a_cluster_without_the_prometheus_operator_is_said_and_everything_else_is_made() -> None:
    kinds = frozenset({"PodMonitor", "PrometheusRule"})
    service = build_service({**FIXED, "monitoring": {}})
    plan = decide(build_snapshot(service, capabilities=replace(CAPABLE, unserved_kinds=kinds)))
    made = {child["kind"] for child in plan.applies}
    assert not made & kinds
    assert "Deployment" in made
    assert "doesn't have monitoring.coreos.com/v1 PodMonitor: install its CRDs" in find(plan, "Progressing")["message"]
    assert kinds <= {child["kind"] for child in decide(build_snapshot(service)).applies}


def read_public_url(gateway: Json) -> str | None:
    spec = StableDiffusionServiceSpec.model_validate({"model": HUB_MODEL, "replicas": 1, "gateway": gateway})
    files = build_config_map(ChildContext(OWNER, spec, RELEASE, 60))["data"]
    return cast("str | None", json.loads(files["gateway.json"]).get("gateway", {}).get("publicUrl"))


def test_links_begin_with_the_host_of_an_ingress_that_ends_tls_unless_another_is_named() -> None:
    ingress = {"hosts": ["*.b.example", "a.example"], "tlsSecretName": "tls"}
    assert read_public_url({"ingress": ingress}) == "https://a.example"
    assert read_public_url({"ingress": ingress, "publicUrl": "https://c.example"}) == "https://c.example"
    assert read_public_url({"ingress": {"hosts": ["*.b.example"], "tlsSecretName": "tls"}}) is None
    assert read_public_url({"ingress": {"hosts": ["a.example"]}}) is None, "as it was called"
    assert read_public_url(ROUTE) is None, "whether the Gateway ends TLS, the route doesn't say"


def list_allowed(gateway: Json) -> list[str]:
    spec = StableDiffusionServiceSpec.model_validate({"model": HUB_MODEL, "replicas": 1, "gateway": gateway})
    files = build_config_map(ChildContext(OWNER, spec, RELEASE, 60))["data"]
    hosts: list[str] = json.loads(files["gateway.json"])["gateway"]["allowedHosts"]
    return hosts


def test_a_service_may_be_called_by_the_names_that_lead_to_it_without_listing_them_twice() -> None:
    ingress = {"hosts": ["a.example", "images.example.com"]}
    own = list_allowed({})
    assert list_allowed({"ingress": ingress, **ROUTE}) == [*own, "a.example", "images.example.com"]


def test_as_many_names_as_the_resource_takes_are_no_fault_of_the_operators() -> None:
    listed = [f"h{number}.example" for number in range(64)]
    served = {"hosts": [f"i{number}.example" for number in range(16)]}
    route = {"httpRoute": {"parentRefs": [{"name": "public"}], "hosts": [f"r{number}.example" for number in range(16)]}}
    assert len(list_allowed({"allowedHosts": listed, "ingress": served, **route})) == 4 + 64 + 32


def test_a_stranger_with_the_name_of_the_workers_leaves_the_gateways_their_autoscaler() -> None:
    spec = {"model": HUB_MODEL, "scaling": {"maxReplicas": 8}, "gateway": {"autoscaling": {"maxReplicas": 4}}}
    snapshot = build_running(build_service(spec), GATEWAY, WORKER)
    autoscalers = {key for key in snapshot.children if key.kind == "HorizontalPodAutoscaler"}
    assert {key.name for key in autoscalers} == {"painter-gateway", "painter-worker"}
    key = ObjectKey("Deployment", "studio", "painter-worker")
    stranger = {**snapshot.children[key], "metadata": {**snapshot.children[key]["metadata"], "ownerReferences": []}}
    plan = decide(replace(snapshot, children={**snapshot.children, key: stranger}))
    assert [each.name for each in plan.deletes] == ["painter-worker"]


def test_the_number_of_gateways_is_handed_over_before_an_autoscaler_takes_it() -> None:
    before = build_running(build_service(FIXED), GATEWAY, WORKER)
    key = ObjectKey("Deployment", "studio", "painter-gateway")
    live = before.children[key]
    ours = {"manager": "easel-operator", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    live = {**live, "metadata": {**live["metadata"], "managedFields": [ours]}}
    after = build_service({**FIXED, "gateway": {"autoscaling": {"maxReplicas": 4}}})
    plan = decide(replace(before, service=after, children={**before.children, key: live}))
    assert [(each.key.name, each.replicas) for each in plan.handovers] == [("painter-gateway", 2)]
    applied = next(child for child in plan.applies if child["kind"] == "Deployment")
    assert "replicas" not in applied["spec"]


def build_policies(policy: Json, model: Json = HUB_MODEL) -> dict[str, Json]:
    """By role."""
    spec = StableDiffusionServiceSpec.model_validate({"model": model, "replicas": 1, "networkPolicy": policy})
    context = ChildContext(OWNER, spec, replace(RELEASE, operator_namespace="easel-system"), 60)
    children = build_children(context, has_hpa=False, is_tolerance_supported=True)
    policies = [child for child in children if child["kind"] == "NetworkPolicy"]
    return {each["metadata"]["name"].removeprefix("painter-"): each["spec"] for each in policies}


def read_rules(policy: Json) -> dict[str, dict[str, list[Json] | None]]:
    """By role: which port is open to whom; None is anybody."""
    return {
        role: {rule["ports"][0]["port"]: rule.get("from") for rule in spec["ingress"]}
        for role, spec in build_policies(policy).items()
    }


def test_a_policy_lets_clients_to_gateways_and_the_operator_and_monitors_to_metrics_and_nobody_else() -> None:
    clients: list[Json] = [{"namespaceSelector": {"matchLabels": {"team": "art"}}}]
    monitors: list[Json] = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "easel-system"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "easel", "app.kubernetes.io/component": "operator"}},
    }
    assert read_rules({"clients": clients, "monitors": monitors}) == {
        "gateway": {"http": clients, "metrics": [operator, *monitors]},
        "worker": {"metrics": [operator, *monitors]},
    }
    assert read_rules({})["gateway"] == {"http": None, "metrics": [operator]}, "anybody may call, not anybody may read"


def test_where_pods_may_go_is_left_alone_until_a_rule_is_set() -> None:
    assert {tuple(spec["policyTypes"]) for spec in build_policies({}).values()} == {("Ingress",)}


def test_with_egress_rules_pods_go_to_dns_and_redis_and_where_the_rules_say() -> None:
    hub: Json = {"ports": [{"port": 443}], "to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}
    for spec in build_policies({"egress": [hub]}).values():
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        dns, redis, own = spec["egress"]
        assert {(each["port"], each["protocol"]) for each in dns["ports"]} >= {(53, "UDP"), (53, "TCP")}
        assert [each["port"] for each in redis["ports"]] == [6379]
        (charts,) = redis["to"]
        assert charts["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "easel-system"}}
        assert charts["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "redis"
        assert own == hub


def test_the_job_that_fills_a_models_cache_has_a_policy_and_no_way_to_redis() -> None:
    cached = {**HUB_MODEL, "cache": {"size": "1Gi"}}
    policies = build_policies({"egress": []}, cached)
    assert policies.keys() == {"gateway", "worker", "models"}
    job = policies["models"]
    assert job["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "model-cache"
    assert [rule["ports"][0]["port"] for rule in job["ingress"]] == ["metrics"], "the operator reads its progress"
    assert [rule["ports"][0]["port"] for rule in job["egress"]] == [53]
    held = {**HUB_MODEL, "cache": {"claimName": "models", "fill": "Never"}}
    assert build_policies({}, held).keys() == {"gateway", "worker"}
