"""URLs of stores, and what is never said of them."""

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
