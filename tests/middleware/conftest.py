import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def access_log_on() -> Iterator[None]:
    """Access logs are written, to nowhere: an access log that is off lets everything pass it by."""
    logger = logging.getLogger("asgi_gateway.access")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.removeHandler(handler)
    logger.setLevel(before)
