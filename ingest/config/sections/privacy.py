"""Settings of privacy: what is redacted before it is kept, and for how long the ledger keeps what."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Self

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings

from ingest.config.durations import Duration
from ingest.config.types import RedactionRules, setting
from ingest.errors import SettingsError
from ingest.wire.redaction import RedactionAction, RedactionRule


class RedactionSettings(BaseSettings):
    """`serve`: what is redacted of a body after it was verified and before it is kept."""

    redact: RedactionRules = setting(
        (),
        "rules by comma, `/payload/userEmail:mask` or `SESSION_STARTED:/payload/plate:hash`; `mask`, `hash`, `remove`",
    )
    redact_key: SecretStr | None = setting(None, "key of the digests that `hash` makes")

    @model_validator(mode="after")
    def _check_key(self) -> Self:
        require_redact_key(self.redact, self.redact_key)
        return self


def require_redact_key(rules: Sequence[RedactionRule], key: SecretStr | None) -> None:
    """Raise SettingsError if one of the rules hashes, and there is no key."""
    if not key and any(rule.action is RedactionAction.HASH for rule in rules):
        raise SettingsError("REDACT has a rule with hash, which needs REDACT_KEY: without a key names can be guessed.")


class RetentionSettings(BaseSettings):
    """`clock`: for how long the ledger keeps what; 0: for ever."""

    retain_bodies: Duration = setting(
        timedelta(days=90),
        "how long the body and the headers of a delivery are kept after it was received; those of a dead letter stay",
    )
    retain_deliveries: Duration = setting(
        timedelta(days=365),
        "how long a delivery without its body is kept, with its runs: so long is a duplicate recognized on every node",
    )
    retain_sessions: Duration = setting(
        timedelta(days=365), "how long a session record is kept after its last news, with its re-reads and its key"
    )
    retain_pushes: Duration = setting(timedelta(days=180), "how long a push is kept after it was made")
    retain_authorizations: Duration = setting(timedelta(days=90), "how long a decision at the charger is kept")
    retain_alerts: Duration = setting(timedelta(days=365), "how long an alert is kept once it is resolved")
    retain_audit: Duration = setting(timedelta(days=730), "how long an entry of the audit log is kept")
    retain_cdrs: Duration = setting(
        timedelta(days=3653), "how long a charging record is kept: tax law often asks for ten years"
    )
