import pytest

from ingest.wire.authorization.request import Allowed, Decision


def test_a_decision_takes_the_word_of_the_wire():
    assert Decision("BLOCKED").allowed is Allowed.BLOCKED


@pytest.mark.parametrize("parts", [{"allowed": "MAYBE"}, {"allowed": None}])
def test_a_decision_that_is_none_is_refused_where_it_is_made(parts):
    with pytest.raises(ValueError, match="is not a valid Allowed"):
        Decision(**parts)


@pytest.mark.parametrize("parts", [{"information": 1}, {"reason": None}])
def test_words_are_texts(parts):
    with pytest.raises(TypeError, match="must be a text for the"):
        Decision(Allowed.ALLOWED, **parts)
