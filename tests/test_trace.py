import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.ids import RandomHex
from asgi_gateway.trace import TraceContext, parse_traceparent, parse_tracestate

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
VALID = f"00-{TRACE_ID}-{SPAN_ID}-01".encode()


def test_a_valid_header_is_read() -> None:
    assert parse_traceparent(VALID) == TraceContext(TRACE_ID, SPAN_ID, 1, b"")
    assert parse_traceparent(VALID[:-2] + b"00") == TraceContext(TRACE_ID, SPAN_ID, 0)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        VALID.upper(),
        VALID + b"-more",
        VALID + b" ",
        VALID + b"\n",
        VALID[:-1],
        b"ff" + VALID[2:],
        b"0" + VALID,
        b"zz" + VALID[2:],
        VALID.replace(b"-", b"_"),
        VALID.replace(SPAN_ID.encode(), b"0" * 16),
        VALID.replace(TRACE_ID.encode(), b"0" * 32),
        VALID.replace(TRACE_ID.encode(), b"g" * 32),
        b"01" + VALID[2:] + b"more",
        b"x" * 10_000,
        VALID.decode().encode("utf-16"),
    ],
)
def test_anything_else_is_refused(value: bytes) -> None:
    assert parse_traceparent(value) is None


@pytest.mark.parametrize("more", [b"", b"-", b"-what-the-future-will-be-like"])
def test_a_later_version_is_read_as_far_as_this_one_goes(more: bytes) -> None:
    assert parse_traceparent(b"cc" + VALID[2:] + more) == TraceContext(TRACE_ID, SPAN_ID, 1)


def test_flags_that_nobody_defined_are_not_passed_on() -> None:
    context = parse_traceparent(VALID[:-2] + b"ff")
    assert context is not None
    assert context.header() == VALID


def test_a_child_is_another_span_of_the_same_trace() -> None:
    parent = TraceContext(TRACE_ID, SPAN_ID, 0, b"a=1")
    child = parent.child(RandomHex())
    assert child[0::2] == (TRACE_ID, 0)
    assert child.state == b"a=1"
    assert child.span_id != SPAN_ID
    assert parent.header() == f"00-{TRACE_ID}-{SPAN_ID}-00".encode()
    assert parent.child_header(child.span_id) == f"00-{TRACE_ID}-{child.span_id}-00".encode()


def test_what_is_begun_here_is_valid_and_new_each_time() -> None:
    ids = RandomHex()
    contexts = {TraceContext.begin(ids) for _ in range(100)}
    assert len({context.trace_id for context in contexts}) == 100
    assert all(parse_traceparent(context.header()) == context for context in contexts)
    assert all(context.flags == 1 for context in contexts)


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        ([], b""),
        ([b""], b""),
        ([b"rojo=00f067aa0ba902b7"], b"rojo=00f067aa0ba902b7"),
        ([b"a=1, b=2 ,,", b"\tc=3"], b"a=1,b=2,c=3"),
        ([b"fw529a3039@dt=FfAAAA"], b"fw529a3039@dt=FfAAAA"),
        ([b"a=x y"], b"a=x y"),
        ([b"A=1"], b""),
        ([b"a=1,b"], b""),
        ([b"a=1,a=2"], b""),
        ([b"a=1", b"b=\xff"], b""),
        ([b"a=" + b"x" * 257], b""),
        ([b",".join(b"k%d=1" % n for n in range(32))], b",".join(b"k%d=1" % n for n in range(32))),
        ([b",".join(b"k%d=1" % n for n in range(33))], b""),
    ],
)
def test_the_state_is_one_list_or_nothing(lines: list[bytes], state: bytes) -> None:
    assert parse_tracestate(lines) == state


def test_a_state_too_long_loses_its_longest_members_then_its_last() -> None:
    long = b"long=" + b"x" * 150
    short = [b"k%d=%b" % (n, b"y" * 96) for n in range(6)]
    assert parse_tracestate([long, b"a=1", long.replace(b"long", b"last")]).count(b"=") == 3
    assert parse_tracestate([b",".join([long, *short])]) == b",".join(short[:5])


MEMBER = st.from_regex(rb"[a-z][a-z0-9_]{0,30}=[!-+]{1,255}", fullmatch=True)


@given(st.lists(st.lists(MEMBER, max_size=12).map(b",".join), max_size=4))
def test_a_state_is_shortened_by_whole_members_in_their_order(lines: list[bytes]) -> None:
    state = parse_tracestate(lines)
    assert len(state) <= 512
    remaining = iter(b",".join(lines).split(b","))
    assert all(member in remaining for member in state.split(b",") if member)


@given(st.lists(st.binary(max_size=600), max_size=4))
def test_no_state_breaks_a_line(lines: list[bytes]) -> None:
    assert not set(parse_tracestate(lines)) & set(b"\r\n\x00")
