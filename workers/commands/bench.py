"""`webhooks bench`: runs the benches of the clone that this package was installed from."""

import sys
from importlib import import_module
from pathlib import Path

import click

from workers.commands.errors import Failure

ROOT = Path(__file__).resolve().parents[2]
BENCHES = ROOT / "tests" / "bench"


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure speed side by side with baselines. The benches are beside the tests, which no wheel contains."""
    if not BENCHES.is_dir():
        raise Failure("The benches are beside the tests: install the package with `pip install -e .` in a clone.")
    sys.path.insert(0, str(ROOT))
    import_module("tests.bench.__main__").bench.main(list(arguments), prog_name="webhooks bench")
