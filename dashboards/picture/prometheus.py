"""A panel's queries on a Prometheus: the variables filled in, series as they come."""

import http.client
import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

TIMEOUT_SECONDS: Final = 30.0
MAX_ANSWER_BYTES: Final = 64 << 20
LEGEND_LABEL: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")
DEFAULT_SCRAPE_SECONDS: Final = 60.0  # Prometheus' own
DURATION: Final = re.compile(r"(\d+)(ms|s|m|h|d)")
UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class PrometheusError(Exception):
    """A query that Prometheus refused, or an answer that didn't come; the message names the query."""


@dataclass(frozen=True)
class Window:
    """What is looked at: Unix seconds, and how far apart the samples are."""

    begin: float
    end: float
    step_seconds: float


@dataclass(frozen=True)
class Series:
    """One series of an answer."""

    name: str  # by the query's legend
    labels: Mapping[str, str]
    times: tuple[float, ...]  # Unix seconds
    values: tuple[float, ...]

    @property
    def last(self) -> float:
        """Its newest value that is a number; NaN if none is."""
        return next((value for value in reversed(self.values) if not math.isnan(value)), math.nan)


class Prometheus:
    """Answers queries in which dashboards' variables stand. ``variables``: names without ``$`` → values."""

    def __init__(self, url: str, variables: Mapping[str, str]) -> None:
        """Raises PrometheusError where nobody answers at the URL."""
        self._url = url.rstrip("/")
        self._variables = dict(variables)
        self._scrape_seconds = self._read_scrape_seconds()

    def query_range(self, expression: str, legend: str, window: Window) -> list[Series]:
        """Series over the window. Raises PrometheusError."""
        filled = self.fill_in(expression, window.step_seconds)
        asked = {"query": filled, "start": window.begin, "end": window.end, "step": window.step_seconds}
        return [_read_series(each, legend, each["values"]) for each in self._ask("query_range", asked)["result"]]

    def query(self, expression: str, legend: str, window: Window) -> list[Series]:
        """Series with one sample, at the window's end. Raises PrometheusError."""
        filled = self.fill_in(expression, window.step_seconds)
        answer = self._ask("query", {"query": filled, "time": window.end})
        return [_read_series(each, legend, [each["value"]]) for each in answer["result"]]

    def fill_in(self, expression: str, step_seconds: float) -> str:
        """With values for the variables, Grafana's own ``$__rate_interval`` among them.

        That is the larger of four scrapes and a step with one scrape, as Grafana documents it:
        https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
        """
        rate_seconds = max(step_seconds + self._scrape_seconds, 4 * self._scrape_seconds)
        variables = {**self._variables, "__rate_interval": f"{math.ceil(rate_seconds)}s"}

        def value_of(found: re.Match[str]) -> str:
            name = found[1]
            if name not in variables:
                raise PrometheusError(f"{expression}: there is no variable ${name}, only {sorted(variables)}")
            return variables[name]

        return re.sub(r"\$(\w+)", value_of, expression)

    def _read_scrape_seconds(self) -> float:
        configuration = yaml.safe_load(self._ask("status/config", {})["yaml"]) or {}
        interval = configuration.get("global", {}).get("scrape_interval", "")
        found = sum(float(amount) * UNIT_SECONDS[unit] for amount, unit in DURATION.findall(interval))
        return found or DEFAULT_SCRAPE_SECONDS

    def _ask(self, what: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        subject = parameters.get("query", what)
        if not url.startswith(("http://", "https://")):
            raise PrometheusError(f"{self._url}: the address of a Prometheus begins with http:// or https://")
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - looked at above
                answer = json.loads(response.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            raise PrometheusError(f"{subject}: {error.code} {error.read(2000).decode(errors='replace')}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PrometheusError(f"{subject}: no answer of {self._url}: {error}") from None
        data: dict[str, Any] = answer["data"]
        return data


def _read_series(series: Mapping[str, Any], legend: str, samples: list[tuple[float, str]]) -> Series:
    labels = {name: str(value) for name, value in series["metric"].items()}
    name = LEGEND_LABEL.sub(lambda found: labels.get(found[1], ""), legend)
    times, values = zip(*((float(at), float(value)) for at, value in samples), strict=True)
    return Series(name, labels, times, values)
