"""URLs of stores, and what is never said of them."""

import ssl

import pytest

from asgi_gateway.config import ConfigError, parse_config
from asgi_gateway.config.effective import effective_yaml
from asgi_gateway.stores.url import parse_store_url

MINIMAL = "version: 1\nstate: '{}'\nservices: {{a: {{url: 'http://127.0.0.1:9', routes: [{{path: /*}}]}}}}\n"


@pytest.mark.parametrize(
    ("url", "kind", "places"),
    [
        ("valkey://a", "single", (("a", 6379),)),
        ("rediss://[::1]:7000/2", "single", (("::1", 7000),)),
        ("unix:///run/s.sock", "single", (("/run/s.sock", 0),)),
        ("redis+sentinel://a,b:7/m", "sentinel", (("a", 26379), ("b", 7))),
        ("valkey+cluster://a:1,b:2", "cluster", (("a", 1), ("b", 2))),
    ],
)
def test_places(url: str, kind: str, places: tuple[tuple[str, int], ...]):
    address = parse_store_url(url)
    assert (address.kind, address.places) == (kind, places)


@pytest.mark.parametrize(
    "url", ["http://a", "valkey://", "valkey://a,b", "valkey://a/x", "redis+sentinel://a", "redis://a:0?x=1"]
)
def test_what_is_no_store(url: str):
    with pytest.raises(ValueError):
        parse_store_url(url)


def test_a_password_is_used_and_never_shown():
    address = parse_store_url("valkey://me:s%40cret@a")
    assert address.password == "s@cret"
    config = parse_config(MINIMAL.format("valkey://me:s3cret@a"))
    with pytest.raises(ConfigError) as caught:
        parse_config(MINIMAL.format("valkey://me:s3cret@a/nodb"))
    for said in (str(address), repr(address), repr(config), effective_yaml(config), str(caught.value)):
        assert "cret" not in said


@pytest.mark.parametrize(
    "url",
    [
        "valkey://:pa?s3cret@host",
        "valkey://:pa?s3cret=x@host",
        "valkey://:pa?cret=x@host",
        "valkey://:pa?db=s3cret@host",
        "valkey://:pa#s3cret@host",
        "valkey://:pa/s3cret@host",
        "valkey://:s3cret\uff0fpa@host",
        "valkey://:s3cret[pa@host",
    ],
)
def test_a_password_that_is_not_escaped_is_quoted_in_no_mistake(url: str):
    with pytest.raises(ConfigError) as caught:
        parse_config(MINIMAL.format(url))
    assert "cret" not in str(caught.value)
    with pytest.raises(ValueError) as refused:
        parse_store_url(url)
    assert "cret" not in str(refused.value)


def test_a_misspelt_option_is_named():
    with pytest.raises(ValueError, match="no option 'ssl_cafile'; known are db, ssl_ca_certs"):
        parse_store_url("rediss://a?ssl_cafile=ca.pem")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://a?ssl_ca_certs=ca.pem", "without TLS"),
        ("rediss+unix:///run/s.sock", "has no TLS"),
        ("rediss://a?ssl_cert_reqs=CERT_NONE", "'required' or 'none'"),
        ("rediss://a?ssl_check_hostname=maybe", "'true' or 'false'"),
        ("rediss://a?ssl_keyfile=key.pem", "needs an 'ssl_certfile'"),
        ("redis://a/0?db=2", "not in both"),
        ("redis+sentinel://a/m/0?db=2", "not in both"),
        ("redis://a/0#more", "no '#'"),
    ],
)
def test_nothing_that_a_url_says_is_dropped(url: str, why: str):
    with pytest.raises(ValueError, match=why):
        parse_store_url(url)


def test_a_database_is_in_the_path_or_an_option():
    assert [parse_store_url(url).database for url in ("redis://a/2", "redis://a?db=2", "redis://a")] == [
        2,
        2,
        0,
    ]


@pytest.mark.parametrize(
    ("options", "mode", "named"),
    [
        ("", ssl.CERT_REQUIRED, True),
        ("?ssl_cert_reqs=optional", ssl.CERT_REQUIRED, True),
        ("?ssl_check_hostname=No", ssl.CERT_REQUIRED, False),
        ("?ssl_cert_reqs=none&ssl_check_hostname=true", ssl.CERT_NONE, False),
    ],
)
def test_who_is_trusted(options: str, mode: ssl.VerifyMode, named: bool):
    context = parse_store_url(f"rediss://a{options}").tls
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (mode, named)
