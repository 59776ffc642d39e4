"""The version that the commands name."""

from importlib.metadata import PackageNotFoundError, version

from asgi_gateway import router


def package_version() -> str:
    """The installed version."""
    try:
        return version("asgi-gateway")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "(not installed)"


def build() -> str:
    """Whether what every request passes is compiled; the router stands for all of it."""
    return "not compiled" if (router.__file__ or "").endswith(".py") else "compiled"
