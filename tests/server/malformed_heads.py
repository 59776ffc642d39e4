"""Heads that no app may see: every byte in every place, and the forms that attacks took.

Sources: RFC 9110 sections 5 and 10.1.1; RFC 9112 sections 2, 3 and 5; CVE-2019-9900 (Envoy, NUL),
CVE-2026-48710 (Starlette, Host).
"""

from collections.abc import Iterator

from tests.server.malformed_bodies import CHUNKED, CONTROLS, LAST, Cases, head

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
HOST = TOKEN - frozenset(b"#^`|") | frozenset(b"();=")
VISIBLE = frozenset(range(0x21, 0x7F))


def others(allowed: frozenset[int]) -> Iterator[bytes]:
    """Every byte that is not in the set."""
    return (bytes([code]) for code in range(256) if code not in allowed)


HOSTS = (
    rb"""|  |a b|a, b|a,a|u@h|u:p@h|http://h|h/|h?|h#|h:|h:x|h:123456|h:-1|h:+1|h: 80|h :80"""
    rb"""|h:80:80|[::1|::1|::1]|[::1]x|[]|[g::1]|[::1]:|[::1]:x|[v1.x]|[::1%25eth0]|"h"|h\x|<h>|{h}|h^i|h`i|:80|:|@|/|h:80,i:80"""
).split(b"|")


def hosts() -> Cases:
    for start in (b"GET / HTTP/1.1", b"GET http://h/ HTTP/1.1", b"OPTIONS * HTTP/1.1"):
        yield f"none for {start!r}", head(start=start, host=b"")
        yield f"two for {start!r}", head(b"Host: h", start=start)
        yield f"two different ones for {start!r}", head(b"hOST: i", start=start)
    yield "two in HTTP/1.0", head(b"Host: h", start=b"GET / HTTP/1.0")
    for code in others(HOST):
        yield f"with {code!r}", head(start=b"GET / HTTP/1.1", host=b"Host: a" + code + b"b")
    for value in HOSTS:
        yield f"{value!r}", head(start=b"GET / HTTP/1.1", host=b"Host: " + value)
        yield f"{value!r} in HTTP/1.0", head(start=b"GET / HTTP/1.0", host=b"Host: " + value)


TARGETS = (
    rb"""x|*x|/#f|/x#|/?#f|?x|#|h:80|h|http:/x|http:x|http://|http:///x|http://i/|HTTP://i/|https://i/|http://h:80/"""
    rb"""|http://h.:80/|http://h@i/|http://u@h/|http://h,i/|http://i#h/|http://i?h|http://i\h/|http://h%00/"""
    rb"""|http://[::1/|ftp://h/|file:///etc/passwd|ws://h/|urn:x|javascript:alert(1)|http//h/|://h/|h/x|../x|./"""
    rb"""|%2f|http://h #/|http://h/#f"""
).split(b"|")


def targets() -> Cases:
    for code in others(VISIBLE):
        yield f"path with {code!r}", head(start=b"GET /a" + code + b"b HTTP/1.1")
        yield f"query with {code!r}", head(start=b"GET /?a" + code + b"b HTTP/1.1")
    for target in TARGETS:
        yield f"{target!r}", head(start=b"GET " + target + b" HTTP/1.1")
    for method in b"GET HEAD POST PUT DELETE PATCH TRACE PROPFIND".split():
        yield f"{method!r} *", head(start=method + b" * HTTP/1.1")
    for target in b"h:443 h / /x http://h/ * h:443/x :443 h:x".split():
        yield f"CONNECT {target!r}", head(start=b"CONNECT " + target + b" HTTP/1.1")


METHODS = rb"""get|Get|BREW|GETX|GE|G|PRI|DESCRIBE|SETUP|SOURCE /x ICE/1.0 GET|GET,POST|GET/|*""".split(b"|")
VERSIONS = (
    rb"""HTTP/0.9|HTTP/1.2|HTTP/1.9|HTTP/2.0|HTTP/2|HTTP/3.0|HTTP/1|HTTP/1.|HTTP/.1|HTTP/|HTTP|HTTP/11"""
    rb"""|HTTP/1.10|HTTP/1.11|HTTP/01.1|HTTP/1.01|HTTP/10.1|HTTP/1,1|HTTP/1 1|HTTP/1-1|HTTP/x.y"""
    rb"""|http/1.1|Http/1.1|HTTPS/1.1|HTP/1.1|HTTP /1.1|HTTP/ 1.1|HTTP/1.1x|HTTP/1.1 x|HTTP\1.1"""
    rb"""|ICE/1.0|HTTP/-1.1|HTTP/+1.1"""
).split(b"|")
VERSIONS += [b"HTTP/1.1\t", b"HTTP/1.1\x0b", b"HTTP/1.1\0", b"HTTP/\xb9.1"]
LINES = (
    rb""" GET / HTTP/1.1|GET  HTTP/1.1|GET / |GET /|GET |GET|/ HTTP/1.1| / HTTP/1.1|HTTP/1.1 200 OK|:"""
    rb"""|GET / HTTP/1.1 HTTP/1.1|GET / / HTTP/1.1|POST/ HTTP/1.1"""
).split(b"|")
LINES += [b"\tGET / HTTP/1.1", b"GET\t/\tHTTP/1.1", b"GET\0/ HTTP/1.1", b"\0", b"\xff"]


def start_lines() -> Cases:
    for code in others(TOKEN):
        yield f"method with {code!r}", head(start=b"GE" + code + b"T / HTTP/1.1")
    for method in METHODS:
        yield f"method {method!r}", head(start=method + b" / HTTP/1.1")
    for version in VERSIONS:
        yield f"version {version!r}", head(start=b"GET / " + version)
    for line in LINES:
        yield f"{line!r}", head(start=line)


