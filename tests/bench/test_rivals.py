import pytest
from rich.progress import Progress

from tests.bench import rivals
from tests.bench.harness import BenchFailed


@pytest.mark.slow
def test_a_rival_that_cannot_be_installed_is_named_in_a_sentence(monkeypatch):
    monkeypatch.setattr(rivals, "PACKAGES", ("./no-such-package",))
    with pytest.raises(BenchFailed, match="pgqueuer cannot be installed: "):
        rivals.environment(Progress(disable=True)).__enter__()
