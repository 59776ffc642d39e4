"""What the demo tells a person to try: commands that work as printed, in this order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

QUESTION = '{"stream": true, "messages": [{"role": "user", "content": "hello"}]}'


@dataclass(frozen=True)
class Addresses:
    """Where the demo's parts are, and how many seconds its breakers stay open."""

    gateway: str
    ai: str
    data: str
    config: str
    break_duration: float


def tour(at: Addresses) -> Iterator[str]:
    """The lines that the demo prints once everything serves; commands are indented by five."""
    seconds = f"{at.break_duration:g}"
    yield f"asgi-gateway demo on {at.gateway} from {at.config}"
    yield f"  {at.gateway}/api/ai/*     ai    {at.ai}"
    yield f"  {at.gateway}/api/data/*   data  {at.data}"
    yield ""
    yield "Try these in another terminal, in this order."
    yield ""
    yield "1. A streamed completion: the words arrive one by one."
    yield f"     curl -N {at.gateway}/api/ai/v1/chat/completions -d '{QUESTION}'"
    yield ""
    yield "2. A retry that succeeds: the service fails twice, the answer is 200 all the same,"
    yield "   with X-Gateway-Attempts: 3."
    yield f"     curl -i {at.gateway}/api/data/flaky"
    yield ""
    yield "3. A rate limit that bites: 5 requests in 10 seconds are answered 200, the next 429."
    yield f"     for i in 1 2 3 4 5 6; do {status_of(f'{at.gateway}/api/limited/items')}; done"
    yield f"     curl -i {at.gateway}/api/limited/items"
    yield ""
    yield "4. A breaker that opens: the service is told to fail. Three requests are tried and fail"
    yield "   with 500, the fourth is answered 503 at once."
    yield f"     curl -X POST {at.data}/switch/fail"
    yield f"     for i in 1 2 3 4; do {status_of(f'{at.gateway}/api/data/items')}; done"
    yield "   The health page says so: data is open."
    yield f"     curl {at.gateway}/health"
    yield f"   It recovers: {seconds} seconds later one request is let through, 200 closes the breaker."
    yield f"     curl -X POST {at.data}/switch/ok; sleep {seconds}"
    yield f"     curl -i {at.gateway}/api/data/items"
    yield f"     curl {at.gateway}/health"
    yield ""
    yield "Each service also takes POST /switch/hang and /switch/reset on its own port."
    yield "Ctrl-C ends all of it."


def status_of(url: str) -> str:
    """A command that prints the status and the time of one answer."""
    return f"curl -s -o /dev/null -w '%{{http_code}} after %{{time_total}} s\\n' {url}"
