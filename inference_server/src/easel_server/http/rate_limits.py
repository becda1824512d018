"""Which buckets a request is charged to: its customer's and the service's, in requests and in GPU-seconds. Pure."""

import math
from typing import Final

from easel_contract.server_config import GatewayConfig, RateLimitConfig

from easel_server.broker.interface import Charge
from easel_server.http.api_keys import Customer

THOUSANDTHS: Final = 1000
REQUESTS: Final = "requests"
GPU_SECONDS: Final = "gpu-seconds"


def build_request_charges(customer: Customer, config: GatewayConfig) -> tuple[Charge, ...]:
    """What any request for images costs: one request."""
    return tuple(
        Charge(_bucket(REQUESTS, owner), THOUSANDTHS, rate.requests_per_minute * THOUSANDTHS, rate.burst * THOUSANDTHS)
        for owner, rate in _limits(customer, config)
        if rate.requests_per_minute is not None
    )


def build_work_charges(customer: Customer, config: GatewayConfig, gpu_seconds: float) -> tuple[Charge, ...]:
    """What a request costs besides whose images have to be drawn: predicted GPU-seconds."""
    amount = math.ceil(gpu_seconds * THOUSANDTHS)
    return tuple(
        Charge(
            _bucket(GPU_SECONDS, owner),
            amount,
            rate.gpu_seconds_per_minute * THOUSANDTHS,
            rate.gpu_seconds_burst * THOUSANDTHS,
        )
        for owner, rate in _limits(customer, config)
        if rate.gpu_seconds_per_minute is not None
    )


def _limits(customer: Customer, config: GatewayConfig) -> list[tuple[str | None, RateLimitConfig]]:
    limits = ((customer.name, customer.rate_limit or config.rate_limit), (None, config.service_rate_limit))
    return [(owner, rate) for owner, rate in limits if rate is not None]


def _bucket(unit: str, owner: str | None) -> str:
    return unit if owner is None else f"{unit}:{owner}"
