"""What to call for an app."""

from __future__ import annotations

from types import FunctionType, MethodType

from asgi_gateway.types import ASGIApp


def direct(app: ASGIApp) -> ASGIApp:
    """The app in the form whose call costs least: a bound method in place of the object.

    A layer that has nothing more to do once it has passed a request on may have a method `enter_asgi` beside
    its ``__call__``: a plain function that returns what the inner app returned, to be awaited by the
    caller. It keeps no frame while the inner app runs, nor any scope. Its ``__call__`` stays a coroutine
    function, by which servers know an ASGI 3 application. Whoever overrides ``__call__`` alone is obeyed.
    """
    owner = next((cls for cls in type(app).__mro__ if "__call__" in vars(cls)), None)
    members = vars(owner) if owner is not None else {}
    if "enter_asgi" in members:
        enter: ASGIApp = app.enter_asgi  # type: ignore[attr-defined]
        return enter
    call = members.get("__call__")
    return MethodType(call, app) if isinstance(call, FunctionType) else app
