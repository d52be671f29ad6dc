import pytest

from tests.bench.report import Column, Row, add_ratios, p99


def test_ratios_are_taken_run_by_run():
    slow, fast = Row("slow"), Row("fast")
    for rate in (1.0, 2.0):
        slow.add(rate=rate)
        fast.add(rate=10 * rate)
    add_ratios([slow, fast], "rate", slow, "ratio")
    assert fast.samples["ratio"] == [10.0, 10.0]
    assert Column("ratio", "ratio", 1).cell(fast) == "10.0 (10.0–10.0)"
    assert Column("other", "other").cell(fast) == "–"


def test_a_ratio_to_nothing_is_zero():
    none, some = Row("none"), Row("some")
    none.add(rate=0.0)
    some.add(rate=1.0)
    add_ratios([some], "rate", none, "ratio")
    assert some.samples["ratio"] == [0.0]


def test_one_sample_and_a_column_without_spread_show_the_median_alone():
    row = Row("row")
    row.add(rate=1234.5)
    assert Column("rate", "rate", 1).cell(row) == "1,234.5"
    row.add(rate=2234.5)
    assert Column("rate", "rate", spread=False).cell(row) == "1,734"


def test_remarks_add_up_over_runs():
    row = Row("row")
    row.remark({"503": 2})
    row.remark({"503": 1, "connection closed": 1})
    assert row.remarks == {"503": 3, "connection closed": 1}


@pytest.mark.parametrize(("values", "found"), [([], 0), ([7], 7), ([0, 100], 99), (range(101), 99)])
def test_one_of_a_hundred_values_may_be_above_p99(values, found):
    assert p99(values) == found
