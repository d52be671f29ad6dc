"""A past for a console: drivers who were warned and who were not, failures of one cause, pushes that died, alerts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update

from handlers.cdr_records import cdr_record
from handlers.kit.channel import Device
from handlers.kit.context import Push
from handlers.kit.testing import context_for
from ingest.events import decode, sanitize_text
from ingest.wire.envelope import Kind
from tests.workers.commands.conftest import Node, event
from workers.alerts.alerts import Alert, AlertKind, raise_alert
from workers.ledger import authorizations, devices, pushes
from workers.ledger.authorizations import DecisionRow
from workers.ledger.pushes import NewPush, PushUpdate
from workers.ledger.states import Outcome, PushState
from workers.ledger.tables.core_tables import runs

WARN = "warn_the_driver"
RECORD = ("session_record", Outcome.DONE)
MINUTE = timedelta(minutes=1)
TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/.venv/lib/python3.13/site-packages/workers/execution/runner.py", line 120, in call
    return handler(event, ctx)
  File "/srv/app/loyalty.py", line 41, in add_points
    points = balance["points"]
             ~~~~~~~^^^^^^^^^^
KeyError: 'points'
"""

PLUGIN = '''
from handlers import Context, on
from ingest.events import SessionComplete

@on(SessionComplete)
def add_points(event: SessionComplete, ctx: Context) -> None:
    """Do nothing."""
'''


@dataclass
class Past:
    """Inserts what happened into the ledger of a node, `began_at` being its first moment."""

    node: Node
    began_at: datetime

    def at(self, minute: float) -> datetime:
        return self.began_at + minute * MINUTE

    def started(self, session: str, user: str, minute: float = 0) -> str:
        body = event("SESSION_STARTED", session, at=self.at(minute), userId=user)
        return self.node.settle(body, RECORD, received_at=self.at(minute) + MINUTE / 60)

    def ended(self, session: str, minute: float) -> None:
        for name in ("SESSION_STOPPED", "SESSION_COMPLETE"):
            body = event(name, session, at=self.at(minute))
            self.node.settle(body, RECORD, received_at=self.at(minute + 0.5))

    def notice(
        self, session: str, minute: float, starts: float, outcome: Outcome = Outcome.DONE, reason: str | None = None
    ) -> str:
        fields = {"feeType": "BLOCKING", "feeWillApplyFrom": self.at(starts).isoformat()}
        body = event("SESSION_FEE_INCURRING", session, at=self.at(minute), **fields)
        delivery_id = self.node.settle(body, (WARN, outcome), received_at=self.at(minute) + MINUTE / 60)
        if reason is not None:
            with self.node.engine.begin() as conn:
                conn.execute(update(runs).where(runs.c.delivery_id == delivery_id).values(reason=reason))
        return delivery_id

    def push(self, delivery_id: str, session: str, user: str, minute: float, **ended: Any) -> str:
        push = Push(
            sanitize_text(user),
            "A blocking fee is near",
            "Move your car by 18:00.",
            f"fee:{session}",
            session_id=session,
        )
        with self.node.engine.begin() as conn:
            (id_,) = pushes.insert(conn, [NewPush(delivery_id, WARN, "fcm", push, self.at(minute))])
            if ended:
                pushes.mark(conn, [PushUpdate(id=id_, attempt=0, **ended)])
        return id_

    def cdr(self, session: str, user: str, minute: float, request: str, total: str = "7.03") -> str:
        document = {"requestId": request, "cost": {"total": total, "currency": "EUR"}, "sessionId": session}
        body = json.dumps({**document, "userId": user, "energy": 12.34, "locationId": "Neckarstraße 5"}).encode()
        delivery_id = self.node.settle(body, ("cdr_record", Outcome.DONE), kind=Kind.CDRS, received_at=self.at(minute))
        parsed = decode(Kind.CDRS, body)
        ctx = context_for(parsed, now=self.at(minute))
        ctx.delivery = replace(ctx.delivery, id=delivery_id, body=body)
        cdr_record(parsed, ctx)
        with self.node.engine.begin() as conn:
            for write in ctx.writes.written:
                conn.execute(write.statement, write.values)
        return delivery_id

    def failure(self, session: str, minute: float, error: str = "KeyError: 'points'", text: str = TRACEBACK) -> str:
        body = event("SESSION_COMPLETE", session, at=self.at(minute))
        delivery_id = self.node.settle(
            body, RECORD, ("add_points", Outcome.DEAD), received_at=self.at(minute), error=error
        )
        changed = {"traceback": text, "finished_at": self.at(minute + 2), "attempts": 5}
        with self.node.engine.begin() as conn:
            one = update(runs).where(runs.c.delivery_id == delivery_id, runs.c.handler == "add_points")
            conn.execute(one.values(changed))
        return delivery_id

    def alert(self, kind: AlertKind, subject: str, sentence: str, minute: float, **about: str) -> None:
        with self.node.engine.begin() as conn:
            raise_alert(conn, Alert(kind, subject, sentence, **about), self.at(minute))

    def authorization(self, id_: str, minute: float, **parts: Any) -> None:
        usual = {"form": "plugsurfing", "decision": "ALLOWED", "policy": None, "reason": None, "latency_us": 4200}
        with self.node.engine.begin() as conn:
            authorizations.insert(conn, [DecisionRow(id_, self.at(minute), **usual | parts)])

    def device(self, user: str, minute: float) -> None:
        user = sanitize_text(user)
        with self.node.engine.begin() as conn:
            devices.upsert(conn, user, Device(f"token-of-{user}", "android", "de", "Europe/Berlin"), self.at(minute))


