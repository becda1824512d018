"""How workers, and the Job that fills a model's cache, get to the Hub: a mirror, a proxy, or not at all."""

from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, model_validator

from easel_contract.schema import HttpBase, HttpOrigin, Model, ObjectName, cel, validations

PROXY_SENTENCE: Final = "a proxy's address is in address or, with a password, in a Secret (secretName): set one"
MAX_EXCEPTIONS: Final = 64
ProxyException = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:*/_-]+$")]


class ProxySpec(Model):
    """A forward proxy between workers and the Hub or buckets."""

    model_config = ConfigDict(
        json_schema_extra=validations(cel("has(self.address) != has(self.secretName)", PROXY_SENTENCE))
    )

    address: HttpOrigin | None = Field(default=None, description="Such as http://proxy.example.com:3128.")
    secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with the address under the key `proxy`, where it has a user and a password in it.",
    )
    exceptions: tuple[ProxyException, ...] = Field(
        default=(),
        max_length=MAX_EXCEPTIONS,
        description="Hosts, domains (.example.com) and networks that are reached without it (NO_PROXY), besides the "
        "pod itself and the cluster's Services by their full names.",
    )

    @model_validator(mode="after")
    def _is_one_address(self) -> Self:
        if (self.address is None) == (self.secret_name is None):
            raise ValueError(PROXY_SENTENCE)
        return self


class EgressSpec(Model):
    """What the chart's value ``defaults.downloads`` says for all services, and each may say for itself."""

    hub_endpoint: HttpBase | None = Field(
        default=None, description="A mirror in place of https://huggingface.co (HF_ENDPOINT)."
    )
    proxy: ProxySpec | None = Field(
        default=None,
        description="Between workers and the Hub or buckets (HTTPS_PROXY). Sources by url, clients' own addresses and "
        "webhooks go without it, as they are held to public addresses.",
    )
    offline: bool | None = Field(
        default=None,
        description="Whether the Hub isn't asked at all (HF_HUB_OFFLINE): what isn't on a claim is an error at once. "
        "Unset: it is asked.",
    )

    def over(self, below: "EgressSpec") -> "EgressSpec":
        """This with the fields of ``below`` that it doesn't say."""
        said = {name: getattr(self, name) for name in EgressSpec.model_fields}
        return EgressSpec(**{name: getattr(below, name) if each is None else each for name, each in said.items()})
