"""The `.env` file as a shell and Docker Compose read it: within single quotes a `$` is a `$`."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from dotenv.parser import parse_stream
from dotenv.variables import parse_variables
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

SINGLE_QUOTED = re.compile(r"[^=]*=\s*'")


class EnvFileSource(DotEnvSettingsSource):
    """Reads `.env` as python-dotenv does, which would also replace `${NAME}` within single quotes."""

    def _read_env_file(self, file_path: Path) -> Mapping[str, str | None]:
        values: dict[str, str | None] = {}
        with file_path.open(encoding=self.env_file_encoding) as file:
            for line in parse_stream(file):
                if line.key is None:
                    continue
                value = line.value
                if value is not None and not SINGLE_QUOTED.match(line.original.string):
                    value = "".join(part.resolve({**os.environ, **values}) for part in parse_variables(value))
                values[line.key] = value
        return {name.lower(): value for name, value in values.items()}


class EnvFileSettings(BaseSettings):
    """Settings of the environment and of `.env`; those of the program, and of plugins."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - replaced
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings come from, the first that has one counts."""
        return init_settings, env_settings, EnvFileSource(settings_cls)
