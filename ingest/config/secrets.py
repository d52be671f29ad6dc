"""Secrets: how they are read from files, trimmed, decoded and checked."""

import unicodedata
from pathlib import Path

from pydantic import SecretStr

from ingest.errors import SettingsError
from ingest.wire.signature import KeyEncoding, decode_key

SIGNING_KEYS = ("plugsurfing_hmac_current", "plugsurfing_hmac_next")
# Of these every character counts: a blank at an end may be meant, and only what editors add is surely not.
EXACT = (*SIGNING_KEYS, "push_http_key", "dashboard_password")
LINE_ENDS_AND_BOM = "\r\n\ufeff"
INVISIBLE_CATEGORIES = {"Cc", "Cf", "Zl", "Zp", "Zs"}


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


def trim(name: str, text: str) -> str:
    """Remove the invisible characters around a secret or a URL.

    Raise SettingsError if it is a key or a password, and they are more than line ends and a byte order mark.
    """
    visible = _strip_invisible(text)
    if name in EXACT and visible and text.strip(LINE_ENDS_AND_BOM) != visible:
        raise SettingsError(f"{name.upper()} begins or ends with an invisible character, such as a blank: remove it.")
    return visible


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
        lines = map(_strip_invisible, secret.get_secret_value().splitlines())
        values = tuple(line.encode() for line in lines if line)
    except UnicodeEncodeError:
        raise SettingsError(f"{name.upper()} is not utf8.") from None
    if not values:
        raise SettingsError(f"{name.upper()} is set, but empty.")
    return values


def _strip_invisible(text: str) -> str:
    visible = [place for place, sign in enumerate(text) if unicodedata.category(sign) not in INVISIBLE_CATEGORIES]
    return text[visible[0] : visible[-1] + 1] if visible else ""


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
