"""What handlers did with a sample, kept as JSON beside it: what they do today is compared with that.

sample -> handlers -> [outcomes] -> report
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ingest.errors import SettingsError
from workers.execution.handler_dry_run import HandlerDryRun

RECORDED = "recorded"
"""The folder in that of the samples."""


def outcomes_of(runs: Iterable[HandlerDryRun]) -> dict[str, Any]:
    """Return what each handler would do, by its name: its outcome, what it raised, pushes, and statements with values.

    Values that differ each time, as a random id, make a difference each time.
    """
    return {
        each.result.handler: {
            "outcome": each.result.outcome.value,
            "reason": each.result.reason,
            "error": each.result.error,
            "pushes": [
                {
                    "user_id": push.user_id,
                    "title": push.title,
                    "body": push.body,
                    "collapse_key": push.collapse_key,
                    "idempotency_key": push.idempotency_key,
                    "session_id": push.session_id,
                    "even_if_over": push.even_if_over,
                    "expires_at": None if push.expires_at is None else push.expires_at.isoformat(),
                    "payload": dict(push.payload),
                }
                for push in each.result.writes.pushes
            ],
            "writes": list(each.statements),
        }
        for each in runs
    }


def record(sample: Path, outcomes: Mapping[str, Any]) -> Path:
    """Write the outcomes of a sample, and return the file."""
    path = recorded_path(sample)
    path.parent.mkdir(exist_ok=True)
    path.write_text(_text(outcomes) + "\n", "utf-8")
    return path


def differences(sample: Path, outcomes: Mapping[str, Any]) -> list[str]:
    """Return how the outcomes differ from those that were recorded, as lines of a diff; none if none were.

    Raise SettingsError for a file that is no JSON.
    """
    path = recorded_path(sample)
    if not path.exists():
        return []
    try:
        before = _text(json.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise SettingsError(f"{path} is no JSON: write it again by `webhooks plugin test --record`.") from error
    lines = difflib.unified_diff(before.splitlines(), _text(outcomes).splitlines(), lineterm="", n=2)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def recorded_path(sample: Path) -> Path:
    """Return the file of the recorded outcomes of a sample."""
    return sample.parent / RECORDED / sample.name


def _text(outcomes: Mapping[str, Any]) -> str:
    return json.dumps(outcomes, indent=2, sort_keys=True, ensure_ascii=False)
