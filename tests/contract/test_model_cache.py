"""What `model.cache` may say; the CEL rules of the CRD have the same sentences."""

from typing import Any

import pytest
from easel_contract.crd import build_crd
from easel_contract.resource import StableDiffusionServiceSpec
from pydantic import ValidationError

HUB: dict[str, Any] = {"source": {"huggingFace": {"repository": "owner/model"}}}
VOLUME: dict[str, Any] = {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}


@pytest.mark.parametrize(
    ("model", "cache", "sentence"),
    [
        (HUB, {}, "set one"),
        (HUB, {"claimName": "models", "size": "40Gi"}, "set one"),
        (HUB, {"size": "40Gi", "fill": "Never"}, "fill: Never needs claimName"),
        (HUB, {"claimName": "models", "storageClassName": "fast"}, "storageClassName is of a claim that is made"),
        (VOLUME, {"claimName": "models"}, "of this model nothing is: leave cache out"),
    ],
)
def test_a_cache_that_cannot_work_is_refused_with_a_sentence(
    model: dict[str, Any], cache: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence):
        StableDiffusionServiceSpec.model_validate({"model": {**model, "cache": cache}, "replicas": 1})
    assert sentence in str(build_crd())


def test_a_refiner_of_the_hub_is_cached_beside_a_model_on_a_volume() -> None:
    model = {**VOLUME, "refiner": HUB, "cache": {"claimName": "models"}}
    assert StableDiffusionServiceSpec.model_validate({"model": model, "replicas": 1}).model.cache is not None
