"""The gateway Deployment, and the identity of all pods."""

from typing import Final

from easel_contract import names

from easel_operator.manifests.configuration import STOP_DELAY_SECONDS, gateway_config_hash
from easel_operator.manifests.metadata import (
    ChildContext,
    Owner,
    build_labels,
    build_metadata,
    build_pod_selector,
    with_revision,
)
from easel_operator.manifests.overlay import apply_overlays
from easel_operator.manifests.pod import (
    GATEWAY_TMP,
    build_bucket_env,
    build_container,
    build_pod_spec,
    build_port,
    build_scratch,
    build_secret_env,
    service_account_name,
    to_resources,
)
from easel_operator.objects import Json

START_SECONDS: Final = 60


def build_gateway_deployment(context: ChildContext) -> Json:
    """The gateway Deployment; a roll-out never has fewer gateways than asked for."""
    owner, gateway = context.owner, context.spec.gateway
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": build_metadata(owner, names.gateway_name(owner.name), names.COMPONENT_GATEWAY),
        "spec": {
            # Where an autoscaler writes it, it isn't sent, so that it isn't ours to reset.
            **({} if gateway.autoscaling is not None else {"replicas": gateway.replicas}),
            "selector": {"matchLabels": build_pod_selector(owner, names.COMPONENT_GATEWAY)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": 3,
            "template": with_revision(_build_gateway_template(context)),
        },
    }


def _build_gateway_template(context: ChildContext) -> Json:
    """Easel's own pod, over it the installation's defaults, over them what the service asks for."""
    owner = context.owner
    template = {
        "metadata": {
            "labels": build_labels(owner, names.COMPONENT_GATEWAY),
            "annotations": {names.ANNOTATION_CONFIG_HASH: gateway_config_hash(context)},
        },
        "spec": _build_gateway_pod_spec(context),
    }
    overlays = (context.release.defaults.gateway.pod_template, context.spec.gateway.pod_template)
    return apply_overlays(template, overlays, pod_selector=build_pod_selector(owner, names.COMPONENT_GATEWAY))


def _build_gateway_pod_spec(context: ChildContext) -> Json:
    owner, gateway = context.owner, context.spec.gateway
    container = build_container(
        context,
        role=names.COMPONENT_GATEWAY,
        image=gateway.image,
        resources=to_resources(gateway.resources, context.release.defaults.gateway),
        start_seconds=START_SECONDS,
    )
    container["ports"].insert(0, build_port(names.HTTP_PORT_NAME, names.HTTP_PORT))
    container["env"] += build_bucket_env(gateway.results)
    container["lifecycle"] = {"preStop": {"sleep": {"seconds": STOP_DELAY_SECONDS}}}
    pod = build_pod_spec(
        owner,
        container,
        files={file: file for file in (names.CONFIG_KEY_GATEWAY, names.CONFIG_KEY_QUEUE)},
        grace_seconds=gateway.termination_grace_period_seconds,
        tmp=build_scratch("tmp", gateway.scratch, default=GATEWAY_TMP),
    )
    pod["topologySpreadConstraints"] = [_spread(owner)]
    if gateway.api_keys_secret_name is not None:
        container["volumeMounts"].append({"name": "api-keys", "mountPath": names.API_KEYS_DIRECTORY, "readOnly": True})
        pod["volumes"].append({"name": "api-keys", "secret": {"secretName": gateway.api_keys_secret_name}})
        container["volumeMounts"].append(
            {"name": "link-keys", "mountPath": names.LINK_KEYS_DIRECTORY, "readOnly": True}
        )
        pod["volumes"].append({"name": "link-keys", "secret": {"secretName": names.links_secret_name(owner.name)}})
    if gateway.webhook.signing_secret_name is not None:
        container["env"].append(
            build_secret_env(
                names.ENV_WEBHOOK_SECRET,
                gateway.webhook.signing_secret_name,
                names.SECRET_KEY_WEBHOOK,
                optional=False,
            )
        )
    return pod


def _spread(owner: Owner) -> Json:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": build_pod_selector(owner, names.COMPONENT_GATEWAY)},
    }


def build_service_account(context: ChildContext) -> Json:
    """The pods' identity; it is given no rights, and pods mount no token of it."""
    owner = context.owner
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": build_metadata(owner, service_account_name(owner), "identity"),
        "automountServiceAccountToken": False,
    }
