"""What a URL with Sentinels says, and what is said of one that can't be."""

import pytest
from easel_contract.redis_url import add_certificate_authority, parse_sentinel_url, replace_login


def test_all_of_a_url_is_read() -> None:
    url = "rediss+sentinel://user:p%40ss@a.example,[::1]:7000/my%2Fmaster/3?sentinel_password=s%26t&ssl_ca_certs=/ca"
    read = parse_sentinel_url(url)
    assert read is not None
    assert read.sentinels == (("a.example", 26379), ("::1", 7000))
    assert (read.master, read.sentinel_username, read.sentinel_password) == ("my/master", None, "s&t")
    assert read.is_tls
    assert read.at("10.0.0.1", 6380) == "rediss://user:p%40ss@10.0.0.1:6380/3?ssl_ca_certs=%2Fca"
    assert read.at("fd00::1", 6380).startswith("rediss://user:p%40ss@[fd00::1]:6380/3")


def test_what_is_shown_of_it_holds_no_password() -> None:
    read = parse_sentinel_url("redis+sentinel://user:secret@a:1,b/m?sentinel_password=secret")
    assert str(read) == "the master m of a:1,b:26379"
    assert "secret" not in repr(read)


def test_a_url_of_one_server_names_no_sentinels() -> None:
    for url in (
        "rediss://user:password@host:6380/0",
        "redis://host?password=a@b",
        "redis://[::1]:1",
        "unix:///run/a@b",
    ):
        assert parse_sentinel_url(url) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel://a:1,b:2", "has no name of a master behind it"),
        ("redis+sentinel://a:1/m/zero", "'zero' behind the master m is no number of a database"),
        ("redis+sentinel://a:1/m/0/1", "is no number of a database"),
        ("redis+sentinel://a:x/m", "'a:x' is no address of a Sentinel: write HOST or HOST:PORT"),
        ("redis+sentinel://a:70000/m", "is no address of a Sentinel"),
        ("redis+sentinel://,/m", "'' is no address of a Sentinel"),
        ("redis+sentinel://" + ",".join("abcdefghij") + "/m", "10 Sentinels are named; 9 are allowed"),
        ("redis+sentinel://:se/cret@a:1/m", "must be written as %2F"),
        ("redis://:se/cret@a:1/0", "must be written as %2F"),
        ("redis+sentinel://:cret?se@a:1/m", "must be written as %2F %3F"),
        ("redis+sentinel://:cret#se@a:1/m", "must be written as %2F %3F %23"),
        ("redis://:cret?se@a:1/0", "must be written as %2F %3F"),
        ("redis://user:secret\u2100@a:1/0", "it names no host"),
        ("redis://user:se[cret]@a:1/0", "must be written as %2F %3F %23 %40 %5B %5D"),
        ("redis://a:cret/0", "a port of 1 to 65535"),
    ],
)
def test_what_cannot_be_is_said_without_the_password(url: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the sentence is looked at below
        parse_sentinel_url(url)
    assert said in str(caught.value)
    assert "cret" not in str(caught.value)


def test_another_login_leaves_everything_else() -> None:
    assert replace_login("redis+sentinel://a:b@h:1,i:2/m/0?x=1", "c:d") == "redis+sentinel://c:d@h:1,i:2/m/0?x=1"
    assert replace_login("redis://a:b@h:1/0", "") == "redis://h:1/0"
    theirs = "redis://h:1/0?username=admin&password=secret&ssl_ca_certs=%2Fx"
    assert replace_login(theirs, "c:d") == "redis://c:d@h:1/0?ssl_ca_certs=%2Fx", "nobody else's stays in it"


def test_an_authority_is_added_where_there_is_tls() -> None:
    assert add_certificate_authority("rediss://h/0?a=b", "/x/ca.crt") == "rediss://h/0?a=b&ssl_ca_certs=/x/ca.crt"
    with pytest.raises(ValueError, match="redis:// has no TLS: write rediss://"):
        add_certificate_authority("redis://h/0", "/x/ca.crt")
