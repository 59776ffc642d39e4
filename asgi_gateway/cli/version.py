"""The version that the commands name."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed version."""
    try:
        return version("asgi-gateway")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "(not installed)"
