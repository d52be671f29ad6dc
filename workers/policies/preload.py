"""What the fork server imports, so that a judge that is needed at once is born with everything loaded.

It is the parent of the judges and ends with the lane, and they with it. A signal to all of us does not end it: the lane
still answers then.
"""

import contextlib
import os
import signal
import sys

from ingest.config.settings import load_settings
from ingest.errors import WebhooksError
from workers.dev.child_process import set_parent_death_signal
from workers.plugins import load_plugins
from workers.policies import process_main

__all__ = ["process_main"]

signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.platform == "linux":  # by itself it would wait for its children, and one of them may hang
    set_parent_death_signal(os.getppid(), signal.SIGKILL)
# The lane has loaded them already, and did not start if one is broken.
with contextlib.suppress(WebhooksError):
    load_plugins(load_settings())
