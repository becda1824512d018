"""A gateway's own copies."""

from easel_server.gateway.local_cache import LocalCache


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_copy_is_as_old_as_its_original_and_ends_with_it():
    clock = Clock()
    cache: LocalCache[str] = LocalCache(100, clock)
    cache.put("key", "value", size_bytes=10, age_seconds=50, ttl_seconds=20)
    clock.now += 5
    assert cache.get("key") == ("value", 55)
    clock.now += 15
    assert cache.get("key") is None
    assert cache.size_bytes == 0


def test_the_least_recently_used_make_room():
    cache: LocalCache[str] = LocalCache(30)
    for key in "abc":
        cache.put(key, key, size_bytes=10, age_seconds=0, ttl_seconds=1000)
    cache.get("a")
    cache.put("d", "d", size_bytes=20, age_seconds=0, ttl_seconds=1000)
    assert [key for key in "abcd" if cache.get(key)] == ["a", "d"]
    assert cache.size_bytes == 30


def test_what_is_above_the_budget_or_over_is_not_kept():
    cache: LocalCache[str] = LocalCache(30)
    cache.put("old", "old", size_bytes=10, age_seconds=0, ttl_seconds=1000)
    cache.put("large", "large", size_bytes=31, age_seconds=0, ttl_seconds=1000)
    cache.put("over", "over", size_bytes=1, age_seconds=0, ttl_seconds=0)
    cache.put("old", "new", size_bytes=12, age_seconds=0, ttl_seconds=1000)
    assert [cache.get(key) is not None for key in ("old", "large", "over")] == [True, False, False]
    assert cache.size_bytes == 12


def test_what_has_expired_makes_room_before_what_was_used_least():
    clock = Clock()
    cache: LocalCache[str] = LocalCache(30, clock)
    cache.put("lasting", "lasting", size_bytes=10, age_seconds=0, ttl_seconds=1000)
    cache.put("short", "short", size_bytes=20, age_seconds=0, ttl_seconds=5)
    clock.now += 5
    cache.put("new", "new", size_bytes=20, age_seconds=0, ttl_seconds=1000)
    assert [cache.get(key) is not None for key in ("lasting", "short", "new")] == [True, False, True]


def test_an_entry_whose_successor_is_not_kept_is_gone_all_the_same():
    cache: LocalCache[str] = LocalCache(30)
    for size_bytes, ttl_seconds in ((31, 1000), (1, 0)):
        cache.put("key", "old", size_bytes=10, age_seconds=0, ttl_seconds=1000)
        cache.put("key", "new", size_bytes=size_bytes, age_seconds=0, ttl_seconds=ttl_seconds)
        assert cache.get("key") is None
    assert cache.size_bytes == 0
