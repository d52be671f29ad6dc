"""What multiprocessing's fork server imports, so that a new policy process starts with everything loaded.

The fork server is the parent of the policy processes; all of them end with `authorize`. SIGTERM to the process group
does not end it, because `authorize` still answers then.
"""

import contextlib
import os
import signal
import sys

from ingest.config.settings import load_settings
from ingest.errors import WebhooksError
from workers.plugins import load_plugins
from workers.policies import process_main
from workers.resilience.process_death import set_parent_death_signal

__all__ = ["process_main"]

signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.platform == "linux":  # otherwise it would wait for its children, and one of them may hang
    set_parent_death_signal(os.getppid(), signal.SIGKILL)
# `authorize` has loaded them before, and does not start if one is broken.
with contextlib.suppress(WebhooksError):
    load_plugins(load_settings())
