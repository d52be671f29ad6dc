"""Paths lead to what they name, and to nothing else; what is no path is refused where settings are read."""

import jsonpointer
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from ingest.config.types import FieldPaths, Pointers
from ingest.wire.field_paths import HeaderPath, Pointer, find, first, header_names, pointers

BODY = {"requestId": "in the body"}
HEADERS = {"x-request-id": "in a header"}
DOCUMENT = {"a": {"b": [1, {"c": "here"}]}, "": "empty", "m~n": 8, "a/b": 1, "null": None, "no": False, "0": "text"}


class Given(BaseSettings):
    where: FieldPaths = (Pointer("/requestId"), HeaderPath("X-Request-Id"))


def test_a_path_leads_into_the_body_or_to_a_header():
    pointer, header = Given().where
    assert (pointer, header) == (Pointer("/requestId"), HeaderPath("X-Request-Id"))
    assert find(pointer, BODY, HEADERS) == "in the body"
    assert find(header, BODY, HEADERS) == "in a header"
    assert find(header, BODY, {}) is find(pointer, {}, HEADERS) is None


def test_paths_are_spelt_as_they_were_given():
    settings = Given(where=" /a/b , Request-ID ")  # type: ignore[arg-type] - as the environment spells it
    assert ",".join(map(str, settings.where)) == "/a/b,Request-ID"
    assert header_names(settings.where) == {"request-id"}


@pytest.mark.parametrize("text", ["request id", "Ü", "a:b", "/~2", "x" * 101])
def test_an_invalid_path_is_refused(text):
    with pytest.raises(ValidationError, match="must"):
        Given(where=text)


@pytest.mark.parametrize("text", ["Authorization", "X-HMAC-SHA512-Signature", "cookie"])
def test_a_header_of_credentials_is_refused_because_it_would_be_kept(text):
    with pytest.raises(ValidationError, match="credentials"):
        Given(where=f"/requestId,{text}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", DOCUMENT),
        ("/", "empty"),
        ("/a/b/0", 1),
        ("/a/b/1/c", "here"),
        ("/m~0n", 8),
        ("/a~1b", 1),
        ("/no", False),
        ("/0", "text"),
        ("/null", None),
        ("/null/x", None),
        ("/a/b/2", None),
        ("/a/b/01", None),
        ("/a/b/c", None),
        ("/0/0", None),
        ("/missing", None),
    ],
)
def test_a_pointer_finds_the_value_it_names_and_otherwise_nothing(text, found):
    assert Pointer(text).find(DOCUMENT) == found


@pytest.mark.parametrize("text", ["a", "a/b", "/~2", "/~", "/a/-"])
def test_an_invalid_pointer_is_refused(text):
    with pytest.raises(ValueError, match="must"):
        Pointer(text)


@pytest.mark.parametrize("document", [None, 1, "text", [], {}, [[]], True])
def test_a_document_of_another_shape_holds_nothing(document):
    assert Pointer("/a/b").find(document) is None


def test_the_first_pointer_that_leads_to_a_value_counts():
    assert first(DOCUMENT, pointers("/missing", "/null", "/no", "/m~0n")) is False
    assert first(DOCUMENT, pointers("/missing")) is None
    assert first(DOCUMENT, ()) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(path=st.lists(st.text(), max_size=4), value=JSON.filter(lambda value: value is not None))
def test_every_key_can_be_pointed_at(path, value):
    if "-" in path:
        return
    document = value
    for key in reversed(path):
        document = {key: document}
    assert Pointer(jsonpointer.JsonPointer.from_parts(path).path).find(document) == value


def test_settings_hold_pointers_by_comma(monkeypatch):
    class Some(BaseSettings):
        where: Pointers = pointers("/a", "/b")

    assert Some().where == pointers("/a", "/b")
    monkeypatch.setenv("WHERE", "/x/0 , /y")
    assert Some().where == pointers("/x/0", "/y")
    assert ",".join(map(str, Some().where)) == "/x/0,/y"
    monkeypatch.setenv("WHERE", "x")
    with pytest.raises(ValidationError, match="must be JSON pointers by comma"):
        Some()
