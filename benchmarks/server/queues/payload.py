"""What a job carries in every queue: the parameters of an image in, an encoded image out. Standard library only.

The others' tasks return bytes that are held in memory; Easel's worker generates and encodes its image.
"""

import os
from typing import Any

PARAMETERS: dict[str, Any] = {
    "prompt": "a lighthouse at dawn, oil on canvas, soft light, seen from the sea",
    "negative_prompt": "blurry, low contrast",
    "width": 64,
    "height": 64,
    "num_inference_steps": 4,
    "guidance_scale": 7.5,
    "num_outputs": 1,
}
ENV_REDIS_URL = "BENCH_REDIS_URL"
ENV_IMAGE_BYTES = "BENCH_IMAGE_BYTES"
RESULT_TTL_SECONDS = 600
CONCURRENCY = 32  # enqueuing calls under way at a time, as many as HTTP connections in Easel's turn

REDIS_URL = os.environ.get(ENV_REDIS_URL, "redis://127.0.0.1:6379/0")
# Text, since taskiq stores results as JSON: no queue pays for encoding bytes that it has no place for.
IMAGE = os.urandom(int(os.environ.get(ENV_IMAGE_BYTES, "1000")) // 2).hex().encode()
