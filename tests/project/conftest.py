"""The folder of the project, and its manuals as tables and blocks of code."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

MANUALS = (
    "README.md",
    "handlers/README.md",
    "handlers/AUTHORIZATION.md",
    "handlers/CDRS.md",
    "handlers/PUSHES.md",
    "workers/README.md",
    "workers/ALERTS.md",
    "workers/DRIVE.md",
    "workers/GLOSSARY.md",
    "workers/MEASUREMENTS.md",
    "workers/REFERENCE.md",
    "workers/SCALING.md",
    "workers/SESSIONS.md",
    "workers/deploy/README.md",
)

#: Words that name nothing: neither a file nor a thing.
MEANING_NOTHING = ("manager", "util", "helper", "common", "base", "data", "info", "message")


@dataclass(frozen=True)
class Readme:
    """The README and the manuals, by heading: each heading that a test uses is in one of them."""

    pages: Mapping[str, str]

    @property
    def text(self) -> str:
        """The text of the README."""
        return self.pages["README.md"]

    def section(self, heading: str) -> str:
        """Return everything under a heading, up to the next one of its rank or above."""
        sections = [section for text in self.pages.values() for section in self._sections(text, heading)]
        assert sections, f"no manual has a section {heading!r}"
        assert len(sections) == 1, f"several manuals have a section {heading!r}"
        return sections[0]

    def table(self, heading: str) -> list[tuple[str, ...]]:
        """Return the rows of the first table under a heading, without its head."""
        lines = list(self._table_lines(self.section(heading)))
        assert len(lines) > 2, f"there is no table under {heading!r}"
        return [tuple(cell.strip() for cell in line.strip().strip("|").split(" | ")) for line in lines[2:]]

    def code(self, heading: str, language: str) -> list[str]:
        """Return the blocks of one language under a heading."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.section(heading), re.MULTILINE | re.DOTALL)

    @staticmethod
    def _sections(text: str, heading: str) -> Iterator[str]:
        for found in re.finditer(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE):
            rest = text[found.end() :]
            end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
            yield rest[: end.start()] if end else rest

    @staticmethod
    def _table_lines(text: str) -> Iterator[str]:
        started = False
        for line in text.splitlines():
            if line.startswith("|"):
                started = True
                yield line
            elif started:
                return


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of the checkout."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def readme(root: Path) -> Readme:
    """Return the README and the manuals."""
    return Readme({name: (root / name).read_text("utf-8") for name in MANUALS})
