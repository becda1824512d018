"""What Prometheus reads of one service, through the kinds of the Prometheus operator."""

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from easel_contract import names
from easel_contract.schema import Model, cel, validations

OWN_LABELS: Final = tuple(sorted({names.LABEL_SERVICE, names.LABEL_COMPONENT, names.LABEL_NAME, names.LABEL_INSTANCE}))
LABELS_SENTENCE: Final = f"{', '.join(OWN_LABELS)} and {names.LABEL_MANAGED_BY} are Easel's own labels"


def _check_labels(value: dict[str, str]) -> dict[str, str]:
    if {*OWN_LABELS, names.LABEL_MANAGED_BY} & value.keys():
        raise ValueError(LABELS_SENTENCE)
    return value


def _build_rule() -> str:
    return " && ".join(f"!('{label}' in self)" for label in (*OWN_LABELS, names.LABEL_MANAGED_BY))


class MonitoringSpec(Model):
    """A PodMonitor over the service's pods, which gives each figure the label of its service, and a PrometheusRule with
    alerts. Needs the kinds of the Prometheus operator (monitoring.coreos.com/v1)."""

    labels: Annotated[
        dict[str, str],
        AfterValidator(_check_labels),
        Field(
            default_factory=dict,
            max_length=16,
            json_schema_extra=validations(cel(_build_rule(), LABELS_SENTENCE)),
            description="By which your Prometheus selects monitors and rules, such as release: prometheus.",
        ),
    ]
    interval_seconds: int = Field(default=15, ge=1, le=300, description="Between two looks at each pod.")
    alerts: bool = Field(
        default=True,
        description="Whether there are alerts: images later than the target, failing jobs, Redis out of reach.",
    )
