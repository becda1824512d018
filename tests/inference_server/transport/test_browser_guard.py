"""Who may call, by what a browser says of the page that asks."""

from typing import Any

import pytest
from easel_contract.gateway_config import GatewayConfig
from easel_server.gateway.refusals import RefusalError
from easel_server.transport.browser_guard import BrowserRules, strip_port

PAGE = "http://localhost:8080"


def judge(method: str = "POST", **said: Any) -> RefusalError | None:
    """``host`` and ``config`` are options, all else are headers."""
    host, config = said.pop("host", "localhost:8080"), said.pop("config", None)
    rules = BrowserRules(config or GatewayConfig(), own_name="mybox")
    headers = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in said.items()}
    return rules.find_fault(method, {**({b"host": host.encode("latin-1")} if host else {}), **headers})


def code_of(fault: RefusalError | None) -> str | None:
    return None if fault is None else fault.code


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "LOCALHOST.",
        "sd.localhost:1",
        "127.0.0.1:8080",
        "10.244.0.7",
        "[::1]:8080",
        "mybox",
        "mybox.local:8080",
        "",
    ],
)
def test_names_that_nobody_else_can_own_are_ones_own(host: str) -> None:
    assert judge("GET", host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "evil-localhost",
        "mybox.evil.example",
        "h",
        "é",
        "x" * 254,
        "x" * 60000,
        "127.0.0.1@evil.example",
        "localhost/",
        "local.host",
    ],
)
def test_a_name_that_a_page_may_point_here_is_refused_with_the_way_out(host: str) -> None:
    fault = judge("GET", host=host)
    assert fault is not None
    assert fault.code == "host_not_allowed"
    assert "--allowed-host" in fault.message
    assert "allowedHosts" in fault.message
    assert len(fault.message) < 500


def test_names_are_allowed_one_by_one_with_all_below_or_all() -> None:
    config = GatewayConfig(allowed_hosts=("images.example.com", "*.lab.example"), public_url="https://Art.example:8443")
    for host in ("images.example.com:80", "IMAGES.example.com", "a.b.lab.example", "art.example:8443", "art.example"):
        assert judge("GET", host=host, config=config) is None
    for host in ("lab.example", "evil.lab.example.com", "x.images.example.com"):
        assert code_of(judge("GET", host=host, config=config)) == "host_not_allowed"
    assert judge("GET", host="any.example", config=GatewayConfig(allowed_hosts=("*",))) is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "said",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost"},
        {"origin": "null"},
        {"origin": "http://"},
        {"origin": "http://localhost:8080.evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "origin": "http://localhost:3000"},
        {"sec_fetch_site": "cross-site", "origin": PAGE},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"},
    ],
)
def test_a_page_of_another_site_changes_nothing(method: str, said: dict[str, str]) -> None:
    assert code_of(judge(method, **said)) == "origin_not_allowed"


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"origin": PAGE},
        {"origin": PAGE, "sec_fetch_site": "same-origin"},
        {"origin": "https://behind.a.proxy", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
    ],
)
def test_programs_and_ones_own_page_are_served(said: dict[str, str]) -> None:
    assert judge(**said) is None


@pytest.mark.parametrize(
    ("origin", "host"),
    [("http://127.0.0.1", "127.0.0.1"), ("https://127.0.0.1:443", "127.0.0.1"), ("http://127.0.0.1:80", "127.0.0.1")],
)
def test_a_port_that_goes_without_saying_makes_no_other_site(origin: str, host: str) -> None:
    assert judge(origin=origin, host=host) is None


def test_a_page_of_another_site_shows_no_image_but_a_link_from_there_opens_one() -> None:
    embedded = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}
    assert code_of(judge("GET", **embedded)) == "origin_not_allowed"
    framed = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}
    assert code_of(judge("GET", **framed)) == "origin_not_allowed"
    assert judge("GET", **{**framed, "sec_fetch_dest": "document"}) is None


def test_other_sites_are_allowed_one_by_one_or_all() -> None:
    site = {"sec_fetch_site": "cross-site", "origin": "https://app.example.com"}
    assert judge(config=GatewayConfig(allowed_origins=("https://app.example.com",)), **site) is None
    assert judge(config=GatewayConfig(allowed_origins=("*",)), **site) is None
    assert judge(config=GatewayConfig(allowed_origins=("null",)), origin="null") is None
    other = GatewayConfig(allowed_origins=("https://app.example.com:8443", "http://app.example.com"))
    assert code_of(judge(config=other, **site)) == "origin_not_allowed"


def test_with_keys_a_page_is_stopped_only_where_the_browser_adds_the_key_by_itself() -> None:
    keyed = GatewayConfig(api_keys_directory="/keys")
    site = {"origin": "https://evil.example", "host": "any.example"}
    assert judge(config=keyed, **site) is None
    assert judge(config=keyed, authorization="Bearer key", **site) is None
    assert code_of(judge(config=keyed, authorization="BASIC a2V5", **site)) == "origin_not_allowed"
    assert judge("GET", config=keyed, authorization="Basic a2V5", sec_fetch_site="cross-site") is None


@pytest.mark.parametrize(
    ("host", "name"), [("A.b:80", "a.b"), ("[::1]:8080", "[::1]"), ("::1", ":"), ("a.b.", "a.b"), ("", "")]
)
def test_the_port_is_left_out(host: str, name: str) -> None:
    assert strip_port(host) == name
