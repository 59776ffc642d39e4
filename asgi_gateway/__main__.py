"""``python -m asgi_gateway`` is ``asgi-gateway``."""

import sys

from asgi_gateway.cli import main

if __name__ == "__main__":
    sys.exit(main())
