"""Plugins beside an empty `.env`, the README's and a new one: after a whole session their pushes are sent."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

WEBHOOKS = (sys.executable, "-m", "workers.cli")
README = Path(__file__).resolve().parents[2] / "README.md"


class Dev:
    """A running `webhooks dev`, and commands in another terminal."""

    def __init__(self, folder, environment):
        self.folder, self.environment, self.log_file = folder, environment, folder / "dev.log"

    @property
    def log(self):
        return self.log_file.read_text()

    def run(self, *arguments):
        command = [*WEBHOOKS, *arguments]
        ran = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, check=True, text=True)
        return ran.stdout

    def wait_until(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.2)

    def pushes(self, title):
        rows = [json.loads(line) for line in self.run("pushes", "--json").splitlines()]
        return [(row["state"], row["session_id"]) for row in rows if row["title"] == title]

    def ledger(self, query):
        with closing(sqlite3.connect(self.folder / "var" / "ledger.db")) as connection:
            return connection.execute(query).fetchall()

    @contextmanager
    def running(self, port):
        command = [*WEBHOOKS, "dev", "--port", str(port)]
        with (
            self.log_file.open("w") as file,
            subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=file, stderr=file) as dev,
        ):
            try:
                self.wait_until(lambda: "Everything is up." in self.log)
                yield
            finally:
                dev.send_signal(signal.SIGINT)


@pytest.fixture
def dev(clean_env, tmp_path):
    return Dev(tmp_path, clean_env)


def test_the_push_of_the_readmes_plugin_is_sent(dev, dev_port):
    plugin, *_ = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (dev.folder / "thanks.py").write_text(plugin)
    (dev.folder / ".env").write_text("HANDLER_MODULES=thanks\n")
    with dev.running(dev_port()):
        dev.run("send", "session", "--user", "driver", "--session", "whole")
        dev.wait_until(lambda: dev.pushes("Thank you") == [("sent", "whole")])


def test_a_new_plugin_pushes_in_a_running_dev_and_again_after_each_change(dev, dev_port):
    def loaded():
        """How many times a worker has begun with the plugin."""
        return len(re.findall(r"worker\.started.*'regards'", dev.log))

    with dev.running(dev_port()):
        dev.run("plugin", "new", "regards", "--on", "SESSION_COMPLETE", "--table")
        dev.wait_until(lambda: loaded() == 3)
        dev.run("send", "SESSION_COMPLETE", "--user", "driver", "--session", "one")
        dev.wait_until(lambda: dev.pushes("Regards") == [("sent", "one")])
        assert re.search(r"dev +│ The database now has the tables of the plugin regards\.", dev.log)
        (row,) = dev.ledger("SELECT session_id, user_id FROM plugin_regards_told")
        assert row == ("one", "driver")
        with (dev.folder / "regards.py").open("a") as file:
            file.write("raise ValueError('broken')\n")
        dev.wait_until(lambda: re.search(r"work +│ waits for the next change", dev.log))
        assert "raise ValueError('broken')" in dev.log
        plugin = (dev.folder / "regards.py").read_text().replace("raise ValueError('broken')\n", "")
        (dev.folder / "regards.py").write_text(plugin.replace('"Regards"', '"Kind regards"'))
        dev.wait_until(lambda: loaded() == 6)
        dev.run("send", "SESSION_COMPLETE", "--user", "driver", "--session", "two")
        dev.wait_until(lambda: dev.pushes("Kind regards") == [("sent", "two")])
