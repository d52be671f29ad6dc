"""Authorization requests are built where the settings look for their parts, and are read back by the receiver."""

import json
from base64 import b64decode

from ingest.config.settings import load_settings
from ingest.simulator.authorization_requests import DEFAULT_KEY, ocpi_request, plugsurfing_request
from ingest.simulator.requests import curl

PARTS = {"key": "04/A1", "session": "S1", "location": "L1", "reference": "R1", "country": "DE"}


def test_each_part_is_at_the_first_pointer_of_its_setting():
    settings = load_settings(
        authorize_key="/token/uid,/key",
        authorize_session="/token/of~1session",
        authorize_location="/where",
        authorize_reference="/reference",
        authorize_country="/where2/~0country",
    )
    request = plugsurfing_request(settings, PARTS, "secret")
    assert request.path == "/plugsurfing/authorizations"
    assert request.headers["authorization"] == "secret"
    assert json.loads(request.body) == {
        "token": {"uid": "04/A1", "of/session": "S1"},
        "where": "L1",
        "reference": "R1",
        "where2": {"~country": "DE"},
    }


def test_parts_that_are_not_given_are_left_out():
    request = plugsurfing_request(load_settings(authorize_key="/key"), {"key": DEFAULT_KEY}, "secret")
    assert json.loads(request.body) == {"key": DEFAULT_KEY}


def test_ocpi_has_the_key_in_its_path_and_the_token_in_base64():
    request = ocpi_request(PARTS, "secret")
    assert request.path == "/ocpi/2.2.1/tokens/04%2FA1/authorize?type=RFID"
    scheme, _, token = request.headers["authorization"].partition(" ")
    assert (scheme, b64decode(token)) == ("Token", b"secret")
    assert json.loads(request.body) == {"location_id": "L1"}
    assert ocpi_request({"key": "1"}, "secret").body == b"{}"


def test_a_request_can_be_printed_as_curl():
    command = curl("http://127.0.0.1:8001", ocpi_request(PARTS, "it's secret"), "--max-time", "3")
    assert command.startswith("curl --silent --show-error 'http://127.0.0.1:8001/ocpi/2.2.1/tokens/04%2FA1/")
    assert command.endswith("""--max-time 3 --data-binary '{"location_id": "L1"}'""")
