import re
from importlib import import_module

import pytest

from ingest import errors
from ingest.errors import (
    InboxUnavailable,
    NotAuthentic,
    RequestTimeout,
    TooLarge,
    UnsupportedEncoding,
    WebhooksError,
    WrongPath,
)


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (NotAuthentic, 403),
        (WrongPath, 404),
        (RequestTimeout, 408),
        (TooLarge, 413),
        (UnsupportedEncoding, 415),
        (InboxUnavailable, 503),
    ],
)
def test_every_refusal_has_its_status_and_a_sentence_without_detail(refusal, status):
    error = refusal("The key CURRENT did not match.")
    assert (error.status, str(error)) == (status, "The key CURRENT did not match.")
    assert "CURRENT" not in error.sentence
    assert str(refusal()) == refusal.sentence


def test_the_tree_in_the_docstring_is_the_class_tree():
    drawn = {}
    for line in errors.__doc__.split("\n\n", 1)[1].splitlines():
        name = line.lstrip("│├└─ ")
        if name:
            home = re.search(r"\(([a-z_.]+)\)$", name)  # an error that lives on a higher floor
            module = import_module(home[1]) if home else errors
            drawn[getattr(module, name.split()[0])] = (len(line) - len(name)) // 4
    defined = {error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, WebhooksError)}
    assert defined <= drawn.keys()
    assert drawn == {error: len(error.__mro__) - len(WebhooksError.__mro__) for error in drawn}
