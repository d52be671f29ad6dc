"""Pods without Kubernetes: a process with the command, environment, folders and rights of a manifest. Needs root.

Each has its own host name, and a read-only root in which only what the manifest mounts can be written. All share a
network.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

Manifest = dict[str, Any]
ROOT = Path(__file__).parents[3]
VENV = Path(sys.executable).parents[1]
#: However busy the machine is.
STARTS_WITHIN_S = 180.0
SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"

# Mounts everything of this machine read-only under a root of its own, and on that what the pod has.
SCRIPT = """
set -eu
hostname "$NAME"
mount -t tmpfs tmpfs "$NEW"
for folder in /*; do
    case $folder in /tmp|/data|/run) mkdir "$NEW$folder"; continue;; esac
    if [ -L "$folder" ]; then cp -P "$folder" "$NEW$folder"; continue; fi
    [ -d "$folder" ] || continue
    mkdir "$NEW$folder"
    mount --rbind "$folder" "$NEW$folder"
    case $folder in /proc|/sys|/dev) ;; *) mount -o remount,ro,bind "$NEW$folder";; esac
done
bind() { mkdir -p "$NEW$2"; mount --bind "$1" "$NEW$2"; [ "$3" = rw ] || mount -o remount,ro,bind "$NEW$2"; }
for each in $MOUNTS; do bind $(echo "$each" | tr : ' '); done
mount -o remount,ro "$NEW"
exec chroot "$NEW" env -i -C /data setpriv --no-new-privs --bounding-set -all "$@"
"""


class Network:
    """The network that the pods share: a process that holds it. A context manager."""

    def __enter__(self) -> Self:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.kill()
        self._holder.communicate()

    @property
    def enter(self) -> list[str]:
        """Return how a command is run in it."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]


class Pod:
    """One container of a pod, with what its manifest mounts in folders of its own."""

    def __init__(
        self,
        manifest: Manifest,
        settings: Mapping[str, str],
        secrets: Mapping[str, Mapping[str, str]],
        folder: Path,
        shared: Sequence[Path],
    ) -> None:
        self.name = manifest["metadata"]["name"]
        self.spec: Manifest = manifest["spec"]["template"]["spec"]
        (self.container,) = self.spec["containers"]
        self._folder = folder / self.name
        self._shared = shared
        given = {each["name"]: each["value"] for each in self.container.get("env", ())}
        assert self.container["envFrom"] == [{"configMapRef": {"name": "webhooks"}}]
        self.environment = {**image_environment(), **settings, **given}
        self._secrets = self._folder / "secrets"
        self._secrets.mkdir(parents=True)
        (projected,) = [each["projected"] for each in self.spec["volumes"] if "projected" in each]
        for source in projected["sources"]:
            for name, value in secrets[source["secret"]["name"]].items():
                (self._secrets / name).write_text(value)
        self.log = self._folder / "log"

    def start(self, network: Network) -> None:
        """Run its command."""
        new = self._folder / "root"
        new.mkdir()
        mounts = [f"{ROOT}:{ROOT}:ro", f"{VENV}:{VENV}:ro", *(f"{each}:{each}:rw" for each in self._shared)]
        for mount in self.container["volumeMounts"]:
            is_secret = mount["name"] == "secrets"
            source = self._secrets if is_secret else self._folder / mount["name"]
            source.mkdir(exist_ok=True)
            mounts.append(f"{source}:{mount['mountPath']}:{'ro' if is_secret else 'rw'}")
        # A pod's own folder comes before what lies in it here.
        mounts.sort(key=lambda each: each.split(":")[1] != "/tmp")
        pairs = [f"{name}={value}" for name, value in self.environment.items()]
        command = [*network.enter, "unshare", "--mount", "--uts", "--propagation", "private"]
        script = ["sh", "-c", SCRIPT, "pod", "env", *pairs, *self.container["command"]]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *script],
                env={
                    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
                    "NEW": str(new),
                    "NAME": self.name,
                    "MOUNTS": " ".join(mounts),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone."""
        return self.process.poll() is not None

    def settled(self) -> int:
        """Return how many deliveries are settled."""
        assert self.run("webhooks", "deliveries", "--state", "settled", "--json") == 0, self.answer
        return len(self.answer.splitlines())

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self.process.kill()
        self.process.wait()

    def run(self, *command: str, **environment: str) -> int:
        """Run a command within, as `kubectl exec` does, and return its exit code."""
        within = ["nsenter", "--target", str(self.process.pid), "--mount", "--uts", "--net", "--root", "--wd"]
        pairs = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        done = subprocess.run(
            [*within, "env", "-i", *pairs, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=STARTS_WITHIN_S,
        )
        self.answer = done.stdout + done.stderr
        return done.returncode

    def probe(self, name: str) -> bool:
        """Return whether a probe of its manifest succeeds; one that it does not have does."""
        probe = self.container.get(name)
        if probe is None:
            return True
        if "exec" in probe:
            return self.run(*probe["exec"]["command"]) == 0
        (port,) = [
            each["containerPort"] for each in self.container["ports"] if each["name"] == probe["httpGet"]["port"]
        ]
        url = f"http://127.0.0.1:{port}{probe['httpGet']['path']}"
        return self.run("curl", "--silent", "--fail", "--noproxy", "*", "--output", "/dev/null", url) == 0

    def end(self) -> int:
        """End it as Kubernetes does, and return its exit code."""
        self.process.terminate()
        return self.process.wait(self.spec["terminationGracePeriodSeconds"])


def image_environment() -> dict[str, str]:
    """Return the environment of the image; its interpreter is ours."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    given = dict(
        pair.split("=", 1) for line in re.findall(r"^ENV (.+)$", text, re.MULTILINE) for pair in shlex.split(line)
    )
    return {**given, "PATH": f"{VENV / 'bin'}:/usr/bin:/bin"}
