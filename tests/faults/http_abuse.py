"""Abusive HTTP requests, each with the statuses that it must get."""

import base64
import gzip
import hashlib
import hmac
import io
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.faults.documents import HOSTILE
from tests.faults.keep_alive_senders import KEY, PATH, event, request

#: The connection is closed without a response, since no request was complete.
CLOSED = 0
OTHER_PATH = "/plugsurfing/cdrs"
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class AbusiveRequest:
    """The bytes to send on one connection, and the statuses of the responses in order, `CLOSED` included."""

    family: str
    name: str
    parts: Callable[[], Iterable[bytes]]
    promised: tuple[int, ...]

    def send(self, port: int) -> tuple[int, ...]:
        """Send it and return the statuses of as many responses as were promised."""
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
            try:
                for part in self.parts():
                    if part is HALF_CLOSE:
                        connection.shutdown(socket.SHUT_WR)
                    elif part is PAUSE:
                        time.sleep(0.05)
                    else:
                        connection.sendall(part)
            except ConnectionError:
                pass  # rejected early: the response was sent before the connection was closed
            with connection.makefile("rb") as stream:
                return tuple(status_of(stream) for _ in self.promised)


#: Spellings of the path of events that are taken; what comes signed to any other is in quarantine.
TAKEN = {"//plugsurfing/events", "/plugsurfing/events//", "/plugsurfing%2fevents"}
#: The bytes that no header may contain.
CONTROLS = {*range(32), 127} - {9}
HALF_CLOSE, PAUSE = b"(our side closes)", b"(a pause)"


def status_of(stream: io.BufferedReader) -> int:
    """Read one response and return its status."""
    try:
        first = stream.readline()
        if not first:
            return CLOSED
        status, length = int(first.split()[1]), 0
        while line := stream.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if status != 100:
            stream.read(length)
    except ConnectionError:
        return CLOSED
    return status_of(stream) if status == 100 else status


def abusive_requests() -> list[AbusiveRequest]:
    """Return all of them."""
    return [*_signatures(), *_headers(), *_lengths(), *_chunks(), *_heads(), *_paths(), *_connections()]


