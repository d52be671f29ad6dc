"""Search for input that breaks a promise, for as long as you like: `python -m tests.faults.fuzz --minutes 10`."""

# ruff: noqa: T201  it prints its progress
import argparse
import itertools
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Ten times as many generated examples as usual, and new ones each time. A failing example is written to .hypothesis,
#: and tried first when that test runs again.
PYTEST = ("-m", "pytest", "-q", "-m", "hypothesis", "--hypothesis-profile", "long", "--no-header")


def main() -> int:
    """Return 1 as soon as a test fails, 2 if no test file fits."""
    options = arguments()
    until = time.monotonic() + 60 * options.minutes
    files = with_generated_examples(options.only)
    if not files:
        print(f"No file of tests with generated examples has {options.only!r} in its path.", file=sys.stderr)
        return 2
    random.shuffle(files)
    for count, file in enumerate(itertools.cycle(files)):
        if count and time.monotonic() > until:
            print(f"Nothing found, in {count} runs of {len(files)} files.")
            break
        seed = str(random.randrange(2**32))
        print(f"{file} --hypothesis-seed {seed}", flush=True)
        if subprocess.run([sys.executable, *PYTEST, "--hypothesis-seed", seed, file], cwd=ROOT, check=False).returncode:
            return 1
    return 0


def with_generated_examples(only: str) -> list[str]:
    """List the test files with generated examples whose path contains `only`."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "from hypothesis" in path.read_text()]
    names = [path.relative_to(ROOT).as_posix() for path in files]
    return [name for name in names if only in name]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="when the last file begins, at the latest (10)")
    parser.add_argument("--only", default="", help="only files whose path has this in it")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
