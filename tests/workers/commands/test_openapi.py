import json

import pytest
from click.testing import CliRunner

from workers.cli import main


@pytest.mark.parametrize(
    ("process", "title"), [("authorize", "webhooks authorize"), ("devices", "webhooks devices serve")]
)
def test_the_document_of_each_is_printed(process, title):
    printed = CliRunner().invoke(main, ["openapi", process])
    assert (printed.exit_code, json.loads(printed.output)["info"]["title"]) == (0, title)
