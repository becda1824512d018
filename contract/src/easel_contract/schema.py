"""Base class and field types of everything that travels as JSON: camelCase on the wire, frozen in memory."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A frozen value; unknown fields are errors, so a typo is reported, not ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")

    def to_wire(self) -> dict[str, Any]:
        """This value as JSON-ready data with the names used on the wire; unset optional fields are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


# A Kubernetes resource.Quantity such as "500m", "2Gi" or 1.
Quantity = Annotated[
    int | Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$")],
    Field(union_mode="left_to_right"),
    WithJsonSchema({"x-kubernetes-int-or-string": True}),
]

# A DNS-1123 name of another object in the same namespace.
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


def cel(rule: str, message: str) -> dict[str, str]:
    """One CEL validation rule of a structural schema."""
    return {"rule": rule, "message": message}


def validations(*rules: dict[str, str]) -> dict[str, Any]:
    """Schema extension that carries CEL rules."""
    return {"x-kubernetes-validations": list(rules)}
