"""Metrics are documented, and rules and dashboards use only what is served."""

import json
import re
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client import generate_latest
from starlette.testclient import TestClient

from ingest.authorize import authorize_metrics
from ingest.authorize.authorize_metrics import AuthorizeMetrics
from ingest.config.settings import Settings, load_settings
from ingest.http.app import create_app
from ingest.log_handler import DropReason
from ingest.queue.process_registry import ProcessType
from ingest.queue.queues import QUEUES
from tests.project.reference import PAGE, ROOT
from tests.project.served_metrics import ServedMetric, served_metrics
from workers.cli import COMMANDS
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.states import Outcome, PushState
from workers.ledger.tables import metadata
from workers.observability.metrics_server import installation_registry

FOLDER = ROOT / "workers" / "observability"
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"][0]["rules"]
PANELS = json.loads((FOLDER / "grafana.json").read_text("utf-8"))["panels"]
SERVED = served_metrics()
SAMPLES: dict[str, ServedMetric] = {
    name: each for metrics in SERVED.values() for each in metrics for name in each.samples
}
STANDARD = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "up"}
#: The values of a label in an expression, where they are an enumeration of ours.
VALUES = {
    "outcome": {*Outcome},
    "state": {*PushState},
    "queue": {*QUEUES},
    "process": {*ProcessType},
    "reason": {"NotAuthentic", *DropReason},
    "how": {"closed", "half_closed"},
}


def names_and_types(text: str) -> dict[str, str]:
    return {
        name: kind
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
        if not name.startswith("process_")
    }


def documented(process: str) -> dict[str, str]:
    return {each.name: each.type for each in SERVED[process]}


def test_serve_serves_what_is_documented(tmp_path):
    with TestClient(create_app(load_settings(data_dir=tmp_path, plugsurfing_hmac_current="key"))) as client:
        assert names_and_types(client.get("/metrics").text) == documented("serve")


def test_authorize_serves_what_is_documented():
    text = AuthorizeMetrics().text(dict.fromkeys(authorize_metrics.MEASURED, 0))
    assert names_and_types(text.decode()) == documented("authorize")


def test_the_clock_serves_what_is_documented(valkey, tmp_path):
    engine = create_ledger_engine(f"sqlite:///{tmp_path}/ledger.db", creates_file=True)
    metadata.create_all(engine)
    assert names_and_types(generate_latest(installation_registry(engine, valkey)).decode()) == documented("clock")


def test_the_reference_lists_every_metric():
    page = PAGE.read_text("utf-8")
    for name, each in ((each.name, each) for metrics in SERVED.values() for each in metrics):
        assert f"| `{name}` | {each.type} |" in page


def test_names_are_as_prometheus_names_things():
    for metrics in SERVED.values():
        for each in metrics:
            assert re.fullmatch(r"webhooks_[a-z_]+", each.name)
            assert each.name.endswith("_total") is (each.type == "counter"), each.name
            assert each.documentation
            assert not {"id", "user", "session", "key", "pid"} & set(each.labels)


def expressions() -> Iterator[tuple[str, str, str]]:
    """Yield the expressions, each with a name for it and the text beside it that uses its labels."""
    for rule in RULES:
        yield rule["alert"], rule["expr"], rule["annotations"]["summary"]
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


@pytest.mark.parametrize(("name", "expression", "text"), [*expressions()])
def test_an_expression_uses_only_metrics_labels_and_values_that_exist(name, expression, text):
    used = re.findall(r"\b(?:webhooks|process)_\w+|\bup\b", expression)
    assert used
    assert not [each for each in used if each not in SAMPLES.keys() | STANDARD]
    labels = {label for each in used for label in (SAMPLES[each].labels if each in SAMPLES else ())} | {
        "instance",
        "le",
    }
    grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")}
    shown = set(re.findall(r"\$labels\.(\w+)", text)) | set(re.findall(r"\{\{(\w+)\}\}", text))
    assert grouped | shown <= labels
    if "by (" in expression:
        assert shown <= grouped
    for label, value in re.findall(r"(\w+)=~?\"([^\"]*)\"", expression):
        assert label in labels
        assert value in VALUES[label]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do_in_commands_and_settings_that_exist(rule):
    summary = rule["annotations"]["summary"]
    assert re.search(r"\b(Run|Start|Free|Look|Make|see|says|run)\b", summary.partition(". ")[2] or summary)
    assert {*re.findall(r"`webhooks (\w+)", summary)} <= COMMANDS.keys()
    assert {*re.findall(r"\b[A-Z]+_[A-Z_]+\b", summary)} <= {name.upper() for name in Settings.model_fields}
    assert rule["labels"]["severity"] in {"critical", "warning"}


def test_alerts_have_names_of_their_own_and_panels_places():
    names = [rule["alert"] for rule in RULES]
    assert len({*names}) == len(names)
    assert all(re.fullmatch(r"Webhooks[A-Z]\w+", name) for name in names)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    assert len({*places}) == len(places)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
