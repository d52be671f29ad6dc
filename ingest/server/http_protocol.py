"""uvicorn's HTTP protocol with bounds on the head of a request, and without a switch to any other protocol."""

import asyncio
import fcntl
import socket
import sys
import termios
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ingest.http.responses import CONNECTION_CLOSE, JSON, error_body
from ingest.server.write_coalescing import CoalescingTransport
from ingest.wire.client_address import UNIX_SOCKET

# In bytes; Plugsurfing's has some hundred.
MAX_HEAD_BYTES = 65_536
# In seconds, from the start of a connection or from the first byte of a head.
HEAD_TIMEOUT = 10.0
NO_REQUEST_YET = object()
INVALID = "Invalid HTTP request received."


class BoundedHttpProtocol(HttpToolsProtocol):
    """Parses HTTP, and closes connections on which no complete head arrives.

    uvicorn bounds the head of a request neither in bytes nor in time; the endpoints bound the body.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start with a connection."""
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_TIMEOUT, self._close_on_timeout)
        self._closes_after: RequestResponseCycle | None = None
        self._previous_cycle: RequestResponseCycle | None = None
        self._bodyless_bytes = 0
        self._refusal: str | None = None
        super().connection_made(CoalescingTransport(transport))
        if transport.get_extra_info("socket").family == socket.AF_UNIX:
            self.client = UNIX_SOCKET, 0

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
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
        """Return whether a response is still to be sent, now that the sender has shut its side down."""
        self._drop_incomplete_request()
        cycle = self._answering
        if cycle is None or cycle.more_body:
            return False
        self.close_after_answer()
        return True

    def on_message_begin(self) -> None:
        """Start with a head. An empty line alone is none: a connection on which nothing else arrives stays idle."""
        super().on_message_begin()
        self._unset_keepalive_if_required()

    def on_headers_complete(self) -> None:
        """Start with a request. Of those that arrive while the server drains, the last closes the connection."""
        self._unset_keepalive_if_required()  # the answer before it may have come in the middle of the head
        if self.parser.get_method() == b"CONNECT":
            raise HttpParserError("This is no proxy.")
        self._previous_cycle = self.cycle
        super().on_headers_complete()
        self.headers = []  # trailers behind a body are no headers of the request (RFC 9110, section 6.5.1)
        self._bodyless_bytes = 0
        if getattr(self.server_state, "is_draining", False):
            if self._closes_after is not None and not self._closes_after.response_started:
                self._closes_after.keep_alive = True
            self.close_after_answer()

    def on_message_complete(self) -> None:
        """End a request. uvicorn does not if its answer came first, and would wait for the rest of it for ever."""
        if self.parser.should_upgrade():
            return  # its body is still to come, see _parse
        super().on_message_complete()
        self.cycle.more_body = False

    def on_response_complete(self) -> None:
        """Go on after a response: refuse what was invalid behind the request, and bound how long its body may take."""
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
        """Close the connection with the next answer, whose head says so."""
        cycle = self._answering
        if cycle is not None and cycle.keep_alive and not cycle.response_started:
            cycle.keep_alive = False
            self._closes_after = cycle

    def half_close_if_idle(self) -> None:
        """Shut the sending side down unless a request is under way; one that crosses with that is still read."""
        if self._is_idle and self._answering is None and not self.transport.is_closing():
            self.transport.write_eof()

    def shutdown(self) -> None:
        """Close the connection if no request is arriving, else with its answer."""
        if self._is_idle:
            super().shutdown()

    @property
    def _is_idle(self) -> bool:
        """Whether no byte of a request has arrived, neither here nor in the kernel, where a busy loop leaves it."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        unread = b"" if descriptor < 0 else fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
        return self._head_bytes == 0 and int.from_bytes(unread, sys.byteorder) == 0

    @property
    def _answering(self) -> RequestResponseCycle | None:
        """The last request whose response is not complete."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # uvicorn does not say that there may be none
        return None if cycle is None or cycle.response_complete else cycle

    def connection_lost(self, exc: Exception | None) -> None:
        """End with a connection."""
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
        if self.cycle is cycle and cycle.more_body:
            self.transport.close()

    def _bound_framing(self, count: int) -> None:
        # Chunk extensions and trailers: the parser buffers them, however long they are. Behind an answer the body
        # counts too, as it is no longer read.
        self._bodyless_bytes += count
        if self._bodyless_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("There is too much around the body of the request.")

    def _drop_incomplete_request(self) -> None:
        """Drop the last request if its body will never be complete and its turn has not come."""
        if self.pipeline and self.pipeline[0][0] is self.cycle and self.cycle.more_body:
            self.pipeline.popleft()
            self.cycle = cast("RequestResponseCycle", self._previous_cycle)

    def _parse(self, data: bytes) -> None:
        """Pass on what arrived to the parser, and ignore offers of another protocol (RFC 9110, section 7.8).

        Java's client offers HTTP/2 wherever there is no TLS. httptools ends such a request with its head, and uvicorn
        drops the body: https://github.com/MagicStack/httptools/issues/124 and
        https://github.com/Kludex/uvicorn/issues/2722. So another parser, which is given the head without the offer,
        takes over what follows. When both are fixed, this, `_BodyOnlyCallbacks` and `_head_without_upgrade` can go.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
                self.parser = HttpRequestParser(_BodyOnlyCallbacks(self))
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                self.parser.feed_data(_head_without_upgrade(self.cycle.scope))
            else:
                return


class _BodyOnlyCallbacks:
    """Forwards a parser's callbacks to the protocol, except those of the first head, which the protocol has."""

    def __init__(self, protocol: BoundedHttpProtocol) -> None:
        self._protocol = protocol
        self._is_past_first_head = False
        self.on_url = protocol.on_url
        self.on_header = protocol.on_header
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        """Forward the start of a head."""
        if self._is_past_first_head:
            self._protocol.on_message_begin()

    def on_headers_complete(self) -> None:
        """Forward the end of a head."""
        if self._is_past_first_head:
            self._protocol.on_headers_complete()
        self._is_past_first_head = True


def _head_without_upgrade(scope: HTTPScope) -> bytes:
    """Return the head of a request without the offer of another protocol, but with all that frames its body."""
    first = f"{scope['method']} / HTTP/{scope['http_version']}".encode()
    lines = [b"%s: %s" % header for header in scope["headers"] if header[0] != b"upgrade"]
    return b"\r\n".join((first, *lines, b"", b""))
