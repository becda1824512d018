"""Addresses of predictions and their images, for answers and webhooks."""

from fastapi import Request

from easel_server.job import Job

PREDICTIONS_PATH = "/v1/predictions"


class Links:
    """Addresses below ``base``, such as ``https://images.example.com``; an empty base gives paths."""

    def __init__(self, base: str) -> None:
        self._base = base

    def prediction(self, job: Job) -> str:
        """Where the prediction is."""
        return f"{self._base}{PREDICTIONS_PATH}/{job.id}"

    def outputs(self, job: Job) -> list[str]:
        """Where each of its images is, once it has succeeded."""
        return [f"{self.prediction(job)}/output/{index}" for index in range(job.parameters.images)]


def links_for(request: Request, public_url: str | None) -> Links:
    """Links by the configured address, else by the host that this client called."""
    return Links(public_url or str(request.base_url).rstrip("/"))
