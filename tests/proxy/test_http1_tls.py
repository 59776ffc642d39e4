"""TLS towards a service, on real sockets with real certificates."""

import asyncio
import datetime as dt
import gc
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
import uvloop
from cryptography.hazmat.primitives import serialization

from asgi_gateway import Gateway
from asgi_gateway.config import Config, ConfigError, parse_config
from asgi_gateway.proxy.endpoints import EndpointsApp
from asgi_gateway.proxy.tls import ClientTls, Tls, client_context
from asgi_gateway.proxy.transport import Origin, UpstreamError
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import Upstream, behaviours, request
from tests.proxy.conftest import MakeTransport, fetch, get


class Authority:
    """A certificate authority of a test's own."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.authority = trustme.CA()
        self.folder = folder
        self.file = str(folder / f"{name}.pem")
        self.authority.cert_pem.write_to_path(self.file)

    def server(self, *names: str, **options) -> ssl.SSLContext:
        """What a service with a certificate for these names speaks."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*(names or ("127.0.0.1",)), **options).configure_cert(context)
        return context

    def client(self) -> tuple[str, str]:
        """The files of a client's certificate and of its key."""
        issued = self.authority.issue_cert("gateway@example.org")
        issued.cert_chain_pems[0].write_to_path(str(self.folder / "client.pem"))
        issued.private_key_pem.write_to_path(str(self.folder / "client.key"))
        return str(self.folder / "client.pem"), str(self.folder / "client.key")


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def https(upstream: Upstream, host: str = "127.0.0.1") -> Origin:
    return Origin(host, upstream.port, tls=True)


async def test_service_with_a_trusted_certificate_is_spoken_to(
    make_http1: MakeTransport, ca: Authority
) -> None:
    async with (
        Upstream(behaviours.answer(), tls=ca.server()) as upstream,
        make_http1(0, origin=https(upstream), tls=Tls(ca=ca.file)) as transport,
    ):
        assert [await fetch(transport) for _ in range(3)] == [b"ok"] * 3
        assert upstream.connections.total == 1


def expired() -> dict:
    return {"not_after": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}


UNTRUSTED: dict[str, Callable[[Authority], tuple[ssl.SSLContext | None, Tls]]] = {
    "unknown authority": lambda ca: (ca.server(), Tls()),
    "expired": lambda ca: (ca.server("127.0.0.1", **expired()), Tls(ca=ca.file)),
    "wrong address": lambda ca: (ca.server("127.0.0.2"), Tls(ca=ca.file)),
    "wrong name": lambda ca: (ca.server("a.example"), Tls(ca=ca.file, server_name="b.example")),
    "plaintext": lambda ca: (None, Tls(ca=ca.file)),
}


@pytest.mark.parametrize("how", UNTRUSTED.values(), ids=UNTRUSTED)
async def test_service_that_is_not_trusted_is_sent_nothing(
    make_http1: MakeTransport, ca: Authority, how: Callable[[Authority], tuple[ssl.SSLContext | None, Tls]]
) -> None:
    context, tls = how(ca)
    async with (
        Upstream(behaviours.answer(), tls=context) as upstream,
        make_http1(0, origin=https(upstream), tls=tls, timeouts={"connect": 0.5}) as transport,
    ):
        with pytest.raises(UpstreamError) as caught:
            await fetch(transport, get(b"POST", b"secret"))
        assert transport.in_flight == 0
    assert caught.value.failure.code in ("upstream_connect", "upstream_timeout")
    assert (caught.value.failure.kind == "connect") or context is None
    assert not caught.value.failure.request_sent
    assert upstream.requests == []


async def test_a_plaintext_service_that_answers_is_a_failed_connection(make_http1: MakeTransport) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with make_http1(0, origin=Origin("127.0.0.1", port, tls=True)) as transport:
            with pytest.raises(UpstreamError) as caught:
                await fetch(transport)
    assert caught.value.failure.code == "upstream_connect"


async def test_verification_can_be_switched_off(make_http1: MakeTransport, ca: Authority) -> None:
    async with (
        Upstream(behaviours.answer(), tls=ca.server("elsewhere.example")) as upstream,
        make_http1(0, origin=https(upstream), tls=Tls(verify=False)) as transport,
    ):
        assert await fetch(transport) == b"ok"


