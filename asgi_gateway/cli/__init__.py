"""The command line: ``asgi-gateway run | reload | check | routes | schema | demo``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from asgi_gateway.cli import run, show
from asgi_gateway.cli.version import build, package_version
from asgi_gateway.config import ConfigError
from asgi_gateway.server import CannotStart

LOG_LEVELS = ("debug", "info", "warning", "error")
EXIT_CODES = (
    "Exit codes: 0 done, also after SIGINT and SIGTERM; 1 a mistake in the configuration, a file that "
    "cannot be read, an address that cannot be listened on, a start-up that failed; 2 wrong usage."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; usage errors leave by `SystemExit` (2)."""
    options = parser().parse_args(arguments)
    if "" not in sys.path:  # a file may name what the project in the working directory holds
        sys.path.insert(0, "")
    try:
        options.command(options)
        sys.stdout.flush()
    except ConfigError as error:
        return fail(*map(str, error.mistakes))
    except CannotStart as error:
        return fail(f"asgi-gateway: {error}")
    except BrokenPipeError:  # the reader has seen enough: `asgi-gateway schema | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def fail(*lines: str) -> int:
    """Say why on standard error; the exit code of a failure."""
    print(*lines, sep="\n", file=sys.stderr)  # noqa: T201 - a command speaks by printing
    return 1


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    main = argparse.ArgumentParser(
        prog="asgi-gateway",
        description="An API gateway of standalone ASGI middlewares, chained by YAML.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    main.add_argument("--version", action="version", version=f"asgi-gateway {package_version()}, {build()}")
    commands = main.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    _add_run(add("run", "Serve a configuration."))

    command = add("reload", "Have the gateway that serves a configuration read it again.")
    command.set_defaults(command=run.reload)
    command.add_argument(
        "config", metavar="CONFIG", help="the YAML file; its admin.socket leads to the gateway"
    )
    command.add_argument(
        "--socket", metavar="PATH", help="the admin socket; the file is then checked by the gateway alone"
    )

    command = add("check", "Check a configuration without listening; all mistakes at once.")
    command.set_defaults(command=show.check)
    command.add_argument("config", metavar="CONFIG", help="the YAML file")
    command.add_argument(
        "--print",
        action="store_true",
        dest="effective",
        help="show the configuration with every default filled in and secrets masked",
    )

    command = add("routes", "Show which route leads through which chain to which service.")
    command.set_defaults(command=show.routes)
    command.add_argument("config", metavar="CONFIG", help="the YAML file")

    command = add("schema", "Print the JSON Schema of the configuration.")
    command.set_defaults(command=show.schema)

    command = add("demo", "Serve two small services of its own, with a list of things to try.")
    command.set_defaults(command=run.demo)
    command.add_argument("--port", type=port, default=3000, help="port of the gateway; default 3000")
    return main


def _add_run(command: argparse.ArgumentParser) -> None:
    command.set_defaults(command=run.run)
    command.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help="the YAML file; default $ASGI_GATEWAY_CONFIG, then gateway.yaml",
    )
    command.add_argument("--host", help="address to listen on, in place of listen.host")
    command.add_argument(
        "--port", type=port, help="port to listen on, in place of listen.port; 0 takes a free one"
    )
    command.add_argument("--workers", type=positive, help="processes that serve, in place of workers")
    command.add_argument("--log-level", choices=LOG_LEVELS, help="in place of logging.level")


def port(text: str) -> int:
    """A port number, 0 to 65535."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is not a port")
    return number


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
