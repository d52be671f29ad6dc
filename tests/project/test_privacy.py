"""Each line of the guide for the privacy officer names its tests, and no limit of retention is missing there."""

import re

from ingest.config.sections.privacy import RetentionSettings
from tests.project.test_security import assert_points_to_tests


def test_every_line_of_the_guide_points_to_tests(root):
    lines = [line for line in guide(root).splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(lines) > 10
    for line in lines:
        assert_points_to_tests(root, line)


def test_every_limit_of_retention_is_in_the_guide(root):
    named = set(re.findall(r"`(RETAIN_[A-Z]+)`", guide(root)))
    assert named == {name.upper() for name in RetentionSettings.model_fields if name.startswith("retain_")}


def guide(root):
    return (root / "workers" / "PRIVACY.md").read_text("utf-8")
