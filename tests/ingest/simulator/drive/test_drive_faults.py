"""Faults are parsed from text."""

import pytest

from ingest.simulator.drive.drive_faults import DriveFault, UnknownFault, parse_rates


def test_faults_are_parsed_with_or_without_their_rates():
    assert parse_rates("500:0.1, slow") == {DriveFault.BROKEN: 0.1, DriveFault.SLOW: 0.2}
    with pytest.raises(UnknownFault, match="Choose faults from 429, 500"):
        parse_rates("504")
