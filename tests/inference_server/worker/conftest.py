"""The two brokers, as the broker's own tests have them."""

from tests.inference_server.broker.conftest import broker, build_broker

__all__ = ["broker", "build_broker"]
