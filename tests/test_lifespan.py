import asyncio

import pytest

from asgi_gateway.lifespan import InnerLifespan, StartupFailed


def lifespan_app(log: list[str], *, fail_at: str = "", raise_after: bool = False):
    async def app(scope, receive, send) -> None:
        for step in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{step}"
            log.append(step)
            outcome = "failed" if fail_at == step else "complete"
            await send({"type": f"lifespan.{step}.{outcome}", "message": "no database"})
            if outcome == "failed":
                if raise_after:
                    raise RuntimeError("no database")
                return
        scope["state"]["left"] = True

    return app


async def test_app_is_started_and_stopped_with_the_shared_state() -> None:
    log: list[str] = []
    state: dict[str, object] = {}
    before = asyncio.all_tasks()
    inner = InnerLifespan(lifespan_app(log), "app", state)
    await inner.startup()
    assert log == ["startup"]
    await inner.shutdown()
    assert log == ["startup", "shutdown"]
    assert state == {"left": True}
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("raise_after", [False, True])
async def test_app_that_says_failed_stops_the_startup(raise_after: bool) -> None:
    inner = InnerLifespan(lifespan_app([], fail_at="startup", raise_after=raise_after), "app", {})
    with pytest.raises(StartupFailed, match="app: no database"):
        await inner.startup()


@pytest.mark.parametrize("receives_first", [False, True])
async def test_app_that_raises_has_no_lifespan_and_is_served_all_the_same(
    receives_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope, receive, send) -> None:
        if receives_first:
            await receive()
        raise ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")

    inner = InnerLifespan(app, "app", {})
    await inner.startup()
    await inner.shutdown()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_app_that_raises_once_it_has_started_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope, receive, send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise ValueError("a pool that does not close")

    inner = InnerLifespan(app, "app", {})
    await inner.startup()
    await inner.shutdown()
    [error] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "app raised on the lifespan scope" in error.getMessage()
    assert "a pool that does not close" in caplog.text


async def test_app_that_returns_at_once_has_no_lifespan() -> None:
    async def app(scope, receive, send) -> None:
        return

    inner = InnerLifespan(app, "app", {})
    await inner.startup()
    await inner.shutdown()


async def test_failing_shutdown_is_logged_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    inner = InnerLifespan(lifespan_app([], fail_at="shutdown"), "app", {})
    await inner.startup()
    await inner.shutdown()
    assert "no database" in caplog.text


async def test_app_that_stops_and_does_not_return_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Under a server alone it would hold up nothing either: that waits for the message only."""

    async def app(scope, receive, send) -> None:
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        await asyncio.Event().wait()

    monkeypatch.setattr("asgi_gateway.lifespan.LINGER", 0.01)
    inner = InnerLifespan(app, "app", {})
    await inner.startup()
    async with asyncio.timeout(5):
        await inner.shutdown()
    assert "app does not return from its lifespan" in caplog.text
