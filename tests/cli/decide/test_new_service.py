"""Manifests of a new service, judged by the contract."""

from typing import Any

import pytest
from easel_cli.decide.new_service import Answers, build_manifests, describe_next_steps
from easel_cli.errors import UsageError
from easel_contract.resource import StableDiffusionServiceSpec


def build(**changes: Any) -> list[dict[str, Any]]:
    return build_manifests(Answers(**{"name": "sdxl", "model": "some/model", "loader_image": "worker:1", **changes}))


def test_a_model_of_the_hub_needs_nothing_beside_it() -> None:
    (service,) = build(model="some/model@v2", cache_size="20Gi", min_replicas=1)
    spec = StableDiffusionServiceSpec.model_validate(service["spec"])
    assert spec.model.source.hugging_face is not None
    assert (spec.model.source.hugging_face.repository, spec.model.source.hugging_face.revision) == ("some/model", "v2")
    assert spec.model.cache is not None
    assert spec.scaling is not None
    assert (spec.scaling.min_replicas, spec.scaling.max_replicas) == (1, 4)


def test_secrets_are_made_for_a_token_and_for_customers() -> None:
    secrets = build(hub_token_secret="hub", hub_token="hf_x", api_keys={"acme": "esl_live_12345678"})
    token, keys, service = secrets
    assert token["stringData"] == {"token": "hf_x"}
    assert keys["stringData"] == {"acme": "esl_live_12345678"}
    assert service["spec"]["gateway"] == {"apiKeysSecretName": keys["metadata"]["name"]}
    assert service["spec"]["model"]["source"]["huggingFace"]["tokenSecretName"] == "hub"


def test_a_job_puts_a_model_on_a_claim_that_is_made_too() -> None:
    claim, job, service = build(
        model="pvc://models/sdxl", load_from="some/model@v2", claim_size="50Gi", namespace="art"
    )
    assert claim["kind"] == "PersistentVolumeClaim"
    assert {each["metadata"]["namespace"] for each in (claim, job, service)} == {"art"}
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == [
        *("hf", "download", "some/model", "--local-dir", "/models/sdxl", "--revision", "v2"),
    ]
    assert service["spec"]["model"]["source"] == {"persistentVolumeClaim": {"claimName": "models", "path": "sdxl"}}
    steps = describe_next_steps(Answers(name="sdxl", model="", namespace="art"), [job, service], "kubectl apply -f f")
    assert steps[1] == "kubectl wait --for=condition=Complete job/sdxl-load-model --timeout=1h -n art"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "SDXL"}, "the name is 'SDXL'; at most 50 small letters"),
        ({"name": "x" * 51}, "at most 50 small letters"),
        ({"model": "ftp://x"}, "--model is 'ftp://x'; ORG/REPOSITORY[@REVISION], pvc://"),
        ({"model": "no model"}, "such a service can't be: model.source.huggingFace.repository"),
        ({"model": "s3://bucket/prefix"}, "what lies in a bucket is copied by the Job of model.cache"),
        ({"min_replicas": 5}, "minReplicas"),
        ({"cache_size": "much"}, "model.cache.size"),
        ({"claim_size": "5Gi"}, "--load-from and --claim-size are of a model at pvc://CLAIM"),
        ({"model": "pvc://models", "hub_token_secret": "hub"}, "a token of the Hub is for models that come from there"),
        ({"api_keys": {"a b": "esl_live_12345678"}}, "--customer is 'a b'"),
    ],
)
def test_what_the_contract_refuses_is_not_written(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        build(**changes)
    assert message in str(refused.value)
