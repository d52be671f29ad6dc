"""The channel `log`: a push becomes one structured line, for development and for a first look."""

import structlog

from handlers.kit.channel import OutgoingPush

log = structlog.get_logger()


class LogChannel:
    """Writes pushes to the log, without the user they are for."""

    to_devices = False

    def send(self, push: OutgoingPush) -> None:
        """Write the line."""
        log.info(
            "push.sent",
            push=push.id,
            channel="log",
            session=push.session_id,
            title=push.title,
            body=push.body,
            expires_at=push.expires_at and push.expires_at.isoformat(),
        )
