"""What filling in goes by, besides what the request says of a parameter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from easel_contract.add_ons import AddOnsConfig
from easel_contract.gateway_config import LimitsConfig

from easel_server.generation.models import ModelFacts
from easel_server.generation.request import InputImages

Values = Mapping[str, Any]  # parameters by name; of the rows above a row, all are there when it is filled in


@dataclass(frozen=True)
class FillContext:
    """What defaults and checks depend on besides the request itself."""

    facts: ModelFacts
    limits: LimitsConfig
    job_id: str
    inputs: InputImages | None = None  # of the size that is asked for
    is_prompt_required: bool = True
    add_ons: AddOnsConfig = field(default_factory=AddOnsConfig)  # that this service offers
    model: str = ""  # its name