GOOD_VALUES = {b"X": b"ab", b"Host": b"h", b"Content-Length": b"0", b"Transfer-Encoding": b"chunked"}


def values() -> Cases:
    for name, good in GOOD_VALUES.items():
        host = b"" if name == b"Host" else b"Host: h"
        rest = LAST if name == b"Transfer-Encoding" else b""
        for code in CONTROLS:
            if code == b"\t":
                continue
            yield f"{name!r} with {code!r} before", head(name + b": " + code + good, host=host) + rest
            if code != b"\n":
                yield f"{name!r} with {code!r} behind", head(name + b": " + good + code, host=host) + rest
            if name != b"Host":  # whose every byte is tried elsewhere
                yield f"{name!r} with {code!r} inside", head(name + b": " + good[:1] + code + good[1:]) + rest
    for value in (b"200-maybe", b"100-continue, x", b"100-continu", b"x", b"", b"100-continue;q=1"):
        yield f"expectation {value!r}", head(b"Expect: " + value, b"Content-Length: 0")
    for protocol in (b"h2c", b"websocket", b"TLS/1.0"):
        for body in (b"Content-Length: 5", CHUNKED):
            upgrade = head(b"Connection: Upgrade", b"Upgrade: " + protocol, body)
            yield f"upgrade to {protocol!r} with {body!r}", upgrade + b"hello"


FIELDS = rb""": 1|:| : 1|X|X |=1|X 1|X;1|X : 1|"X": 1|(X): 1|Host h""".split(b"|")
FIELDS += [b"X\t: 1", b"X\r: 1", b"X\xa0: 1", b"\xa0X: 1", b"\xef\xbb\xbfX: 1"]
FOLDS = (b"\r\n ", b"\r\n\t", b"\n ", b"\n\t", b"\r\n  \t")
COLONS = (b" :", b"\t:", b"\x0b:", b" \t:", b"\r\n:", b"\0:", b" : ")


def fields() -> Cases:
    for code in others(TOKEN | frozenset(b":")):
        yield f"name with {code!r}", head(b"X" + code + b"Y: 1")
    for line in FIELDS:
        yield f"{line!r}", head(line)
    for name in (b"X", b"Transfer-Encoding", b"Content-Length"):
        value = GOOD_VALUES[name]
        for fold in FOLDS:
            yield f"{name!r} folded by {fold!r}", head(name + b":" + fold + value) + LAST
            yield f"{name!r} folded behind by {fold!r}", head(name + b": " + value + fold + b"b") + LAST
        for colon in COLONS:
            yield f"{name!r} with {colon!r}", head(name + colon + b" " + value) + LAST
    for space in (b" ", b"\t"):
        yield f"first one after {space!r}", b"GET / HTTP/1.1\r\n" + space + b"Host: h\r\n\r\n"
        yield f"first one after a line of {space!r}", b"GET / HTTP/1.1\r\n" + space + b"\r\nHost: h\r\n\r\n"


LINE_ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\0\r\n", b"\r\0\n", b"\x0b\r\n", b"\x0c")
LINE_ENDS += (b"\x85", b"\xe2\x80\xa8")  # those of Unicode


def line_ends() -> Cases:
    whole = b"POST /x HTTP/1.1\r\nHost: h\r\nX: 1\r\nContent-Length: 0\r\n\r\n"
    lines = whole.split(b"\r\n")
    for end in LINE_ENDS:
        yield f"all {end!r}", whole.replace(b"\r\n", end)
        for number, line in enumerate(lines[:4]):
            if number == 2 and end[0] >= 0x80:
                continue  # such bytes may be part of a value
            before = b"".join(line + b"\r\n" for line in lines[:number])
            yield f"{end!r} after line {number}", before + line + end + b"\r\n".join(lines[number + 1 :])


def sizes() -> Cases:
    long = b"x" * 100 * 1024
    yield "target", head(start=b"GET /" + long + b" HTTP/1.1")
    yield "query", head(start=b"GET /?" + long + b" HTTP/1.1")
    yield "method", head(start=b"G" + long + b" / HTTP/1.1")
    yield "value", head(b"X: " + long)
    yield "name", head(long + b": 1")
    yield "host", head(host=b"Host: " + long)
    yield "spaces before a value", head(b"X:" + b" " * 2**20 + b"1")
    yield "target just over", head(start=b"GET /" + b"x" * 17 * 1024 + b" HTTP/1.1")
    yield "value just over", head(b"X: " + b"x" * 33 * 1024)
    yield "headers", head(*[b"X: 1"] * 10000)
    yield "headers just over", head(*[b"X: 1"] * 128)
    yield "head just over", head(*[b"X: " + b"x" * 1000] * 66)
    yield "head without end", b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 200_000
    yield "cookies", head(*[b"Cookie: " + b"x" * 1024] * 1000)


def other_protocols() -> Cases:
    yield "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    yield "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    yield "SOCKS", b"\x05\x01\x00"
    yield "PROXY", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + head()
    yield "PROXY 2", b"\r\n\r\n\0\r\nQUIT\n" + head()
    yield "SSH", b"SSH-2.0-OpenSSH_9.9\r\n"
    yield "SMTP", b"EHLO h\r\n"
    yield "Redis", b"*1\r\n$4\r\nPING\r\n"
    yield "zeros", bytes(1000)
    yield "noise", bytes(range(256)) * 4
