"""Signed links by the clock: how long they hold, and keys that are none."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from easel_contract.keys import parse_link_keys
from easel_server.gateway.link_signer import LinkKeys, LinkSigner
from easel_server.gateway.refusals import RefusalError

from tests.support.jobs import build_job

NOW = datetime(2026, 11, 26, 12, 0, 30, tzinfo=UTC)
KEY = "k" * 64


class Clock:
    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


def query_of(signer: LinkSigner, **changes: object) -> dict[str, str]:
    return dict(parse_qsl(signer.sign(build_job("job").model_copy(update=changes), "output/0")))


def test_a_link_holds_as_long_as_the_result_is_kept_and_says_so_after() -> None:
    clock = Clock()
    signer = LinkSigner(LinkKeys(text=KEY), ttl_seconds=600, now=clock)
    query = query_of(signer, finished_at=NOW)
    clock.now += 599
    assert signer.check("job", "output/0", query)
    clock.now += 1
    with pytest.raises(RefusalError, match="expired at 2026-11-26 12:10:30 UTC"):
        signer.check("job", "output/0", query)


def test_a_link_to_a_job_that_waits_holds_for_one_to_two_times_to_live_and_is_no_news_at_each_look() -> None:
    clock = Clock()
    signer = LinkSigner(LinkKeys(text=KEY), ttl_seconds=600, now=clock)
    first = query_of(signer)
    clock.now += 100
    assert query_of(signer) == first
    clock.now += 500
    assert query_of(signer) != first
    assert signer.check("job", "output/0", first)
    clock.now += 600
    with pytest.raises(RefusalError, match="expired"):
        signer.check("job", "output/0", first)


def test_the_signature_is_of_the_object_the_job_and_the_moment() -> None:
    signer = LinkSigner(LinkKeys(text=KEY), ttl_seconds=600, now=Clock())
    query = query_of(signer)
    for job, part, changed in (
        ("job2", "output/0", query),
        ("job", "output/1", query),
        ("job", "previews/0", query),
        ("job", "output/0", query | {"expires": str(int(query["expires"]) + 1)}),
    ):
        with pytest.raises(RefusalError, match="doesn't fit"):
            signer.check(job, part, changed)


def test_a_file_without_a_good_key_signs_nothing_and_opens_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("short")
    signer = LinkSigner(LinkKeys(file=file), ttl_seconds=600, now=Clock())
    assert query_of(signer) == {}
    with pytest.raises(RefusalError):
        signer.check("job", "output/0", {"signature": "", "expires": str(int(NOW.timestamp()) + 60)})


def test_a_file_that_is_missing_opens_nothing_until_it_is_there(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", [0.0]
    keys = LinkKeys(file=file, clock=lambda: clock[0])
    assert keys.current() == ()
    file.write_text(KEY)
    clock[0] += timedelta(seconds=1).total_seconds()
    assert keys.current() == (KEY.encode(),)


def test_keys_are_words_and_there_are_not_too_many() -> None:
    assert parse_link_keys(f" {KEY}\n{'m' * 32}  short ") == (KEY.encode(), b"m" * 32)
    assert len(parse_link_keys(" ".join(f"{n:032}" for n in range(100)))) == 8
