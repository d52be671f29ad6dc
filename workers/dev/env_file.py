"""What `webhooks dev` made up, written down for its next run and for commands in another terminal."""

import os
from collections.abc import Mapping
from pathlib import Path

from ingest.config.secrets import SIGNING_KEYS
from ingest.config.settings import Settings, load_settings

FILE_NAME = "dev.env"
HEADING = "# Made up by `webhooks dev`, which also removes what is no longer true.\n"


def read_devfile(data_dir: Path) -> dict[str, str]:
    """Return what was written, by the name of the setting; nothing if there is no file."""
    try:
        lines = (data_dir / FILE_NAME).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {name: value for name, equals, value in pairs if equals}


def write_devfile(data_dir: Path, values: Mapping[str, str]) -> None:
    """Write the file anew, readable by its owner only: keys are in it."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = data_dir / f"{FILE_NAME}.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(HEADING)
        file.writelines(f"{name}={value}\n" for name, value in values.items())
    new.replace(data_dir / FILE_NAME)


def settings_with_dev_defaults() -> Settings:
    """Load the settings of a command that may be run beside `webhooks dev`: what is not set is taken from its file.

    Not for `serve`, which must refuse to start without a key of its own. Raises SettingsError as load_settings does.
    """
    settings = load_settings()
    given = settings.model_fields_set
    made_up = {name.lower(): value for name, value in read_devfile(settings.data_dir).items()}
    if any(name in given for name in SIGNING_KEYS):  # a made-up NEXT does not belong to a real CURRENT
        made_up = {name: value for name, value in made_up.items() if name not in SIGNING_KEYS}
    missing = {name: value for name, value in made_up.items() if name not in given}
    return load_settings(**missing) if missing else settings
