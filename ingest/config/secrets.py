"""Secrets: how they are read from files, decoded and checked."""

from pathlib import Path

from pydantic import SecretStr

from ingest.errors import SettingsError
from ingest.wire.signature import KeyEncoding, decode_key

SIGNING_KEYS = ("plugsurfing_hmac_current", "plugsurfing_hmac_next")


def read_secret(name: str, path: Path) -> str:
    """Read the file of a secret, without the newline that editors add. Raise SettingsError if it cannot be read.

    A missing file of the next key is read as an empty one.
    """
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        if name == SIGNING_KEYS[1] and isinstance(error, FileNotFoundError):
            return ""
        problem = type(error).__name__
    raise SettingsError(f"{name.upper()}_FILE names a file that cannot be read ({problem}).")


def signing_keys(
    current: SecretStr | None, next_: SecretStr | None, encoding: KeyEncoding, *, next_is_file: bool
) -> tuple[bytes | None, bytes | None]:
    """Decode both keys. Raise SettingsError if one is blank or not in its encoding, or if they are equal.

    Beside a valid CURRENT, a file of NEXT that is blank or repeats CURRENT means that there is no next key: a rotation
    ends that way, as the environment of a running process cannot be changed.
    """
    first = _signing_key(SIGNING_KEYS[0], current, encoding)
    may_be_absent = next_is_file and first is not None
    if may_be_absent and next_ is not None and not next_.get_secret_value().strip():
        return first, None
    second = _signing_key(SIGNING_KEYS[1], next_, encoding)
    if first is None or first != second:
        return first, second
    if may_be_absent:
        return first, None
    raise SettingsError("PLUGSURFING_HMAC_CURRENT and PLUGSURFING_HMAC_NEXT are the same key.")


def authorization_values(secret: SecretStr | None, name: str = "plugsurfing_authorization") -> tuple[bytes, ...]:
    """Split the values of an authorization header. Raise SettingsError if the setting is set but holds none."""
    if secret is None:
        return ()
    try:
        values = tuple(line.strip().encode() for line in secret.get_secret_value().splitlines() if line.strip())
    except UnicodeEncodeError:
        raise SettingsError(f"{name.upper()} is not utf8.") from None
    if not values:
        raise SettingsError(f"{name.upper()} is set, but empty.")
    return values


def _signing_key(name: str, secret: SecretStr | None, encoding: KeyEncoding) -> bytes | None:
    if secret is None:
        return None
    text = secret.get_secret_value()
    if not text.strip():
        raise SettingsError(f"{name.upper()} is set, but empty.")
    try:
        return decode_key(text, encoding)
    except ValueError:
        raise SettingsError(f"{name.upper()} is not {encoding}, see PLUGSURFING_HMAC_ENCODING.") from None
