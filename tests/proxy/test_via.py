import pytest

from asgi_gateway.proxy.transport import UpstreamError
from asgi_gateway.proxy.via import earlier_via

OURS = b"1.1 asgi-gateway"


@pytest.mark.parametrize(
    "lines",
    [
        [b"1.0 fred, 1.1 p.example.net"],
        [OURS] * 7,
        [b", ".join([OURS] * 7), b"1.1 other"],
        [b", ".join([b"1.1 other (asgi-gateway)"] * 20)],
        [b", ".join([b"1.1 my-asgi-gateway"] * 20)],
        [b"", b",,,", b"asgi-gateway"],
    ],
)
def test_the_way_is_kept_line_by_line(lines: list[bytes]) -> None:
    assert earlier_via(lines) == [(b"via", line) for line in lines]


@pytest.mark.parametrize(
    "lines",
    [
        [OURS] * 8,
        [b",".join([OURS] * 9)],
        [b"1.1 ASGI-Gateway, HTTP/2 asgi-gateway (x)"] * 4,
        [b"1.1 other, " + OURS] * 8,
    ],
)
def test_a_circle_is_ended(lines: list[bytes]) -> None:
    with pytest.raises(UpstreamError) as caught:
        earlier_via(lines)
    assert (caught.value.failure.kind, caught.value.failure.source) == ("loop_detected", "gateway")
