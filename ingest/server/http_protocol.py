"""uvicorn's HTTP protocol, with bounds to the head of a request, and no other protocol behind it."""

import asyncio
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ingest.http.responses import CONNECTION_CLOSE, JSON, error_body
from ingest.server.write_coalescing import CoalescingTransport

# In bytes; Plugsurfing's has some hundred.
MAX_HEAD_BYTES = 65_536
# In seconds, from a connection's beginning or from a head's first byte.
HEAD_TIMEOUT = 10.0
NO_REQUEST_YET = object()
INVALID = "Invalid HTTP request received."


class BoundedHttpProtocol(HttpToolsProtocol):
    """Speaks HTTP, and hangs up on whoever never comes to the point.

    uvicorn sets no bound to the head of a request, neither in bytes nor in time; the door sets those of the body.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_TIMEOUT, self._close_on_timeout)
        self._closes_after: RequestResponseCycle | None = None
        self._before: RequestResponseCycle | None = None
        self._bodyless_bytes = 0
        self._refusal: str | None = None
        super().connection_made(CoalescingTransport(transport))

    def data_received(self, data: bytes) -> None:
        """Take what arrived."""
        if self._refusal is not None:
            return
        try:
            self._parse(data)
        except HttpParserError:
            self.logger.warning(INVALID)
            self.send_400_response(INVALID)
            return
        if getattr(self.cycle, "scope", NO_REQUEST_YET) is self.scope:  # its head is complete
            if self._head_bytes or self._head_timer is not None:
                self._head_is_complete()
            if self.cycle.more_body and not self.cycle.body:
                self._bound_framing(len(data))
            return
        self._head_bytes += len(data)
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._close_on_timeout)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's returns nothing, which means the same as False
        """Hear that the sender has said all; say whether there is still something to answer."""
        self._drop_incomplete_request()
        cycle = self._answering
        if cycle is None or cycle.more_body:
            return False
        self.close_after_answer()
        return True

    def on_message_begin(self) -> None:
        """Begin with a head; an empty line alone is none, and a connection on which nothing else comes stays idle."""
        super().on_message_begin()
        self._unset_keepalive_if_required()

    def on_headers_complete(self) -> None:
        """Begin with a request; of those that come while the server leaves, the last closes the connection."""
        self._unset_keepalive_if_required()  # the answer before it may have come in the middle of the head
        if self.parser.get_method() == b"CONNECT":
            raise HttpParserError("This is no proxy.")
        self._before = self.cycle
        super().on_headers_complete()
        self.headers = []  # what comes behind a body are no headers of the request (RFC 9110, section 6.5.1)
        self._bodyless_bytes = 0
        if getattr(self.server_state, "is_draining", False):
            if self._closes_after is not None and not self._closes_after.response_started:
                self._closes_after.keep_alive = True
            self.close_after_answer()

    def on_message_complete(self) -> None:
        """End a request; uvicorn does not if its answer came first, and its sender would seem to talk for ever."""
        if self.parser.should_upgrade():
            return  # its body is still to come, see _parse
        super().on_message_complete()
        self.cycle.more_body = False

    def on_response_complete(self) -> None:
        """Go on behind an answer: with the next request, with what was wrong behind the last, or not for ever."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._refusal is not None and self._answering is None:
            self._refuse(self._refusal)
        elif self.cycle.more_body and self.cycle.response_complete:
            self.loop.call_later(HEAD_TIMEOUT, self._give_up_body, self.cycle)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, once the requests before it have their answers; none gets a second one."""
        self._drop_incomplete_request()
        cycle = self._answering
        if getattr(self.cycle, "more_body", False) and self.cycle.response_started:
            self.transport.close()
        elif cycle is None or cycle.more_body:
            self._refuse(msg)
        else:
            self._refusal = msg
            self.flow.pause_reading()

    def close_after_answer(self) -> None:
        """Close the connection with the answer that is next to come, and say so in it."""
        cycle = self._answering
        if cycle is not None and cycle.keep_alive:
            cycle.keep_alive = False
            self._closes_after = cycle

    def half_close_if_idle(self) -> None:
        """Say to whoever keeps the connection that it is over, and still take what they had sent by then."""
        if self._head_bytes == 0 and self._answering is None and not self.transport.is_closing():
            self.transport.write_eof()

    def shutdown(self) -> None:
        """Close the connection if nothing comes on it, else with its answer."""
        if self._head_bytes == 0:
            super().shutdown()

    @property
    def _answering(self) -> RequestResponseCycle | None:
        """The last request that has not got all of its answer."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # uvicorn does not say that there may be none
        return None if cycle is None or cycle.response_complete else cycle

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection."""
        self._head_is_complete()
        super().connection_lost(exc)

    def _head_is_complete(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, sentence: str) -> None:
        body = error_body(sentence)
        headers = [JSON, (b"content-length", str(len(body)).encode()), CONNECTION_CLOSE]
        lines = [b"%s: %s" % header for header in (*self.server_state.default_headers, *headers)]
        self.transport.write(b"\r\n".join((b"HTTP/1.1 400 Bad Request", *lines, b"", body)))
        self.transport.close()

    def _close_on_timeout(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _give_up_body(self, cycle: RequestResponseCycle) -> None:
        """Hang up on whoever has an answer and still talks, for what they say has no end in sight."""
        if self.cycle is cycle and cycle.more_body:
            self.transport.close()

    def _bound_framing(self, count: int) -> None:
        # Extensions of chunks and what comes behind the last one; the parser puts that together, however long it is.
        # Behind an answer it is the body, too, as nobody reads that any more.
        self._bodyless_bytes += count
        if self._bodyless_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("There is too much around the body of the request.")

    def _parse(self, data: bytes) -> None:
        """Hand over what arrived to the parser, as if nobody wished for another protocol.

        Java's client asks for HTTP/2 so wherever there is no TLS. A server may ignore that (RFC 9110, section 7.8), but
        httptools ends such a request with its head. Where that ends it knows best; so another parser, which is told the
        head without the wish, takes what comes behind.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except HttpParserUpgrade as wish:
                rest = rest[wish.args[0] :]
                self.parser = HttpRequestParser(_BodyOnlyCallbacks(self))
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                self.parser.feed_data(_head_without_upgrade(self.cycle.scope))
            else:
                return

    def _drop_incomplete_request(self) -> None:
        """Forget the last request if its body will never be complete and its turn has not come."""
        if self.pipeline and self.pipeline[0][0] is self.cycle and self.cycle.more_body:
            self.pipeline.popleft()
            self.cycle = cast("RequestResponseCycle", self._before)


class _BodyOnlyCallbacks:
    """Passes on what a parser says, but not the first head, which the protocol knows."""

    def __init__(self, protocol: BoundedHttpProtocol) -> None:
        self._protocol = protocol
        self._is_behind = False
        self.on_url = protocol.on_url
        self.on_header = protocol.on_header
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        """Pass on that a head begins."""
        if self._is_behind:
            self._protocol.on_message_begin()

    def on_headers_complete(self) -> None:
        """Pass on that a head is complete."""
        if self._is_behind:
            self._protocol.on_headers_complete()
        self._is_behind = True


def _head_without_upgrade(scope: HTTPScope) -> bytes:
    """Write the head of a request again, with all but the wish for another protocol that tells where its body ends."""
    first = f"{scope['method']} / HTTP/{scope['http_version']}".encode()
    lines = [b"%s: %s" % header for header in scope["headers"] if header[0] != b"upgrade"]
    return b"\r\n".join((first, *lines, b"", b""))