async def test_server_name_is_asked_for_and_verified_apart_from_host(
    make_http1: MakeTransport, ca: Authority
) -> None:
    asked = []
    context = ca.server("inner.example")
    context.sni_callback = lambda connection, name, context: asked.append(name)
    async with (
        Upstream(behaviours.answer(), tls=context) as upstream,
        make_http1(0, origin=https(upstream), tls=Tls(ca=ca.file, server_name="inner.example")) as transport,
    ):
        assert await fetch(transport) == b"ok"
    assert asked == ["inner.example"]
    assert upstream.requests[0].all("host") == [b"service"]


async def test_the_gateway_shows_its_own_certificate(make_http1: MakeTransport, ca: Authority) -> None:
    context = ca.server()
    context.verify_mode = ssl.CERT_REQUIRED
    ca.authority.configure_trust(context)
    certificate, key = ca.client()
    peers = []

    async def handler(request, connection) -> None:
        peers.append(connection.transport.get_extra_info("peercert")["subjectAltName"])
        await connection.respond()

    async with Upstream(handler, tls=context) as upstream:
        tls = Tls(ca=ca.file, certificate=certificate, key=key)
        async with make_http1(0, origin=https(upstream), tls=tls) as transport:
            await fetch(transport)
        async with make_http1(0, origin=https(upstream), tls=Tls(ca=ca.file)) as transport:
            with pytest.raises(UpstreamError):
                await fetch(transport)
    assert peers == [(("email", "gateway@example.org"),)]
    assert len(upstream.requests) == 1


async def test_older_versions_than_the_minimum_are_refused(make_http1: MakeTransport, ca: Authority) -> None:
    context = ca.server()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with Upstream(behaviours.answer(), tls=context) as upstream:
        async with make_http1(0, origin=https(upstream), tls=Tls(ca=ca.file)) as transport:
            assert await fetch(transport) == b"ok"
        strict = Tls(ca=ca.file, minimum_version="1.3")
        async with make_http1(0, origin=https(upstream), tls=strict) as transport:
            with pytest.raises(UpstreamError) as caught:
                await fetch(transport)
    assert caught.value.failure.code == "upstream_connect"