def fill(node: Node, *, user: str = "dana@example.com", text: str = "", failures: int = 133) -> Past:
    """Insert a day: every way in which a driver is warned or not, with a text in every field that may be foreign."""
    past = Past(node, datetime.now(UTC).replace(microsecond=0) - timedelta(hours=6))
    past.device(user, 0)
    for number, session in enumerate(_sessions(past, user)):
        past.cdr(session + text, user, 80 + number, f"r-{number}{text}")
    for number in range(failures):
        past.failure(f"f{number}{text}", 100 + number)
    past.failure(f"other{text}", 90, f"ValueError: {text or 'no'}", f'Traceback\n  File "x.py", line 1\n{text}')
    past.authorization("a1", 1, session_id="warned", key="04a1b2" + text, reason=text or None)
    past.authorization("a2", 2, decision="BLOCKED", policy="key_list", reason="the key is disabled", key="04a1b2")
    dead = f"{failures} runs of add_points were given up. Correct the plugin, then `webhooks replay`."
    past.alert(AlertKind.DEAD_LETTERS, "add_points", dead, 240)
    past.alert(AlertKind.PUSHES_DEAD, f"fcm{text}", "1 push of fcm was given up.", 70)
    node.keep(event("SESSION_STOPPED", f"warned{text}", at=past.at(300)), received_at=past.at(300))
    return past


def _sessions(past: Past, user: str) -> Iterator[str]:
    past.started("warned", user)
    notice = past.notice("warned", 30, 40)
    past.push(notice, "warned", user, 30, state=PushState.SENT, sent_at=past.at(30.1))
    past.ended("warned", 38)
    yield "warned"
    past.started("late", user, 5)
    past.notice("late", 39.5, 40, Outcome.MOOT, "too late: the fee has started, or will within FEE_WARNING_GRACE")
    past.ended("late", 60)
    yield "late"
    past.started("refused", user, 6)
    refused = past.notice("refused", 35, 45)
    past.push(refused, "refused", user, 35, state=PushState.DEAD, error="UNREGISTERED: the app was removed")
    past.ended("refused", 70)
    yield "refused"
    past.started("silent", user, 200)
