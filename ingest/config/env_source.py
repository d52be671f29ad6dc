"""The `.env` file as a shell and Docker Compose read it: within single quotes a `$` is a `$`."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from dotenv.parser import parse_stream
from dotenv.variables import parse_variables
from pydantic_settings import DotEnvSettingsSource

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