async def test_files_that_change_are_read_again(
    make_http1: MakeTransport, ca: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    async with (
        Upstream(behaviours.answer(), tls=other.server()) as upstream,
        make_http1(0, origin=https(upstream), tls=Tls(ca=ca.file)) as transport,
    ):
        with pytest.raises(UpstreamError):
            await fetch(transport)
        Path(other.file).replace(ca.file)
        assert await fetch(transport) == b"ok"


def test_a_change_that_cannot_be_used_keeps_what_was(ca: Authority, caplog: pytest.LogCaptureFixture) -> None:
    tls = ClientTls(Tls(ca=ca.file))
    before = tls.context()
    assert tls.context() is before
    Path(ca.file).write_text("not yet")
    assert [tls.context(), tls.context()] == [before, before]
    assert caplog.text.count("the old ones stay in use") == 1
    Path(ca.file).unlink()
    assert tls.context() is before
    ca.authority.cert_pem.write_to_path(ca.file)
    assert tls.context() is not before


def test_an_encrypted_key_is_refused_and_nobody_is_asked(ca: Authority) -> None:
    certificate, key = ca.client()
    loaded_key = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    encrypted = f"{key}.encrypted"
    Path(encrypted).write_bytes(
        loaded_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    with pytest.raises(ValueError, match="encrypted"):
        client_context(Tls(certificate=certificate, key=encrypted))


def loaded(tls: str, url: str = "https://x") -> Config:
    return parse_config(
        f"version: 1\nservices:\n  ai:\n    url: {url}\n    routes: [{{path: /*}}]\n    tls: {tls}\n"
    )


def told(tls: str, url: str = "https://x") -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(tls, url)
    return str(caught.value)


def test_files_that_cannot_be_used_are_mistakes_with_their_place(ca: Authority, tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    certificate, _ = ca.client()
    missing = told("{ca: /nowhere/ca.pem}")
    assert missing.startswith("<config>:6:10: services.ai.tls: 'ca' cannot be used: /nowhere/ca.pem: No such")
    assert "'ca' cannot be used" in told(f"{{ca: {tmp_path}/junk.pem}}")
    assert "'certificate' cannot be used" in told(f"{{certificate: {tmp_path}/junk.pem}}")
    assert "'key' cannot be used" in told(f"{{certificate: {certificate}, key: /nowhere/key}}")
    assert "'certificate' cannot be used" in told(f"{{certificate: {certificate}, key: {certificate}}}")
    assert "'key' needs a 'certificate'" in told("{key: /nowhere/key}")
    assert "'tls' is for a service whose every URL is https" in told("{}", "http://x")
    assert "expected '1.2' or '1.3'" in told("{minimum_version: 1.1}")


def service(ca: str, *urls: str) -> dict:
    """A service in several places that are all trusted by one authority."""
    one = {"endpoints": [{"url": url} for url in urls], "tls": {"ca": ca}, "routes": [{"path": "/*"}]}
    return {"version": 1, "services": {"ai": {**one, "balance": "round_robin"}}}


async def test_several_endpoints_are_trusted_by_the_same_options(ca: Authority) -> None:
    async with (
        Upstream(behaviours.answer(body=b"one"), tls=ca.server()) as one,
        Upstream(behaviours.answer(body=b"two"), tls=ca.server()) as two,
    ):
        urls = [f"https://127.0.0.1:{upstream.port}" for upstream in (one, two)]
        gateway = Gateway(service(ca.file, *urls))
        answers = {(await request(gateway)).body for _ in range(4)}
    assert answers == {b"one", b"two"}


def test_tls_options_do_not_stand_beside_an_endpoint_without_tls(ca: Authority) -> None:
    with pytest.raises(ConfigError, match="'tls' is for a service whose every URL is https"):
        parse_config(service(ca.file, "https://a", "http://b"))


def test_options_are_read_as_they_are_written(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert loaded("{ca: ca.pem, minimum_version: 1.3}").services["ai"].tls == Tls(
        ca="ca.pem", minimum_version="1.3"
    )


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_event_loops_speak_it(ca: Authority, make_http1: MakeTransport, loop: Callable) -> None:
    async def both() -> None:
        async with (
            Upstream(behaviours.answer(), tls=ca.server()) as upstream,
            make_http1(0, origin=https(upstream), tls=Tls(ca=ca.file)) as transport,
        ):
            assert [await fetch(transport) for _ in range(3)] == [b"ok"] * 3
            with pytest.raises(UpstreamError):
                async with make_http1(0, origin=https(upstream)) as distrustful:
                    await fetch(distrustful)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(both())


async def test_services_that_trust_alike_load_it_once(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each endpoint loaded the system's certificates three times, while requests waited."""
    loads: list[Tls] = []

    def load(tls: Tls) -> ssl.SSLContext:
        loads.append(tls)
        return client_context(tls)

    monkeypatch.setattr("asgi_gateway.proxy.tls.client_context", load)
    urls = [f"https://{name}.example" for name in ("one", "two", "three")]
    check = {"path": "/up"}
    many = {"endpoints": [{"url": url} for url in urls], "health_check": check, "resolve": "all"}
    services = {
        name: {"routes": [{"path": f"/{name}/*"}], **service}
        for name, service in {
            "many": many,
            "more": many,
            "own": {"url": urls[0], "tls": {"ca": ca.file}},
            "http2": {**many, "resolve": "first", "transport": "http2"},
        }.items()
    }
    gateway = Gateway({"version": 1, "services": services})
    assert loads == [Tls(), Tls(ca=ca.file), Tls()]  # HTTP/2 has its own, as it says so in TLS
    app = gateway._live.services["many"].terminal
    assert isinstance(app, EndpointsApp)
    for name in app._names.values():
        name.make("127.0.0.1")
    many["endpoints"].append({"url": "https://four.example"})
    await gateway.reload({"version": 1, "services": services})
    assert len(loads) == 3


def test_what_no_service_uses_any_more_is_forgotten(ca: Authority) -> None:
    runtime = Runtime()
    service = {"url": "https://x", "tls": {"ca": ca.file}, "routes": [{"path": "/*"}]}
    gateway = Gateway({"version": 1, "services": {"x": service}}, runtime=runtime)
    assert list(runtime.loaded) == [(Tls(ca=ca.file), "http1")]
    del gateway
    gc.collect()
    assert not runtime.loaded
