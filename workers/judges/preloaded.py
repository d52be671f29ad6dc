"""What the fork server imports, so that a judge that is needed at once is born with everything loaded.

It is the parent of the judges and ends with the lane; a signal to all of us would leave the lane without judges while
it still answers.
"""

import contextlib
import signal

from ingest.errors import WebhooksError
from ingest.settings import load_settings
from workers.judges import judge
from workers.loader import load_plugins

__all__ = ["judge"]

signal.signal(signal.SIGTERM, signal.SIG_IGN)
# The lane has loaded them already, and did not start if one is broken.
with contextlib.suppress(WebhooksError):
    load_plugins(load_settings())
