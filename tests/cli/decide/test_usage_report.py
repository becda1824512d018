"""What customers have used, in tables and for spreadsheets."""

import csv

import pytest
from easel_cli.decide.usage_report import parse_usage, total_by_customer, write_csv

ANSWER = {
    "service": "sdxl",
    "namespace": "art",
    "currency": "EUR",
    "price_per_gpu_hour": 1.8,
    "days": [
        {"day": "2026-11-01", "customer": "acme", "jobs": 2, "cached_jobs": 3, "images": 4, "gpu_seconds": 1000.0},
        {"day": "2026-11-02", "customer": "acme", "jobs": 1, "images": 1, "gpu_seconds": 1000.5},
        {"day": "2026-11-02", "customer": "-studio", "jobs": 5, "images": 5, "gpu_seconds": 1.25},
    ],
}


def test_the_cost_is_gpu_hours_at_their_price() -> None:
    assert parse_usage(ANSWER)[0].cost == pytest.approx(0.5)
    assert parse_usage({**ANSWER, "price_per_gpu_hour": None})[0].cost is None


def test_totals_are_of_each_customer() -> None:
    totals = {row.customer: row for row in total_by_customer(parse_usage(ANSWER))}
    assert (totals["acme"].jobs, totals["acme"].images, totals["acme"].gpu_seconds) == (3, 5, 2000.5)
    assert list(totals) == ["-studio", "acme"]


def test_a_spreadsheet_reads_numbers_and_takes_no_name_for_a_formula() -> None:
    rows = list(csv.DictReader(write_csv(parse_usage(ANSWER)).splitlines()))
    assert rows[0] == {
        "namespace": "art",
        "service": "sdxl",
        "day": "2026-11-01",
        "customer": "acme",
        "jobs": "2",
        "cached_jobs": "3",
        "images": "4",
        "gpu_seconds": "1000.000",
        "price_per_gpu_hour": "1.8",
        "cost": "0.5000",
        "currency": "EUR",
    }
    assert rows[2]["customer"] == "'-studio"


@pytest.mark.parametrize("answer", [{}, {**ANSWER, "days": [{}]}, {**ANSWER, "days": None}])
def test_another_answer_is_refused(answer: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="an answer about usage"):
        parse_usage(answer)
