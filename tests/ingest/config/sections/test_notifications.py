from datetime import timedelta

import pytest

from ingest.config.settings import load_settings
from ingest.errors import SettingsError


@pytest.mark.parametrize(("before", "grace"), [("2m", "2m"), ("1m", "2m")])
def test_a_reminder_that_could_never_be_sent_is_refused(before, grace):
    with pytest.raises(SettingsError, match=r"REMIND_BEFORE .*FEE_WARNING_GRACE"):
        load_settings(remind_before=before, fee_warning_grace=grace)


@pytest.mark.parametrize(("before", "grace"), [("0", "2m"), ("3m", "2m"), ("2m", "0"), ("0", "0")])
def test_every_other_pair_is_accepted(before, grace):
    settings = load_settings(remind_before=before, fee_warning_grace=grace)
    assert settings.fee_warning_grace <= timedelta(minutes=2)
