"""What a middleware may send a request to, by name or as an app."""

import pytest
from pydantic import TypeAdapter

from asgi_gateway.asgi.targets import ServiceName, Target, target_app
from asgi_gateway.context import EXCHANGE, SERVICE, STRIPPED_PREFIX
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import ScriptedApp, request
from asgi_gateway.types import Receive, Scope, Send


def test_a_text_becomes_a_service_name_and_an_app_stays() -> None:
    option: TypeAdapter[object] = TypeAdapter(Target)
    app = ScriptedApp()
    assert type(option.validate_python("ai")) is ServiceName
    assert option.validate_python(app) is app


async def test_an_app_is_called_as_it_is() -> None:
    assert (await request(target_app(ScriptedApp(204), Runtime()))).status == 204


async def test_for_an_app_a_stripped_prefix_becomes_part_of_its_root_path() -> None:
    app, prefix = ScriptedApp(200), {STRIPPED_PREFIX: b"/caf\xc3\xa9"}
    await request(target_app(app, Runtime()), path="/root/caf\xe9/x", root_path="/root", **prefix)
    [inner] = app.calls
    assert (inner["root_path"], inner["path"]) == ("/root/caf\xe9", "/root/caf\xe9/x")
    assert STRIPPED_PREFIX not in inner


async def test_a_name_leads_to_the_chain_that_the_service_has_now() -> None:
    seen: list[tuple[object, object]] = []

    async def chain(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope[SERVICE], scope[EXCHANGE].service))
        await ScriptedApp(200)(scope, receive, send)

    chains = {"spare": ScriptedApp(500)}
    target = target_app(ServiceName("spare"), Runtime(chains=chains))
    chains["spare"] = chain  # type: ignore[assignment] # a reload
    assert (await request(target)).status == 200
    assert seen == [("spare", "spare")]


def test_a_name_without_a_gateway_is_refused() -> None:
    with pytest.raises(ValueError, match="'spare' names a service, but there is no gateway here"):
        target_app("spare", Runtime())
