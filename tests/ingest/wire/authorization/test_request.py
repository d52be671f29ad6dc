import pytest

from ingest.wire.authorization.request import Allowed, Decision


def test_a_decision_accepts_the_wire_value():
    assert Decision("BLOCKED").allowed is Allowed.BLOCKED


@pytest.mark.parametrize("parts", [{"allowed": "MAYBE"}, {"allowed": None}])
def test_an_invalid_decision_is_refused_where_it_is_made(parts):
    with pytest.raises(ValueError, match="is not a valid Allowed"):
        Decision(**parts)


@pytest.mark.parametrize("parts", [{"information": 1}, {"reason": None}])
def test_messages_and_reasons_must_be_texts(parts):
    with pytest.raises(TypeError, match="must be a text for the"):
        Decision(Allowed.ALLOWED, **parts)
