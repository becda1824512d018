"""The buckets' arithmetic, with a clock that tests set."""

from easel_server.stores.limits.buckets import BucketLevel, decide_rate
from easel_server.stores.limits.interface import Charge
from hypothesis import given
from hypothesis import strategies as st

BEGINNING = 1_700_000_000_000
amounts = st.integers(1, 5_000)


@st.composite
def buckets(draw: st.DrawFn, name: str) -> Charge:
    return Charge(name, draw(amounts), per_minute=draw(st.integers(1, 10_000_000)), burst=draw(st.integers(1, 20_000)))


@given(
    charges=st.tuples(buckets("a"), buckets("b")),
    pauses=st.lists(st.integers(0, 200_000), min_size=1, max_size=60),
)
def test_the_limit_holds_and_what_is_reported_is_true_to_the_millisecond(
    charges: tuple[Charge, Charge], pauses: list[int]
) -> None:
    levels: tuple[BucketLevel, ...] = (BucketLevel(), BucketLevel())
    now, passed = BEGINNING, 0
    for pause in pauses:
        now += pause
        decision, levels = decide_rate(charges, levels, now)
        passed += decision.allowed
        if decision.allowed:
            assert decision.retry_after_seconds == 0
            continue
        wait = round(decision.retry_after_seconds * 1000)
        assert wait >= 1
        assert not decide_rate(charges, levels, now + wait - 1)[0].allowed
        assert decide_rate(charges, levels, now + wait)[0].allowed
    for charge in charges:
        refilled = (now - BEGINNING) * charge.per_minute / 60_000
        # A charge that is larger than its bucket leaves it in debt, and so overdraws it once.
        assert passed * charge.amount <= max(charge.burst, charge.amount) + refilled


@given(charges=st.tuples(buckets("a"), buckets("b")), taken=st.integers(0, 50))
def test_a_refusal_takes_nothing_and_what_is_refunded_is_as_if_it_had_not_been_taken(
    charges: tuple[Charge, Charge], taken: int
) -> None:
    levels: tuple[BucketLevel, ...] = (BucketLevel(), BucketLevel())
    for _ in range(taken):
        before = levels
        decision, levels = decide_rate(charges, levels, BEGINNING)
        if not decision.allowed:
            assert [level.level for level in levels] == [level.level for level in before]
            continue
        back = [Charge(charge.bucket, -charge.amount, charge.per_minute, charge.burst) for charge in charges]
        returned, restored = decide_rate(back, levels, BEGINNING)
        assert returned.allowed
        assert [level.level for level in restored] == [level.level for level in before]


def test_a_charge_above_its_bucket_waits_for_a_full_one_and_leaves_it_in_debt() -> None:
    large = Charge("gpu-seconds:a", amount=90_000, per_minute=60_000, burst=60_000)
    small = Charge("gpu-seconds:a", amount=1_000, per_minute=60_000, burst=60_000)
    decision, levels = decide_rate([large], [BucketLevel()], BEGINNING)
    assert decision.allowed
    assert decision.buckets[0].remaining == 0
    assert decision.buckets[0].reset_seconds == 90
    assert decide_rate([small], levels, BEGINNING)[0].retry_after_seconds == 31
    assert decide_rate([large], levels, BEGINNING)[0].retry_after_seconds == 90


def test_a_clock_that_was_set_back_blocks_nobody_for_longer_than_the_debt_takes() -> None:
    charge = Charge("requests:a", amount=1_000, per_minute=60_000, burst=2_000)
    level = BucketLevel(2_000 * 60_000, at_milliseconds=BEGINNING + 10**9)
    decision, _ = decide_rate([charge], [level], BEGINNING)
    assert not decision.allowed
    assert decision.retry_after_seconds == 1
