"""The settings of the HTTP servers: what is refused with a sentence that names the setting."""

import pytest

from ingest.config.settings import load_settings
from ingest.errors import SettingsError


def test_a_downtime_is_longer_than_the_time_between_two_heartbeats():
    assert load_settings(gap_shortest="2s").gap_shortest.total_seconds() == 2
    with pytest.raises(SettingsError, match="GAP_SHORTEST must be at least 2 s"):
        load_settings(gap_shortest="1900ms")
