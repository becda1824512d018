"""Brings a model's files from a repository of the Hugging Face Hub, downloaded or from its cache.

The Hub client's errors become ModelLoadError here and nowhere else.
"""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from diffusers import DiffusionPipeline
from easel_contract.server_config import ModelConfig
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from easel_server.engine.interface import ModelLoadError
from easel_server.generation.models import MODEL_INDEX

RETRY_DELAYS_SECONDS = (2.0, 5.0, 15.0)  # between attempts while the Hub can't be reached
ACCESS_REFUSED = frozenset({401, 403})

logger = logging.getLogger(__name__)


def download_model(config: ModelConfig, *, token: str | None, pause: Callable[[float], None] = time.sleep) -> Path:
    """Directory with the model's ``model_index.json``, named by the commit. Blocks for the download.

    Raises ModelLoadError. ``pause`` is called with the seconds to wait between attempts.
    """
    for delay_seconds in (*RETRY_DELAYS_SECONDS, None):
        try:
            return _download(config, token=token)
        # The client lets the errors of its HTTP library through, and changes that library between versions.
        except Exception as error:
            permanent = _explain(config, error, has_token=bool(token))
            if permanent is not None:
                raise ModelLoadError(permanent) from error
            if delay_seconds is None:
                raise ModelLoadError(_explain_unreachable(config, error)) from error
            logger.warning("model %s: Hub not reached, trying again in %g s", config.source, delay_seconds)
            pause(delay_seconds)
    raise AssertionError("the loop returns or raises")


def _download(config: ModelConfig, *, token: str | None) -> Path:
    # token=False keeps the client from picking up a login of whoever runs this process.
    return Path(DiffusionPipeline.download(config.source, revision=config.revision, token=token or False))


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _explain(config: ModelConfig, error: Exception, *, has_token: bool) -> str | None:
    """What the user must change, or None if trying again may help."""
    access = _token_advice(has_token=has_token)
    # The first class that fits speaks: subclasses come before their bases.
    sentences: dict[type[Exception], str] = {
        GatedRepoError: f"is gated: accept its licence on its page, then {access}",
        RevisionNotFoundError: f"has no revision {config.revision!r}; check model.revision",
        RepositoryNotFoundError: f"does not exist or is private: check model.source, or {access}",
        HFValidationError: "is no repository id; model.source must be OWNER/NAME or an absolute directory",
        RemoteEntryNotFoundError: f"has no {MODEL_INDEX}; model.source must name a pipeline in diffusers' layout",
    }
    for cause in _causes(error):
        sentence = next((text for kind, text in sentences.items() if isinstance(cause, kind)), None)
        if sentence is None and isinstance(cause, HfHubHTTPError) and cause.response.status_code in ACCESS_REFUSED:
            sentence = f"refused access (HTTP {cause.response.status_code}): {access}"
        if sentence is not None:
            return f"model {config.name}: {config.source} on the Hugging Face Hub {sentence}"
    return None


def _token_advice(*, has_token: bool) -> str:
    if has_token:
        return "give the token in the Secret named by model.tokenSecretName read access to it"
    return "set model.tokenSecretName to a Secret with a Hub token that may read it"


def _explain_unreachable(config: ModelConfig, error: Exception) -> str:
    last = list(_causes(error))[-1]
    attempts = len(RETRY_DELAYS_SECONDS) + 1
    return (
        f"model {config.name}: the Hugging Face Hub was not reached for {config.source} in {attempts} attempts "
        f"(last: {type(last).__name__}: {str(last).splitlines()[0] if str(last) else 'no detail'}); "
        "check the pods' network egress and proxy, or put the model on a volume and name its directory in model.source"
    )
