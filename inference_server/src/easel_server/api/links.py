"""Addresses of predictions, their images and their events, for answers and webhooks."""

import re
from collections.abc import Sequence
from typing import Final

from easel_server.gateway.link_signer import LinkSigner
from easel_server.generation.job import Job

# A Host header as far as links are made of it: a name or an address, and a port.
HOST_PATTERN: Final = re.compile(r"[A-Za-z0-9._\-\[\]:]{1,255}")
PREDICTIONS_PATH = "/v1/predictions"
ACCOUNT_PATH = "/v1/account"
FILES_PATH = "/v1/files"
WEBHOOKS_PATH = "/v1/webhooks"
# What Replicate's clients ask for besides, all of which there is nothing of.
REPLICATE_PATHS = ("/v1/trainings", "/v1/deployments", "/v1/collections", "/v1/hardware")
GENERATIONS_PATH = "/v1/images/generations"
EDITS_PATH = "/v1/images/edits"
UPSCALES_PATH = "/v1/images/upscales"
MODELS_PATH = "/v1/models"
AUTOMATIC1111_PATH = "/sdapi/v1"
CONTROLNET_PATH = "/controlnet"


# Parts of a prediction that have addresses of their own.
STREAM: Final = "stream"


def output_part(index: int | str) -> str:
    """One of its images."""
    return f"output/{index}"


def preview_part(index: int | str) -> str:
    """One of its unfinished images."""
    return f"previews/{index}"


def is_prediction_path(path: str) -> bool:
    """Whether Replicate's API is spoken there."""
    is_of_model = path.startswith(MODELS_PATH) and ("/predictions" in path or "/versions" in path)
    return is_of_model or path.startswith((PREDICTIONS_PATH, ACCOUNT_PATH, FILES_PATH, WEBHOOKS_PATH, *REPLICATE_PATHS))


class Links:
    """Addresses below ``base``, such as ``https://images.example.com``; an empty base gives paths.

    Where keys are asked for, what is only read is signed, so that it opens without one: images and events.
    """

    def __init__(self, base: str, signer: LinkSigner | None = None) -> None:
        """``signer`` is None where no keys are asked for."""
        self._base = base
        self._signer = signer

    def prediction(self, job: Job) -> str:
        """Where the prediction is."""
        return f"{self._base}{PREDICTIONS_PATH}/{job.id}"

    def older_predictions(self, cursor: int) -> str:
        """Where a list of predictions goes on."""
        return f"{self._base}{PREDICTIONS_PATH}?cursor={cursor}"

    def model(self, name: str) -> str:
        """Where the model is described."""
        return f"{self._base}{MODELS_PATH}/{name}"

    def file(self, file_id: str) -> str:
        """Where an uploaded file is."""
        return f"{self._base}{FILES_PATH}/{file_id}"

    def cancel(self, job: Job) -> str:
        """Where it is cancelled, by POST."""
        return f"{self.prediction(job)}/cancel"

    def stream(self, job: Job) -> str:
        """Where its events are."""
        return self._signed(job, STREAM)

    def outputs(self, job: Job, image_urls: Sequence[str | None] = ()) -> list[str]:
        """Where each of its images is, once it has succeeded: as ``image_urls`` say, else through this service."""
        urls = dict(enumerate(image_urls))
        return [urls.get(index) or self._signed(job, output_part(index)) for index in range(job.parameters.images)]

    def previews(self, job: Job) -> list[str]:
        """Where the unfinished images are that there are so far."""
        return [self._signed(job, preview_part(index)) for index in range(job.previews)]

    def _signed(self, job: Job, part: str) -> str:
        query = self._signer.sign(job, part) if self._signer else ""
        return f"{self.prediction(job)}/{part}?{query}" if query else f"{self.prediction(job)}/{part}"
