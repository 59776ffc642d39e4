"""Framing that two readers could read in two ways, made systematically: lengths, codings, chunks, trailers.

Sources: RFC 9110 section 8.6; RFC 9112 sections 6 and 7; CVE-2023-47627 (aiohttp, lengths),
GHSA-w3h3-4rj7-4ph4 (gunicorn, codings), CVE-2025-55315 (Kestrel, chunks).
"""

from collections.abc import Iterator
from typing import TypeAlias

Cases: TypeAlias = Iterator[tuple[str, bytes]]

CONTROLS = [bytes([code]) for code in (*range(0x20), 0x7F)]
CHUNKED = b"Transfer-Encoding: chunked"
LAST = b"0\r\n\r\n"
HELLO = b"hello\r\n" + LAST


def head(*lines: bytes, start: bytes = b"POST /x HTTP/1.1", host: bytes = b"Host: h") -> bytes:
    return b"\r\n".join([start, *([host] if host else []), *lines, b"", b""])


LENGTHS = (
    rb"""+5|-5|-0|0x5|5h|1_0|5,5|5, 5|5, 6|5,|,5||5 5|5.0|5e0|1e1|'5'|"5"|five|0b1|0o5"""
    rb"""|5;|--5|5-|5+|NaN|inf|0 5"""
).split(b"|")
LENGTHS += [b"\xd9\xa5", b"\xb2", b"5\tx", b"5\xa0", b"\xa05", b"9" * 19, b"9" * 40, b"18446744073709551621"]


def lengths() -> Cases:
    good = b"Content-Length: 5"
    for value in LENGTHS:
        bad = b"Content-Length: " + value
        yield f"{value!r}", head(bad) + b"hello"
        yield f"{value!r} behind a good one", head(good, bad) + b"hello"
        yield f"{value!r} before a good one", head(bad, good.lower()) + b"hello"
    for first, second in ((b"5", b"5"), (b"5", b"6"), (b"0", b"5"), (b"5", b"0"), (b"5", b"05")):
        yield (
            f"{first!r} and {second!r}",
            head(b"Content-Length: " + first, b"CONTENT-LENGTH: " + second) + b"hello",
        )


CODINGS = (
    rb"""|xchunked|chunkedx|chunke|identity|gzip|deflate|compress|chunked, gzip|gzip, chunked"""
    rb"""|identity, chunked|chunked, identity|chunked, chunked|chunked,chunked|,chunked|chunked,"""
    rb"""|, chunked|chunked ,|chunked;q=1|chunked; a|;chunked|"chunked"|'chunked'|chun ked"""
    rb"""|chunked chunked|chunked/1|trailers|cow|chunked=1"""
).split(b"|")
CODINGS += [
    b"chun\tked",
    b"chunked\t",
    b"chunked\xa0",
    b"\xa0chunked",
    b"\xffchunked",
    b"\xef\xbb\xbfchunked",
]


def codings() -> Cases:
    for value in CODINGS:
        bad = b"Transfer-Encoding: " + value
        yield f"{value!r}", head(bad) + LAST
        yield f"{value!r} with a length", head(bad, b"Content-Length: 5") + LAST
        yield f"{value!r} behind a good one", head(CHUNKED, bad) + LAST
        yield f"{value!r} before a good one", head(bad, CHUNKED) + LAST
    for length in (b"0", b"5", b"6", b"100"):
        yield f"length {length!r}, then chunked", head(b"Content-Length: " + length, CHUNKED) + LAST
        yield f"chunked, then length {length!r}", head(CHUNKED, b"Content-Length: " + length) + LAST
    yield "chunked twice", head(CHUNKED, CHUNKED) + LAST
    old = b"POST /x HTTP/1.0"
    yield "chunked in HTTP/1.0", head(CHUNKED, start=old) + LAST
    yield "chunked and a length in HTTP/1.0", head(CHUNKED, b"Content-Length: 5", start=old) + LAST


SIZES = rb"""| |0x5|0X5|+5|-5|-0|5_0| 5|5h|g|5 5|5,5|5.|'5'|;|;a=b|5=|0000000000000005h""".split(b"|")
SIZES += [b"\t5", b"5\t", b"1" * 17, b"f" * 17, b"\xb2", b"\xd9\xa5", b"5\r", b"\xa05"]
ENDS = (b"\n", b"\r", b"\n\r", b"", b" ", b"\r\r\n", b"\0\r\n", b"\x0b\n")


def chunks() -> Cases:
    begun = head(CHUNKED)
    for size in SIZES:
        yield f"size {size!r}", begun + size + b"\r\n" + HELLO
        yield f"second size {size!r}", begun + b"2\r\nhi\r\n" + size + b"\r\n" + HELLO
        yield f"last size {size!r}", begun + b"2\r\nhi\r\n" + size.replace(b"5", b"0") + b"\r\n\r\n"
    for code in CONTROLS:
        yield f"{code!r} before a size", begun + code + b"5\r\n" + HELLO
        yield f"{code!r} inside a size", begun + b"0" + code + b"5\r\n" + HELLO
        if code != b"\n":
            yield f"{code!r} behind a size", begun + b"5" + code + b"\r\n" + HELLO
        if code != b"\t":
            yield f"{code!r} in an extension", begun + b"5;a" + code + b"b\r\n" + HELLO
    for end in ENDS:
        yield f"size ended by {end!r}", begun + b"5" + end + HELLO
        yield f"extension ended by {end!r}", begun + b"5;a" + end + HELLO
        yield f"chunk ended by {end!r}", begun + b"5\r\nhello" + end + LAST
        yield f"last size ended by {end!r}", begun + b"5\r\nhello\r\n0" + end + b"\r\n"
    yield "chunk longer than its size", begun + b"3\r\n" + HELLO
    yield "chunk shorter than its size", begun + b"7\r\n" + HELLO
    yield "chunk with more behind it", begun + b"5\r\nhelloX\r\n" + LAST
    yield "extension of 1 MiB", begun + b"5;" + b"a" * 2**20 + b"\r\n" + HELLO


TRAILERS = (
    b"Content-Length: 9",
    b"CONTENT-LENGTH:0",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: gzip",
    b"X : 1",
    b": 1",
    b"X",
    b"X Y: 1",
    b" X: 1",
    b"X\xe9: 1",
    b"X: a\r\n b",
    b"X: a\r\n\tb",
    b"X: a\nY: b",
    b"X: " + b"x" * 200 * 1024,
    b"\r\n".join([b"X: " + b"x" * 1000] * 200),
    b"\r\n".join([b"X: 1"] * 10000),
)


def trailers() -> Cases:
    begun = head(CHUNKED) + b"2\r\nhi\r\n0\r\n"
    for fields in TRAILERS:
        yield f"{fields[:30]!r} of {len(fields)} bytes", begun + fields + b"\r\n\r\n"
    for code in CONTROLS:
        if code not in (b"\t", b"\n"):
            yield f"{code!r} in a value", begun + b"X: a" + code + b"b\r\n\r\n"
