"""A service with a tiny real model and add-ons of each kind, for clients to drive."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from easel_contract.add_ons import AdapterConfig, AddOnsConfig, ControlNetConfig, UpscalerConfig

from tests.inference_server.api.serving import IDENTITY, RunningGateway
from tests.support.tiny_engine import tiny_engine

LORA, CONTROL_NET, UPSCALER = "ink", "control_v11p_sd15_canny", "4x-Tiny"


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    engine = tiny_engine()  # loads torch
    from tests.support.tiny_models import build_sd15, build_sd15_controlnet  # noqa: PLC0415  # likewise
    from tests.support.tiny_models.adapters import write_lora  # noqa: PLC0415
    from tests.support.tiny_models.upscalers import write_tiny_upscaler  # noqa: PLC0415

    directory = tmp_path_factory.mktemp("add-ons")
    lora = write_lora(directory / f"{LORA}.safetensors", build_sd15(), seed=1)
    pipeline: Any = build_sd15_controlnet()
    pipeline.components["controlnet"].save_pretrained(directory / "canny")
    upscaler = write_tiny_upscaler(directory / "upscaler.safetensors")
    add_ons = AddOnsConfig(
        adapters=(AdapterConfig(name=LORA, source=str(lora)),),
        control_nets=(ControlNetConfig(name=CONTROL_NET, source=str(directory / "canny")),),
        upscalers=(UpscalerConfig(name=UPSCALER, source=str(upscaler)),),
    )
    held = engine.description
    known = {"weights": held.resolved_revision, "dtype": held.dtype, "versions": held.versions}
    with RunningGateway(engine=engine, add_ons=add_ons) as gateway:
        gateway.facts = replace(gateway.facts, identity=IDENTITY.model_copy(update=known), features=held.features)
        yield gateway
