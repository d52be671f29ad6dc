"""Where the house stands, and its README as tables and blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Readme:
    """The README, by heading."""

    text: str

    def section(self, heading: str) -> str:
        """Everything under a heading, up to the next one of its rank or above."""
        found = re.search(rf"^(#+) {re.escape(heading)}$", self.text, re.MULTILINE)
        assert found, f"README.md has no section {heading!r}"
        rest = self.text[found.end() :]
        end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
        return rest[: end.start()] if end else rest

    def table(self, heading: str) -> list[tuple[str, ...]]:
        """The rows of the first table under a heading, without its head."""
        lines = list(self._table_lines(self.section(heading)))
        assert len(lines) > 2, f"README.md has no table under {heading!r}"
        return [tuple(cell.strip() for cell in line.strip().strip("|").split(" | ")) for line in lines[2:]]

    def code(self, heading: str, language: str) -> list[str]:
        """The blocks of one language under a heading."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.section(heading), re.MULTILINE | re.DOTALL)

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
    """The folder of the checkout."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def readme(root: Path) -> Readme:
    """The README."""
    return Readme((root / "README.md").read_text("utf-8"))
