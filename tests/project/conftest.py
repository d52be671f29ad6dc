"""Where the house stands, and its READMEs as tables and blocks."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

READMES = ("README.md", "handlers/README.md", "workers/README.md")

#: Words that name nothing: neither a file nor a thing.
MEANING_NOTHING = ("manager", "util", "helper", "common", "base", "data", "info", "message")


@dataclass(frozen=True)
class Readme:
    """The README and those beside the code, by heading: each heading that is asked for stands in one of them."""

    pages: Mapping[str, str]

    @property
    def text(self) -> str:
        """What stands at the root."""
        return self.pages["README.md"]

    def section(self, heading: str) -> str:
        """Everything under a heading, up to the next one of its rank or above."""
        sections = [section for text in self.pages.values() for section in self._sections(text, heading)]
        assert sections, f"no README has a section {heading!r}"
        assert len(sections) == 1, f"{heading!r} stands in several places"
        return sections[0]

    def table(self, heading: str) -> list[tuple[str, ...]]:
        """The rows of the first table under a heading, without its head."""
        lines = list(self._table_lines(self.section(heading)))
        assert len(lines) > 2, f"there is no table under {heading!r}"
        return [tuple(cell.strip() for cell in line.strip().strip("|").split(" | ")) for line in lines[2:]]

    def code(self, heading: str, language: str) -> list[str]:
        """The blocks of one language under a heading."""
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
    """The folder of the checkout."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def readme(root: Path) -> Readme:
    """All of them."""
    return Readme({name: (root / name).read_text("utf-8") for name in READMES})
