"""The plugin of the README, saved beside an empty `.env`: after a whole session its push is sent."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

WEBHOOKS = (sys.executable, "-m", "workers.cli")
README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_push_of_the_readmes_plugin_is_sent(clean_env, dev_port, tmp_path):
    plugin, *_ = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "thanks.py").write_text(plugin)
    environment = clean_env | {"HANDLER_MODULES": "thanks"}
    log = tmp_path / "dev.log"

    def run(*arguments):
        command = [*WEBHOOKS, *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True, text=True).stdout

    def wait_until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def states():
        rows = [json.loads(line) for line in run("pushes", "--json").splitlines()]
        return [(row["state"], row["session_id"]) for row in rows if row["title"] == "Thank you"]

    command = [*WEBHOOKS, "dev", "--port", str(dev_port())]
    with (
        log.open("w") as file,
        subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=file, stderr=file) as dev,
    ):
        try:
            wait_until(lambda: "Everything is up." in log.read_text())
            run("send", "session", "--user", "driver", "--session", "whole")
            wait_until(lambda: states() == [("sent", "whole")])
        finally:
            dev.send_signal(signal.SIGINT)
