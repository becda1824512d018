"""Addresses of predictions, their images and their events, for answers and webhooks."""

from collections.abc import Sequence

from easel_server.generation.job import Job

PREDICTIONS_PATH = "/v1/predictions"
GENERATIONS_PATH = "/v1/images/generations"
EDITS_PATH = "/v1/images/edits"
MODELS_PATH = "/v1/models"
AUTOMATIC1111_PATH = "/sdapi/v1"
CONTROLNET_PATH = "/controlnet"


def is_prediction_path(path: str) -> bool:
    """Whether Replicate's API is spoken there."""
    return path.startswith(PREDICTIONS_PATH) or (path.startswith(MODELS_PATH) and path.endswith("/predictions"))


class Links:
    """Addresses below ``base``, such as ``https://images.example.com``; an empty base gives paths."""

    def __init__(self, base: str) -> None:
        self._base = base

    def prediction(self, job: Job) -> str:
        """Where the prediction is."""
        return f"{self._base}{PREDICTIONS_PATH}/{job.id}"

    def cancel(self, job: Job) -> str:
        """Where it is cancelled, by POST."""
        return f"{self.prediction(job)}/cancel"

    def stream(self, job: Job) -> str:
        """Where its events are."""
        return f"{self.prediction(job)}/stream"

    def outputs(self, job: Job, image_urls: Sequence[str | None] = ()) -> list[str]:
        """Where each of its images is, once it has succeeded: as ``image_urls`` say, else through this service."""
        urls = dict(enumerate(image_urls))
        return [urls.get(index) or f"{self.prediction(job)}/output/{index}" for index in range(job.parameters.images)]

    def previews(self, job: Job) -> list[str]:
        """Where the unfinished images are that there are so far."""
        return [f"{self.prediction(job)}/previews/{index}" for index in range(job.previews)]
