"""The inference server's configuration file, rendered by the operator into a ConfigMap and read by easel-server.

A role's file holds only the sections it uses, so that a change to a gateway's limits doesn't roll GPU pods.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, IPvAnyNetwork, PlainSerializer

from easel_contract.schema import Model

Network = Annotated[IPvAnyNetwork, PlainSerializer(str, return_type=str)]


class DType(StrEnum):
    """Number format of the model's weights and activations."""

    AUTO = "Auto"  # bfloat16 on GPUs that have it, float16 on other GPUs, float32 on CPU
    FLOAT32 = "Float32"
    FLOAT16 = "Float16"
    BFLOAT16 = "BFloat16"


class ModelConfig(Model):
    """Which pipeline to load."""

    name: str = Field(min_length=1)  # the id that clients see in /v1/models
    source: str = Field(min_length=1)  # a Hugging Face Hub id or an absolute directory
    revision: str | None = None
    dtype: DType = DType.AUTO


class LimitsConfig(Model):
    """Bounds of one request; beyond them a request is refused with the field, the value and the bound."""

    max_images: int = Field(default=4, ge=1, le=16, description="Images of one request.")
    max_width_pixels: int = Field(default=2048, ge=64, le=4096, description="Widest picture.")
    max_height_pixels: int = Field(default=2048, ge=64, le=4096, description="Highest picture.")
    max_steps: int = Field(default=100, ge=1, le=1000, description="Denoising steps of one picture.")
    max_prompt_characters: int = Field(
        default=4000, ge=1, le=32000, description="Length of the prompt, and of the negative prompt."
    )
    max_body_bytes: int = Field(default=1 << 20, ge=1024, le=64 << 20, description="Size of a request's body.")
    max_queue_depth: int = Field(
        default=10000, ge=1, description="Requests waiting and running; beyond it clients get 429 with Retry-After."
    )


class DefaultsConfig(Model):
    """What a request gets that doesn't say; unset: what suits the model, as far as its files are known."""

    width_pixels: int | None = Field(default=None, ge=64, le=4096, multiple_of=8)
    height_pixels: int | None = Field(default=None, ge=64, le=4096, multiple_of=8)
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance_scale: float | None = Field(default=None, ge=0, le=100)


class RateLimitConfig(Model):
    """A token bucket per API key, exact across gateways."""

    requests_per_minute: int = Field(ge=1, description="Rate at which the bucket of a key refills.")
    burst: int = Field(ge=1, description="Requests that a key may send at once after a pause.")


class CacheConfig(Model):
    """The result cache; identical requests with a seed are answered from it."""

    ttl_seconds: int = Field(default=3600, ge=0, description="How long a picture is kept; 0 switches the cache off.")
    max_entry_bytes: int = Field(
        default=16 << 20, ge=1024, description="Requests whose pictures are larger together are not kept."
    )


class WebhookConfig(Model):
    """Where webhooks may go. Private, loopback and link-local addresses are refused unless listed here."""

    allowed_networks: tuple[Network, ...] = Field(
        default=(), description="Networks in CIDR form that webhooks may go to although they are private."
    )


class GatewayConfig(Model):
    """What a gateway needs besides the broker."""

    limits: LimitsConfig = LimitsConfig()
    defaults: DefaultsConfig | None = None
    rate_limit: RateLimitConfig | None = None
    cache: CacheConfig = CacheConfig()
    webhook: WebhookConfig = WebhookConfig()
    # In links; unset: the host that was called.
    public_url: str | None = Field(default=None, pattern=r"^https?://[^/]+$")
    api_keys_directory: str | None = None  # one file a key, named for its owner; None: no key is asked for
    result_ttl_seconds: int = Field(default=3600, ge=60)  # how long a finished job can be fetched


class WorkerConfig(Model):
    """What a worker needs besides the broker."""

    lease_seconds: int = Field(default=10, ge=2)  # a job whose worker is silent this long is handed out again
    max_attempts: int = Field(default=3, ge=1)  # a job that ends its worker this often fails
    drain_seconds: int = Field(default=50, ge=0)  # on SIGTERM: time to finish; what is left goes back to the queue


class ServerConfig(Model):
    """The whole file."""

    namespace: str = "default"
    service: str = "easel"
    model: ModelConfig
    gateway: GatewayConfig = GatewayConfig()
    worker: WorkerConfig = WorkerConfig()
