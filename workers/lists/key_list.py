"""The list of signing keys and their use."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from ingest.config.settings import Settings
from ingest.wire.envelope import WITH_AUTHORIZATION
from ingest.wire.signature import Match
from workers.diagnostics.key_usage import KeyUsage, RotationStatus
from workers.lists.listing import Listing, attributes


@dataclass(frozen=True)
class KeyReport:
    """A key, whether it is configured, and what it has matched."""

    key: str
    configured: bool
    use: KeyUsage | None
    can_be_retired: bool | None
    """None: only CURRENT is ever retired."""


def signing_texts(settings: Settings) -> Mapping[Match, SecretStr | None]:
    """Return the signing keys as they are configured."""
    return {Match.CURRENT: settings.plugsurfing_hmac_current, Match.NEXT: settings.plugsurfing_hmac_next}


def key_reports(
    settings: Settings, uses: Mapping[str, KeyUsage], rotation: RotationStatus | None
) -> Iterator[KeyReport]:
    """Yield each key with its use; the keys themselves are not in it."""
    authorization = (WITH_AUTHORIZATION, settings.plugsurfing_authorization)
    configured: list[tuple[str, SecretStr | None]] = [*signing_texts(settings).items(), authorization]
    for name, secret in configured:
        can_go = rotation is not None and rotation.is_done if name == Match.CURRENT and secret else None
        yield KeyReport(name, secret is not None, uses.get(name), can_go)


KEYS = Listing[KeyReport](
    fields={
        **attributes("key", "configured"),
        "deliveries": lambda report: report.use.count if report.use else 0,
        "first_matched_at": lambda report: report.use.first_at if report.use else None,
        "last_matched_at": lambda report: report.use.last_at if report.use else None,
        "can_be_retired": lambda report: report.can_be_retired,
    },
    columns={
        "key": "key",
        "configured": "configured",
        "deliveries": "deliveries",
        "first matched": "first_matched_at",
        "last matched": "last_matched_at",
    },
)
