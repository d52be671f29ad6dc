"""What `webhooks bench` passes to a bench and prints of its report; the benches have tests of their own."""

import json

import pytest
from click.testing import CliRunner

from tests.bench import accept, end_to_end, memory, pages, push_latency, work
from tests.bench.__main__ import bench
from tests.bench.end_to_end import EndToEndScale
from tests.bench.large_ledger import LargeLedger
from tests.bench.pages import PagesScale
from tests.bench.report import Column, Report, Row

SERVER = "postgresql://somewhere/"


@pytest.fixture
def calls(monkeypatch):
    """The arguments that each bench was called with, without the progress bar; none of them runs."""
    found = {}
    for module, name in ((accept, "accept"), (work, "work"), (end_to_end, "through"), (memory, "memory")):
        monkeypatch.setattr(module, name, fake(name, found))
    monkeypatch.setattr(push_latency, "warn", fake("warn", found))
    return found


def fake(name, found):
    def measure(*arguments, **options):
        found[name] = (*arguments[:-1], *options.values())
        row = Row("a target")
        row.add(rate=1.0)
        row.add(rate=3.0)
        row.remark({"503": 2})
        return Report(f"{name}: a title", [Column("requests/s", "rate")], [row], "a caption")

    return measure


def run(*arguments, code=0):
    result = CliRunner().invoke(bench, arguments)
    assert result.exit_code == code, result.output
    return result.stdout


def test_a_report_is_a_table_with_its_title_caption_and_remarks(calls):
    lines = run("accept").splitlines()
    assert lines[1] == "accept: a title"
    assert lines[3].split() == ["requests/s"]
    assert lines[4].split("  ")[0] == "a target"
    assert "2 (1–3)" in lines[4]
    assert lines[6:] == ["a caption", "a target: 2 × 503"]


def test_a_report_as_json_is_one_object_a_row_with_every_sample(calls):
    assert [json.loads(line) for line in run("accept", "--json").splitlines()] == [
        {"bench": "accept: a title", "row": "a target", "samples": {"rate": [1.0, 3.0]}, "remarks": {"503": 2}}
    ]


@pytest.mark.parametrize(
    ("arguments", "name", "passed"),
    [
        (["accept"], "accept", (5, 5.0)),
        (["accept", "--runs", "2", "--seconds", "0.3"], "accept", (2, 0.3)),
        (["work"], "work", (5, 20_000, 200, SERVER)),
        (["work", "--events", "30", "--rival-events", "2"], "work", (5, 30, 2, SERVER)),
        (["through"], "through", (EndToEndScale(5, 20.0, 3000.0, 20), SERVER)),
        (["through", "--rate", "50", "--singles", "2"], "through", (EndToEndScale(5, 20.0, 50.0, 2), SERVER)),
        (["through", "--rate", "50", "--memory"], "memory", (50.0,)),
        (["warn"], "warn", (1, 100_000, 200, SERVER, "http")),
        (["warn", "--events", "50", "--warnings", "3"], "warn", (1, 50, 3, SERVER, "http")),
    ],
)
def test_options_reach_the_bench(calls, arguments, name, passed):
    database = [] if arguments[0] == "accept" else ["--database", SERVER]
    run(*arguments, *database)
    assert calls[name] == passed


def test_pages_are_measured_over_a_ledger_of_the_wanted_size(calls, monkeypatch):
    measure = fake("pages", calls)
    monkeypatch.setattr(pages, "pages", lambda *arguments: [measure(*arguments)] * 2)
    lines = run("pages", "--deliveries", "2000", "--requests", "3", "--database", SERVER).splitlines()
    assert calls["pages"] == (PagesScale(LargeLedger(2000), 3), SERVER)
    assert lines.count("pages: a title") == 2


def test_memory_is_measured_only_when_asked_for(calls):
    run("through", "--database", SERVER)
    assert "memory" not in calls


@pytest.mark.parametrize(
    "arguments", [["accept", "--runs", "0"], ["work", "--rival-events", "1"], ["warn", "--rate", "1"]]
)
def test_options_that_make_no_sense_are_wrong_usage(calls, arguments):
    run(*arguments, code=2)
    assert calls == {}


@pytest.mark.parametrize("name", ["accept", "work", "through", "warn"])
def test_help_names_the_figure_and_its_options(name):
    assert f"  {name} " in run("--help")
    output = run(name, "--help")
    assert output.splitlines()[2].strip().startswith("Measure how ")
    assert {"--runs", "--json"} <= set(output.split())
