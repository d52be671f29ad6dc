"""Run one of our commands with a wall clock that a file sets: `python -m tests.faults.fake_wall_clock COMMAND`.

It replaces Python's wall clock in our packages and in RQ; those of the database and Redis stay, as those of other
machines would.
"""

import datetime as original  # noqa: ICN001 - it is replaced
import importlib
import os
import pkgutil
import sys
import time as real_time
from pathlib import Path
from types import ModuleType, SimpleNamespace

#: Names the file with the number of seconds that the clock is ahead.
VARIABLE = "FAULTS_CLOCK"
PACKAGES = ("ingest", "handlers", "workers", "rq")
LEFT_OUT = ("workers.ledger.database.migrations", "rq.contrib", "rq.scripts", "tests")


def ahead() -> float:
    return float(Path(os.environ[VARIABLE]).read_text() or 0)


class ShiftedMeta(type(original.datetime)):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, original.datetime)


class Shifted(original.datetime, metaclass=ShiftedMeta):
    @classmethod
    def now(cls, tz: original.tzinfo | None = None) -> original.datetime:
        return original.datetime.now(tz) + original.timedelta(seconds=ahead())


def shift_clock() -> None:
    """Replace the clock in every module of ours that has one."""
    time = SimpleNamespace(**vars(real_time))
    time.time = lambda: real_time.time() + ahead()
    module_of_datetimes = SimpleNamespace(**vars(original))
    module_of_datetimes.datetime = Shifted
    for name in PACKAGES:
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}.", onerror=lambda _name: None):
            if not found.name.startswith(LEFT_OUT):
                try:
                    importlib.import_module(found.name)
                except ImportError:  # an extra that is not installed
                    continue
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES and isinstance(module, ModuleType):
            replace(module, time, module_of_datetimes)


def replace(module: ModuleType, time: SimpleNamespace, module_of_datetimes: SimpleNamespace) -> None:
    for name, value in list(vars(module).items()):
        if value is original.datetime:
            setattr(module, name, Shifted)
        elif value is real_time:
            setattr(module, name, time)
        elif value is original:
            setattr(module, name, module_of_datetimes)


def main() -> None:
    shift_clock()
    # By the monotonic clock, which goes on as ever: what is done once an hour would be missed by a month that jumps.
    importlib.import_module("ingest.relay.relay_loop").PRUNE_EVERY = original.timedelta(seconds=1)
    importlib.import_module("workers.cli").main()


if __name__ == "__main__":
    main()
