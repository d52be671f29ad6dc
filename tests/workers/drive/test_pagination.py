"""Lists are read page by page over HTTP: every entry arrives, and no cursor is followed for ever."""

import pytest
from structlog.testing import capture_logs

from workers.drive.drive_errors import InvalidResponse, TruncatedResponse

SESSION = {"sessionId": "s1", "sessionStatus": "STARTED"}


def test_a_history_is_read_to_its_last_page(call, api):
    pages = [{"sessions": [SESSION | {"sessionId": f"s{n}"}], "cursor": f"c{n}", "count": 1} for n in (1, 2)]
    api.returns(*pages, {"sessions": [], "count": 0})
    assert [session.session_id for session in call("history", "u", statuses=["STARTED"])] == ["s1", "s2"]
    assert [request.json for request in api.requests] == [
        {"sessionStatus": ["STARTED"]},
        {"sessionStatus": ["STARTED"], "cursor": "c1"},
        {"sessionStatus": ["STARTED"], "cursor": "c2"},
    ]


def test_charging_keys_are_read_to_the_last_page(call, api):
    api.returns({"keys": [{"keyIdentifier": "01"}], "cursor": "a b"}, {"keys": [{"keyIdentifier": "02"}]})
    keys = call("charging_keys", "fleet 1", page_size=10)
    assert [(key.identifier, key.fleet_id) for key in keys] == [("01", "fleet 1"), ("02", "fleet 1")]
    assert api.paths == [
        "/drive/emp/v1/charging-keys?fleetId=fleet%201&page_size=10",
        "/drive/emp/v1/charging-keys?fleetId=fleet%201&cursor=a%20b&page_size=10",
    ]


@pytest.mark.parametrize("cursors", [["c"], ["c", "d"]])
def test_a_list_whose_cursors_repeat_ends(call, api, cursors):
    api.respond = lambda _: api.as_response(
        {"keys": [{"keyIdentifier": "01"}], "cursor": cursors[len(api.requests) % len(cursors)]}
    )
    with pytest.raises(InvalidResponse, match="repeat"):
        call("charging_keys")
    assert len(api.requests) == len(cursors) + 1


def test_a_list_without_an_end_ends(call, api):
    api.respond = lambda _: api.as_response({"sessions": [], "cursor": str(len(api.requests)), "count": 0})
    with pytest.raises(InvalidResponse, match="no end"):
        call("history", "u")
    assert len(api.requests) == 20


def test_a_page_that_lost_its_entries_is_requested_again(call, api):
    api.returns(
        {"keys": [{"keyIdentifier": "01"}], "cursor": "a"},
        {"keys": [], "cursor": "b"},
        {"keys": [{"keyIdentifier": "02"}], "cursor": "b"},
        {"keys": [{"keyIdentifier": "03"}]},
    )
    assert [key.identifier for key in call("charging_keys")] == ["01", "02", "03"]


@pytest.mark.parametrize("page", [{"sessions": [], "cursor": "c"}, {"sessions": [], "count": 3}])
def test_a_page_that_stays_empty_is_not_taken_for_the_last(call, api, page):
    api.returns(page)
    with pytest.raises(TruncatedResponse, match="lost its sessions"):
        call("history", "u")
    assert len(api.requests) == 4


def test_the_count_of_an_empty_last_page_may_be_that_of_the_whole_list(call, api):
    api.returns({"sessions": [SESSION], "cursor": "c", "count": 1}, {"sessions": [], "count": 1})
    assert len(call("history", "u")) == 1


def test_an_invalid_entry_does_not_hide_the_others(call, api):
    api.returns({"sessions": [SESSION, {"sessionId": "odd"}, 7]})
    with capture_logs() as logs:
        assert len(call("history", "u")) == 1
    (line,) = (each for each in logs if each["event"] == "drive.entries_skipped")
    assert line["count"] == 2


def test_a_list_of_invalid_entries_is_an_error_that_names_the_setting(call, api):
    api.returns({"sessions": [{"sessionId": "s"}]})
    with pytest.raises(InvalidResponse, match="DRIVE_SESSION_STATUS"):
        call("history", "u")


def test_a_cursor_that_is_not_text_is_invalid(call, api):
    api.returns({"keys": [{"keyIdentifier": "01"}], "cursor": {"next": 1}})
    with pytest.raises(InvalidResponse, match="cursor is not text"):
        call("charging_keys")