def _once(data: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: (data,)


def _with(body: bytes, *headers: str | bytes, path: str = PATH, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return b"\r\n".join([*(line if isinstance(line, bytes) else line.encode() for line in lines), b"", b""]) + body


def _signatures() -> Iterator[AbusiveRequest]:
    def signed_with(name: str, *headers: str | bytes, promised: int = 403, sent: bytes | None = None) -> AbusiveRequest:
        return AbusiveRequest("signature", name, _once(_with(sent or body, *headers)), (promised,))

    def signed(value: str | bytes) -> bytes:
        return SIGNATURE_HEADER.encode() + b": " + (value if isinstance(value, bytes) else value.encode("latin-1"))

    body = event()
    right = sign(body, KEY)
    raw = base64.b64decode(right)
    yield signed_with("none")
    yield signed_with("empty", signed(""))
    yield signed_with("white space", signed("   \t "))
    yield signed_with("two, both right", signed(right), signed(right))
    yield signed_with("two, one right", signed(right), signed("wrong"))
    yield signed_with("two in one", signed(f"{right}, {right}"))
    for length in range(1, 88):
        yield signed_with(f"the first {length} characters", signed(right[:length]))
    for name, value in {
        "hex": raw.hex(),
        "HEX": raw.hex().upper(),
        "without padding": right.rstrip("="),
        "more padding": right + "=",
        "other spare bits": right[:-3] + chr(ord(right[-3]) ^ 1) + "==",
        "in quotes": f'"{right}"',
        "sha512=": f"sha512={right}",
        "swapped case": right.swapcase(),
        "reversed": right[::-1],
        "a space inside": right[:40] + " " + right[40:],
        "percent-encoded": right.replace("=", "%3D"),
        "not ASCII": b"\xff\xfe\x80" + right.encode()[3:],
        "umlauts": "ü" * 88,
        "64 KiB": "A" * 65_536,
        "NaN": "NaN",
        "a wildcard": "*",
        "SQL": "' OR '1'='1",
        "signed with the empty key": sign(body, b""),
        "signed with NUL": sign(body, b"\0"),
        "signed with the key and a line end": sign(body, KEY + b"\n"),
        "signed with the key in hex": sign(body, KEY.hex().encode()),
        "256 of 512 bits": base64.b64encode(raw[:32]).decode(),
        "SHA-256": base64.b64encode(hmac.digest(KEY, body, hashlib.sha256)).decode(),
        "SHA-512 without a key": base64.b64encode(hashlib.sha512(body).digest()).decode(),
        "SHA-512 of key and body": base64.b64encode(hashlib.sha512(KEY + body).digest()).decode(),
        "of another body": sign(event(), KEY),
        "of the empty body": sign(b"", KEY),
        "of the signature": sign(right.encode(), KEY),
    }.items():
        yield signed_with(name, signed(value))
    url_safe = base64.urlsafe_b64encode(raw).decode()
    while url_safe == right:
        body = event()
        right = sign(body, KEY)
        url_safe = base64.urlsafe_b64encode(base64.b64decode(right)).decode()
    yield signed_with("URL-safe", signed(url_safe))
    for bit in range(0, len(body) * 8, 29):
        turned = bytearray(body)
        turned[bit // 8] ^= 1 << bit % 8
        yield signed_with(f"bit {bit} of the body turned", signed(right), sent=bytes(turned))
    for bit in range(0, 512, 37):
        turned = bytearray(raw)
        turned[bit // 8] ^= 1 << bit % 8
        yield signed_with(f"bit {bit} of the signature turned", signed(base64.b64encode(turned).decode()))
    for name, changed in {
        "a space behind": body + b" ",
        "a line end behind": body + b"\n",
        "cut": body[:-1],
        "empty": b"\0",
        "as other JSON": body.replace(b": ", b":"),
        "a BOM before": b"\xef\xbb\xbf" + body,
    }.items():
        yield signed_with(f"the body changed: {name}", signed(right), sent=changed)
    for name in (
        "X-HMAC-SHA512",
        "X-Hub-Signature",
        "X_HMAC_SHA512_Signature",
        "X-HMAC-SHA512-Signature2",
        "Signature",
    ):
        yield signed_with(f"in {name}", f"{name}: {right}")
    yield signed_with("in Authorization", f"Authorization: HMAC {right}")
    yield signed_with("in the query", promised=403, sent=body)
    yield signed_with("white space around it", signed(f" \t{right} \t"), promised=200)
    yield signed_with("right", signed(sign(late := event(), KEY)), promised=200, sent=late)
    other = event()
    yield AbusiveRequest("signature", "right, on the other URL", _once(request(other, path=OTHER_PATH)), (200,))


def _headers() -> Iterator[AbusiveRequest]:
    for name, text in HOSTILE.items():
        value = text.encode("utf-8", "surrogatepass")[:2000]
        if set(value) & set(b"\r\n"):
            continue  # it would be a header of its own
        promised = 400 if set(value) & CONTROLS else 200
        for header in (b"User-Agent", b"X-Request-Id", b"X-HMAC-SHA512-SignedAt", b"Content-Type", b"X-Anything"):
            body = event()
            sent = _with(body, header + b": " + value, f"{SIGNATURE_HEADER}: {sign(body, KEY)}")
            yield AbusiveRequest("header", f"{name} in {header.decode()}", _once(sent), (promised,))
    yield AbusiveRequest("header", "NUL", _once(_with(event(), b"X-A: a\0b")), (400,))
    yield AbusiveRequest("header", "a bare CR", _once(_with(event(), b"X-A: a\rb")), (400,))
    yield AbusiveRequest("header", "folded", _once(_with(event(), b"X-A: a\r\n b")), (400,))
    yield AbusiveRequest("header", "a name with a space", _once(_with(event(), b"X A: a")), (400,))
    yield AbusiveRequest("header", "a space before the colon", _once(_with(event(), b"X-A : a")), (400,))
    yield AbusiveRequest("header", "no colon", _once(_with(event(), b"X-A")), (400,))
    yield AbusiveRequest("header", "no name", _once(_with(event(), b": a")), (400,))
    yield AbusiveRequest("header", "a name that is not ASCII", _once(_with(event(), "X-Ü: a")), (400,))
    for encoding in ("gzip", "deflate", "br", "gzip, gzip", "x-unknown", "\x7f"):
        packed = gzip.compress(event())
        sent = request(packed, f"Content-Encoding: {encoding}")
        yield AbusiveRequest(
            "header", f"Content-Encoding {encoding!r}", _once(sent), (400 if encoding == "\x7f" else 415,)
        )
    for at in ("now", "-1", "9" * 400, "2025-13-45", "NaN", "1e999", "٣", "0001-01-01T00:00:00+23:59"):
        body = event()
        headers = (f"X-HMAC-SHA512-SignedAt: {at}", f"{SIGNATURE_HEADER}: {sign(body, KEY)}")
        yield AbusiveRequest("header", f"signed at {at[:30]}", _once(_with(body, *headers)), (200,))


def _lengths() -> Iterator[AbusiveRequest]:
    def with_lengths(*lengths: str, body: bytes = b"hello") -> bytes:
        lines = [f"POST {PATH} HTTP/1.1", "Host: x", *(f"Content-Length: {length}" for length in lengths), "", ""]
        return "\r\n".join(lines).encode("latin-1") + body

    for value in ("abc", "-1", "+5", "5, 5", "5,6", "0x5", "1e1", "5 5", "5.0", "\xb2", "5;", "", "9" * 20, "9" * 5000):
        yield AbusiveRequest("Content-Length", repr(value[:24]), _once(with_lengths(value)), (400,))
    yield AbusiveRequest("Content-Length", "two that differ", _once(with_lengths("5", "6")), (400,))
    yield AbusiveRequest("Content-Length", "two that agree", _once(with_lengths("5", "5")), (400,))
    yield AbusiveRequest("Content-Length", "too large", _once(with_lengths("1048577")), (413,))
    yield AbusiveRequest("Content-Length", "absurdly large", _once(with_lengths("9" * 18)), (413,))
    yield AbusiveRequest("Content-Length", "with zeros before it", _once(with_lengths("0000000000000005")), (403,))
    yield AbusiveRequest("Content-Length", "with 5,000 zeros before it", _once(with_lengths("0" * 5000 + "5")), (403,))
    yield AbusiveRequest("Content-Length", "zero, with a space behind it", _once(with_lengths("0 ", body=b"")), (403,))
    yield AbusiveRequest(
        "Content-Length", "none, and no body", _once(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode()), (403,)
    )
    yield AbusiveRequest("Content-Length", "shorter than the body", _once(with_lengths("2") + b"\r\n"), (403, 400))
    yield AbusiveRequest("Content-Length", "longer than the body", lambda: (with_lengths("500"), HALF_CLOSE), (CLOSED,))
    both = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    yield AbusiveRequest("Content-Length", "and chunked", _once(both.encode()), (400,))


def _chunks() -> Iterator[AbusiveRequest]:
    def chunked(chunks: bytes, encoding: str = "chunked", *headers: str) -> bytes:
        lines = [f"POST {PATH} HTTP/1.1", "Host: x", f"Transfer-Encoding: {encoding}", *headers, "", ""]
        return "\r\n".join(lines).encode("latin-1") + chunks

    body = event()
    signature = f"{SIGNATURE_HEADER}: {sign(body, KEY)}"
    by_one = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    yield AbusiveRequest("chunks", "one byte each", _once(chunked(by_one, "chunked", signature)), (200,))
    yield AbusiveRequest("chunks", "Chunked", _once(chunked(whole, "Chunked", signature)), (200,))
    yield AbusiveRequest(
        "chunks", "extensions", _once(chunked(whole.replace(b"\r\n", b';a="b"\r\n', 1), "chunked", signature)), (200,)
    )
    trailer = b"%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(body), body, signature.encode())
    yield AbusiveRequest("chunks", "the signature as a trailer", _once(chunked(trailer)), (403,))
    for name, chunks in {
        "size -1": b"-1\r\nx\r\n0\r\n\r\n",
        "size 0x5": b"0x5\r\nhello\r\n0\r\n\r\n",
        "size +5": b"+5\r\nhello\r\n0\r\n\r\n",
        "no size": b"\r\nhello\r\n0\r\n\r\n",
        "size z": b"z\r\nhello\r\n0\r\n\r\n",
        "a size beyond 64 bits": b"F" * 17 + b"\r\nx",
        "a longer chunk than its size": b"2\r\nhello\r\n0\r\n\r\n",
        "line feeds alone": b"5\nhello\n0\n\n",
        "a space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    }.items():
        yield AbusiveRequest("chunks", name, _once(chunked(chunks)), (400,))
    for encoding in (
        "identity",
        "xchunked",
        "chunked, identity",
        "gzip",
        "chun ked",
        "chunked\x0b",
        "\xff",
        "chunked, chunked",
    ):
        yield AbusiveRequest("chunks", f"encoding {encoding!r}", _once(chunked(whole, encoding)), (400,))
    yield AbusiveRequest("chunks", "encoding 'gzip, chunked'", _once(chunked(whole, "gzip, chunked")), (403,))
    mebibyte = b"100000\r\n" + bytes(1_048_576) + b"\r\n"
    yield AbusiveRequest("chunks", "100 MiB", lambda: (chunked(b""), *(mebibyte for _ in range(100))), (413,))
    trailers = b"0\r\n" + b"X-A: x\r\n" * 20_000
    yield AbusiveRequest("chunks", "160 KB behind the body", lambda: (chunked(b""), PAUSE, trailers), (400,))
    extension = b"1;" + b"a" * 1_000_000 + b"\r\nx\r\n0\r\n\r\n"
    yield AbusiveRequest("chunks", "an extension of 1 MB", _once(chunked(extension)), (400,))


def _heads() -> Iterator[AbusiveRequest]:
    body = event()
    signature = f"{SIGNATURE_HEADER}: {sign(body, KEY)}"
    yield AbusiveRequest("head", "9,000 headers", _once(_with(body, *["a:b"] * 9000, signature)), (200,))
    many = _with(event(), *[f"X-Header-{number}: x" for number in range(10_000)])
    yield AbusiveRequest("head", "10,000 headers of 200 KB", lambda: _pieces(many, 16_384), (400,))
    yield AbusiveRequest(
        "head", "one header of 1 MB", lambda: _pieces(_with(event(), "X-A: " + "x" * 1_000_000), 16_384), (400,)
    )
    yield AbusiveRequest(
        "head", "a URL of 1 MB", lambda: _pieces(_with(event(), path=PATH + "?" + "x" * 1_000_000), 16_384), (400,)
    )
    endless = b"POST / HTTP/1.1\r\nHost: x\r\nUpgrade"
    yield AbusiveRequest(
        "head", "4 MB of spaces behind Upgrade", lambda: (endless, PAUSE, *[b" " * 1448] * 2800), (400,)
    )
    for name, sent in {
        "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        "a TLS hello": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500),
        "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
        "Redis": b"*1\r\n$4\r\nPING\r\n",
        "SOCKS": b"\x05\x01\0" + bytes(30) + b"\r\n\r\n",
        "HTTP/3.7": b"GET /healthz HTTP/3.7\r\n\r\n",
        "HTTP/1.x": b"GET /healthz HTTP/1.x\r\n\r\n",
        "lower case": b"post /plugsurfing/events HTTP/1.1\r\nHost: x\r\n\r\n",
        "no such method": b"FETCH /plugsurfing/events HTTP/1.1\r\nHost: x\r\n\r\n",
        "a NUL": b"POST /plugsurfing/events\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        "a tab": b"POST\t/plugsurfing/events\tHTTP/1.1\r\nHost: x\r\n\r\n",
        "every byte": bytes(range(256)) + b"\r\n\r\n",
        "line feeds alone": b"POST /plugsurfing/events HTTP/1.1\nHost: x\n\n",
    }.items():
        yield AbusiveRequest("head", name, _once(sent), (400,))
    yield AbusiveRequest("head", "HTTP/0.9", _once(b"GET /healthz\r\n\r\n"), (200,))
    yield AbusiveRequest("head", "two spaces", _once(b"POST  /plugsurfing/events HTTP/1.1\r\nHost: x\r\n\r\n"), (403,))
    yield AbusiveRequest("head", "HTTP/1.0", _once(_with(late := event()).replace(b"HTTP/1.1", b"HTTP/1.0")), (403,))
    yield AbusiveRequest("head", "no Host", _once(request(late).replace(b"Host: x\r\n", b"")), (200,))
    yield AbusiveRequest("head", "empty lines before it", _once(b"\r\n\r\n" + request(event())), (200,))
    yield AbusiveRequest(
        "head", "an upgrade to another protocol", _once(request(event(), "Connection: upgrade", "Upgrade: h2c")), (200,)
    )
    upgrade = request(event(), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    for cut in range(upgrade.index(b"Upgrade: h2c") - 3, upgrade.index(b"Upgrade: h2c") + 12):
        parts = (upgrade[:cut], PAUSE, upgrade[cut:])
        yield AbusiveRequest("head", f"the same, in two parts at {cut}", lambda parts=parts: parts, (200,))
    twice = b"".join(request(event(), "Connection: upgrade", "Upgrade: h2c") for _ in range(2))
    yield AbusiveRequest(
        "head", "the same, twice in one go and behind empty lines", _once(b"\r\n\r\n" + twice), (200, 200)
    )
    unread = _with(b"0123456789", path="/nowhere")
    parts = (unread[:-5], PAUSE, unread[-5:] + request(event(), "Connection: upgrade", "Upgrade: h2c"))
    yield AbusiveRequest("head", "the same, behind a body that is not read", lambda parts=parts: parts, (404, 200))
    in_body = request(b"a" + b"\r\nUpgrade: h2c" * 20) + request(event())
    at = in_body.index(b"\r\n\r\n") + 3
    parts = (in_body[:at], PAUSE, in_body[at:])
    yield AbusiveRequest(
        "head", "in the body, which comes with the last line end", lambda parts=parts: parts, (200, 200)
    )
    yield AbusiveRequest(
        "head", "WebSocket", _once(_with(b"", "Connection: upgrade", "Upgrade: websocket", method="GET")), (405,)
    )
    yield AbusiveRequest("head", "Expect: 100-continue", _once(request(event(), "Expect: 100-continue")), (200,))
    yield AbusiveRequest("head", "an unknown expectation", _once(request(event(), "Expect: 200-ok")), (200,))


def _pieces(whole: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(whole), size):
        yield whole[start : start + size]
        yield PAUSE if start < 5 * size else b""


def _paths() -> Iterator[AbusiveRequest]:
    for path in (
        "/",
        "//plugsurfing/events",
        "/plugsurfing/events//",
        "/plugsurfing/../plugsurfing/events",
        "/plugsurfing/./events",
        "/plugsurfing%2fevents",
        "/plugsurfing/events%00",
        "/plugsurfing/events;a=b",
        "/PLUGSURFING/EVENTS",
        "/plugsurfing/events/../../etc/passwd",
        "/%ff%fe",
        "/..%c0%af..%c0%afetc/passwd",
        "/{{7*7}}",
        "/docs",
        "/openapi.json",
        "/.env",
    ):
        status = 200 if path in TAKEN else 404
        yield AbusiveRequest("path", path, _once(request(event(), path=path)), (status,))
    yield AbusiveRequest("path", "not ASCII", _once(request(event(), path="/plugsurfing/\xff")), (400,))
    yield AbusiveRequest(
        "path", "with the other origin", _once(request(event(), path=f"http://evil.example{PATH}")), (200,)
    )
    yield AbusiveRequest("path", "with a query", _once(request(event(), path=f"{PATH}?a=b&c")), (200,))
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        yield AbusiveRequest("path", method, _once(_with(b"", method=method)), (405,))
    yield AbusiveRequest("path", "CONNECT", _once(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n"), (400,))
    yield AbusiveRequest("path", "OPTIONS *", _once(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), (404,))


def _connections() -> Iterator[AbusiveRequest]:
    several = [event() for _ in range(100)]
    yield AbusiveRequest("connection", "100 requests in one go", _once(b"".join(map(request, several))), (200,) * 100)
    yield AbusiveRequest(
        "connection",
        "good, broken, good in one go",
        _once(request(event()) + b"\0\r\n\r\n" + request(event())),
        (200, 400),
    )
    broken = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode()
    yield AbusiveRequest(
        "connection", "good, and a broken body in one go", _once(request(event()) + broken), (200, 400)
    )
    yield AbusiveRequest(
        "connection", "a whole request and half closed", lambda: (request(event()), HALF_CLOSE), (200, CLOSED)
    )
    yield AbusiveRequest("connection", "nothing sent and half closed", lambda: (HALF_CLOSE,), (CLOSED,))
    yield AbusiveRequest(
        "connection", "half a head and half closed", lambda: (b"POST / HTTP/1.1\r\nHo", HALF_CLOSE), (CLOSED,)
    )
    bomb = gzip.compress(bytes(50_000_000))
    yield AbusiveRequest(
        "connection", "a gzip bomb with its encoding", _once(request(bomb, "Content-Encoding: gzip")), (415,)
    )
    yield AbusiveRequest("connection", "a gzip bomb without its encoding", _once(request(bomb)), (200,))
