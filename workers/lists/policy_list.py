"""The list of what each policy says to one request."""

from collections.abc import Iterator
from typing import NamedTuple

from workers.lists.formatting import Cell, printable
from workers.lists.listing import Listing, attributes
from workers.policies.dry_run import DryRun, PolicyOutcome


class TriedPolicy(NamedTuple):
    """What a policy says, and whether it would be asked: the first one that decides is the last one asked."""

    outcome: PolicyOutcome
    is_asked: bool


def tried_policies(dry_run: DryRun) -> Iterator[TriedPolicy]:
    """Yield the policies in their order, each with whether it would be asked."""
    is_asked = True
    for outcome in dry_run.outcomes:
        yield TriedPolicy(outcome, is_asked)
        is_asked = is_asked and outcome.decision is None and outcome.error is None


def how_decided(dry_run: DryRun) -> str:
    """Return which policy decided, or that AUTHORIZE_ON_FAILURE did, and why."""
    record = dry_run.record
    if record.failure is not None:
        return f"AUTHORIZE_ON_FAILURE, as {record.policy or 'the body'} fails"
    return record.policy or "no policy objects"


def _says(tried: TriedPolicy) -> Cell:
    outcome, is_asked = tried
    if outcome.error is not None:
        says = "fails"
    elif outcome.decision is None:
        return "passes"
    else:
        says = outcome.decision.allowed.value
    return says if is_asked else f"{says}, not asked"


def _why(tried: TriedPolicy) -> Cell:
    outcome, _ = tried
    if outcome.error is not None:
        return printable(outcome.error)
    if outcome.decision is None:
        return "; ".join(outcome.notes) or None
    information = outcome.decision.information
    return outcome.decision.reason + (f"; the driver reads: {information}" if information else "")


TRIED_POLICIES = Listing[TriedPolicy](
    fields={
        **attributes(policy="outcome.policy.name", order="outcome.policy.order", file="outcome.policy.file"),
        "says": lambda tried: tried.outcome.decision.allowed.value if tried.outcome.decision else None,
        "reason": lambda tried: tried.outcome.decision.reason if tried.outcome.decision else None,
        "information": lambda tried: tried.outcome.decision.information if tried.outcome.decision else None,
        **attributes(error="outcome.error", notes="outcome.notes"),
        "took_ms": lambda tried: round(tried.outcome.took.total_seconds() * 1000, 3),
    },
    columns={
        "policy": "policy",
        "order": "order",
        "says": _says,
        "why": _why,
        "took": lambda tried: tried.outcome.took,
    },
    wrapping=2,
)
