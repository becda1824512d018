"""Predictions as the `replicate` package creates, awaits, cancels and runs them."""

from io import BytesIO

import httpx2
import pytest
from replicate.exceptions import ModelError, ReplicateError

from tests.inference_server.api.serving import MODEL, wait_for
from tests.support.client_images import encoded, halves


def test_run_waits_and_gives_the_images_addresses(replicate):
    output = replicate.run(MODEL, input={"prompt": "a run cat", "seed": 5, "num_outputs": 2})
    assert [httpx2.get(url).content for url in output] == [b"a run cat 5", b"a run cat 6"]


def test_run_raises_what_went_wrong(replicate):
    with pytest.raises(ModelError, match="the model refused the request: no"):
        replicate.run(MODEL, input={"prompt": "fail"})


def test_a_prediction_is_created_and_awaited(replicate):
    prediction = replicate.predictions.create(version=MODEL, input={"prompt": "an awaited cat"}, wait=5)
    prediction.wait()
    assert prediction.status == "succeeded"
    assert prediction.progress.percentage == 1.0
    assert replicate.predictions.get(prediction.id).output == prediction.output


def test_a_prediction_is_created_by_the_models_name(replicate):
    prediction = replicate.models.predictions.create(model=MODEL, input={"prompt": "a named cat"})
    prediction.wait()
    assert (prediction.status, prediction.model) == ("succeeded", MODEL)
    with pytest.raises(ReplicateError, match="model 'someone/else' is not served here"):
        replicate.models.predictions.create(model="someone/else", input={"prompt": "a cat"})


def test_a_running_prediction_is_cancelled(replicate):
    prediction = replicate.predictions.create(version=MODEL, input={"prompt": "slow"})
    wait_for(lambda: prediction.reload() or prediction.status == "processing")
    prediction.cancel()
    prediction.wait()
    assert prediction.status == "canceled"


def test_a_file_travels_as_a_data_url(replicate, tmp_path):
    image = tmp_path / "cat.png"
    image.write_bytes(encoded(halves()))
    with image.open("rb") as file:
        prediction = replicate.predictions.create(
            version=MODEL, input={"prompt": "a drawn cat", "image": file}, file_encoding_strategy="base64", wait=5
        )
    prediction.wait()
    assert (prediction.status, prediction.input["prompt_strength"]) == ("succeeded", 0.8)


def test_an_error_is_the_packages_own(replicate):
    with pytest.raises(ReplicateError) as caught:
        replicate.predictions.create(version=MODEL, input={"prompt": "a cat", "width": 65})
    assert (caught.value.status, caught.value.title) == (422, "Unprocessable Entity")
    assert caught.value.detail == "input.width: is 65 pixels, allowed is a multiple of 8 from 64 to 2048"


def test_a_file_is_uploaded_before_it_is_named(replicate, gateway):
    """As the package does by default."""
    prediction = replicate.predictions.create(
        version=MODEL, input={"prompt": "a cat", "image": BytesIO(encoded(halves()))}
    )
    prediction.wait()
    assert prediction.status == "succeeded", prediction.error
    assert gateway.worker.claims[-1].job.parameters.task == "ImageToImage"


def test_predictions_are_listed(replicate):
    created = [replicate.predictions.create(version=MODEL, input={"prompt": "a listed cat"}).id for _ in range(2)]
    assert [one.id for one in replicate.predictions.list().results[:2]] == created[::-1]


def test_the_account_the_model_and_files_are_found(replicate):
    assert replicate.accounts.current().username == "anonymous"
    assert replicate.models.get(MODEL).name == "sd15"
    file = replicate.files.create(BytesIO(encoded(halves())))
    assert replicate.files.get(file.id).checksums == file.checksums
    replicate.files.delete(file.id)
