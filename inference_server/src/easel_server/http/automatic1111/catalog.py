"""Lists that clients of AUTOMATIC1111 ask for before they begin: what there is to choose from. Pure."""

from collections.abc import Mapping
from typing import Any, Final

# What a service of one model doesn't have, in the shape of having none.
EMPTY: Final[Mapping[str, Any]] = {
    "sd-vae": [],
    "upscalers": [],
    "latent-upscale-modes": [],
    "loras": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "artist-categories": [],
    "artists": [],
    "script-info": [],
    "scripts": {"txt2img": [], "img2img": []},
    "embeddings": {"loaded": {}, "skipped": {}},
    "cmd-flags": {"api": True, "nowebui": True},
    # Gateways draw nothing; the workers' memory is in their metrics.
    "memory": {"ram": {"error": "not told by this service"}, "cuda": {"error": "not told by this service"}},
}
# Nothing is found on disk anew, so these are done at once.
REFRESHES: Final = ("refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings")


def list_models(model: str) -> list[dict[str, Any]]:
    """The answer of ``sd-models``: the one that is served."""
    return [{"title": model, "model_name": model, "hash": None, "sha256": None, "filename": model, "config": None}]


def build_options(model: str) -> dict[str, Any]:
    """The answer of ``options``: what clients look for. They can't be changed: requests say what they want."""
    return {
        "sd_model_checkpoint": model,
        "sd_checkpoint_hash": "",
        "sd_vae": "Automatic",
        "samples_format": "png",
        "CLIP_stop_at_last_layers": 1,
        "live_previews_enable": True,
        "return_grid": False,
    }
