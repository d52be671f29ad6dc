import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from ingest.config.types import FieldPaths
from ingest.wire.field_paths import HeaderPath, field_paths, find, header_names
from ingest.wire.json_pointers import Pointer

BODY = {"requestId": "in the body"}
HEADERS = {"x-request-id": "in a header"}


class Given(BaseSettings):
    where: FieldPaths = field_paths("/requestId", "X-Request-Id")


def test_a_path_leads_into_the_body_or_to_a_header():
    pointer, header = Given().where
    assert (pointer, header) == (Pointer("/requestId"), HeaderPath("X-Request-Id"))
    assert find(pointer, BODY, HEADERS) == "in the body"
    assert find(header, BODY, HEADERS) == "in a header"
    assert find(header, BODY, {}) is find(pointer, {}, HEADERS) is None


def test_paths_are_spelt_as_they_were_given():
    given = Given(where=" /a/b , Request-ID ")  # type: ignore[arg-type] - as the environment spells it
    assert ",".join(map(str, given.where)) == "/a/b,Request-ID"
    assert header_names(given.where) == {"request-id"}


@pytest.mark.parametrize("text", ["request id", "Ü", "a:b", "/~2", "x" * 101])
def test_an_invalid_path_is_refused(text):
    with pytest.raises(ValidationError, match="must"):
        Given(where=text)


@pytest.mark.parametrize("text", ["Authorization", "X-HMAC-SHA512-Signature", "cookie"])
def test_a_header_of_credentials_is_refused_because_it_would_be_kept(text):
    with pytest.raises(ValidationError, match="credentials"):
        Given(where=f"/requestId,{text}")
