"""What customers have used, from gateways' answers: rows, totals and their cost."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

HOUR_SECONDS: Final = 3600.0
CSV_COLUMNS: Final = (
    *("namespace", "service", "day", "customer", "jobs", "cached_jobs", "images", "gpu_seconds"),
    *("price_per_gpu_hour", "cost", "currency"),
)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One customer's use of one service on one day."""

    namespace: str
    service: str
    day: str  # YYYY-MM-DD, UTC
    customer: str
    jobs: int
    cached_jobs: int  # of them, those that the cache answered
    images: int
    gpu_seconds: float
    price_per_gpu_hour: float | None  # None: no price is set
    currency: str

    @property
    def cost(self) -> float | None:
        """GPU-seconds at the price of an hour."""
        return None if self.price_per_gpu_hour is None else self.gpu_seconds / HOUR_SECONDS * self.price_per_gpu_hour


def parse_usage(answer: Mapping[str, Any]) -> list[UsageRow]:
    """A gateway's answer to ``GET /usage``. Raises ValueError where it is another thing."""
    try:
        price = answer.get("price_per_gpu_hour")
        return [
            UsageRow(
                namespace=str(answer["namespace"]),
                service=str(answer["service"]),
                day=str(each["day"]),
                customer=str(each["customer"]),
                jobs=int(each["jobs"]),
                cached_jobs=int(each.get("cached_jobs", 0)),
                images=int(each["images"]),
                gpu_seconds=float(each["gpu_seconds"]),
                price_per_gpu_hour=None if price is None else float(price),
                currency=str(answer.get("currency") or ""),
            )
            for each in answer["days"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{error!r} in an answer about usage") from None


def write_csv(rows: Iterable[UsageRow]) -> str:
    """With a header; numbers as spreadsheets read them, names so that none is taken for a formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        cost = "" if row.cost is None else f"{row.cost:.4f}"
        price = "" if row.price_per_gpu_hour is None else f"{row.price_per_gpu_hour:g}"
        names = (row.namespace, row.service, row.day, _as_text(row.customer))
        writer.writerow(
            (*names, row.jobs, row.cached_jobs, row.images, f"{row.gpu_seconds:.3f}", price, cost, row.currency)
        )
    return file.getvalue()


def _as_text(name: str) -> str:
    """A customer's name is a Secret's key, which may begin with a minus; others come from other hands."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t", "\r") else name


def total_by_customer(rows: Sequence[UsageRow]) -> list[UsageRow]:
    """A row for each customer of each service, without days."""
    totals: dict[tuple[str, str, str], UsageRow] = {}
    for row in rows:
        key = (row.namespace, row.service, row.customer)
        before = totals.get(key)
        totals[key] = UsageRow(
            row.namespace,
            row.service,
            "",
            row.customer,
            row.jobs + (before.jobs if before else 0),
            row.cached_jobs + (before.cached_jobs if before else 0),
            row.images + (before.images if before else 0),
            row.gpu_seconds + (before.gpu_seconds if before else 0.0),
            row.price_per_gpu_hour,
            row.currency,
        )
    return [totals[key] for key in sorted(totals)]
