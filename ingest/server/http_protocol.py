"""uvicorn's HTTP protocol with bounds on the head of a request, and without a switch to any other protocol."""

import asyncio
import fcntl
import socket
import sys
import termios
from typing import NamedTuple, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ingest.http.request_body import AUTHENTIC_KEY, COMPLETE_KEY
from ingest.http.responses import CONNECTION_CLOSE, JSON, RETRY_AFTER, error_body
from ingest.server.limits import LimitedConfig
from ingest.server.write_coalescing import CoalescingCycle, CoalescingTransport
from ingest.wire.client_address import UNIX_SOCKET

# In bytes; Plugsurfing's has some hundred.
MAX_HEAD_BYTES = 65_536
# In seconds, from the start of a connection or from the first byte of a head.
HEAD_TIMEOUT = 10.0
NO_REQUEST_YET = object()
INVALID = "Invalid HTTP request received."
# Bodies that arrive in one piece are counted from here on. In bytes.
COUNTED_BODY = 16_384


class _Refusal(NamedTuple):
    """A response of the server itself."""

    status: bytes
    sentence: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


OVERLOADED = _Refusal(b"503 Service Unavailable", "Too many requests are under way.", (RETRY_AFTER,))


class BoundedHttpProtocol(HttpToolsProtocol):
    """Parses HTTP, and closes connections on which no complete head arrives.

    uvicorn bounds the head of a request neither in bytes nor in time; the endpoints bound the body.
    """

    config: LimitedConfig
    connections: set["BoundedHttpProtocol"]  # type: ignore[assignment]  # of this server

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start with a connection."""
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_TIMEOUT, self._close_on_timeout)
        self._since = self.loop.time()
        self._idle_since: float | None = None
        self._counts_body = self._is_half_closed = False
        self._closes_after: RequestResponseCycle | None = None
        self._previous_cycle: RequestResponseCycle | None = None
        self._bodyless_bytes = self._body_length = 0
        self._refusal: _Refusal | None = None
        self._connection_limit, self._body_limit = self.config.connection_limit, self.config.body_limit
        super().connection_made(CoalescingTransport(transport))
        if len(self.connections) > self._connection_limit.idle_above:
            self._connection_limit.make_room(self.connections)
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
            if self.cycle.more_body or len(data) > COUNTED_BODY:
                self._count_body(len(data))
            return
        self._head_bytes += len(data)
        if self._head_timer is None:
            self._since = self.loop.time()
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
        CoalescingCycle.adopt(self.cycle)
        self.headers = []  # trailers behind a body are no headers of the request (RFC 9110, section 6.5.1)
        self._bodyless_bytes = self._body_length = 0
        if self._is_half_closed:
            self.cycle.keep_alive = False
        if getattr(self.server_state, "is_draining", False):
            if self._closes_after is not None and not self._closes_after.response_started:
                self._closes_after.keep_alive = True
            self.close_after_answer()

    def on_body(self, body: bytes) -> None:
        """Gather the body. The application gets it whole, or too much of it: until then it can be dropped at once."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > (HIGH_WATER_LIMIT if cycle.response_started else self.config.longest_body):
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End a request. uvicorn does not if its answer came first, and would wait for the rest of it for ever."""
        if self.parser.should_upgrade():
            return  # its body is still to come, see _parse
        super().on_message_complete()
        self.cycle.more_body = False
        self.cycle.scope["state"][COMPLETE_KEY] = True

    def on_response_complete(self) -> None:
        """Go on after a response: refuse what was invalid behind the request, and bound how long its body may take."""
        self.server_state.total_requests += 1
        if self._counts_body and not self.cycle.more_body:
            self._counts_body = False
            self._body_limit.release(self)
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._set_keep_alive_timer(self.timeout_keep_alive)
        if self._refusal is not None and self._answering is None:
            self._refuse(self._refusal)
        elif self.cycle.more_body and self.cycle.response_complete:
            self.loop.call_later(HEAD_TIMEOUT, self._give_up_body, self.cycle)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, once the requests before it have their answers; none gets a second one."""
        self._refuse_incomplete(_Refusal(b"400 Bad Request", msg))

    def _refuse_incomplete(self, refusal: _Refusal) -> None:
        self._drop_incomplete_request()
        cycle = self._answering
        if getattr(self.cycle, "more_body", False) and self.cycle.response_started:
            self.transport.close()
        elif cycle is None or cycle.more_body:
            self._refuse(refusal)
        else:
            self._refusal = refusal
            self.flow.pause_reading()

    def close_after_answer(self) -> None:
        """Close the connection with the next answer, whose head says so."""
        cycle = self._answering
        if cycle is not None and cycle.keep_alive and not cycle.response_started:
            cycle.keep_alive = False
            self._closes_after = cycle

    def half_close_if_idle(self) -> bool:
        """Shut the sending side down unless a request is under way; one that crosses with that is still read.

        Return whether it was done. The connection is closed after that request, or if none arrives in HEAD_TIMEOUT.
        """
        if self._is_half_closed or not self._is_idle or self._answering is not None or self.transport.is_closing():
            return False
        self._is_half_closed = True
        self._connection_limit.half_closed += 1
        self.loop.call_later(HEAD_TIMEOUT, self._close_unless_answering)
        self.transport.write_eof()
        return True

    def timeout_keep_alive_handler(self) -> None:
        """Half-close a connection that was idle for KEEP_ALIVE; wait for the rest of it if a request came meanwhile."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return  # a response is to come, which sets a new timer
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._set_keep_alive_timer(left)
        else:
            self.half_close_if_idle()

    @property
    def shed_order(self) -> tuple[int, float] | None:
        """What sorts connections: closed ones, strangers', those whose last request was authentic; the oldest first.

        None while a complete request waits for its answer.
        """
        if self._is_half_closed or self.transport.is_closing():
            return 0, 0.0
        cycle = self._answering
        if cycle is not None and not cycle.more_body and not cycle.response_started:
            return None
        is_authentic = any(
            each is not None and each.scope["state"].get(AUTHENTIC_KEY) for each in (self.cycle, self._previous_cycle)
        )
        return 1 + is_authentic, self._since if self._idle_since is None else self._idle_since

    @property
    def holds_complete_body(self) -> bool:
        """Whether the body that is counted is complete."""
        return not self.cycle.more_body

    def shed(self, *, unread: bool) -> bool:
        """Close the connection for the sake of others, and answer 503 to an incomplete request.

        Return whether it was done: an idle one on which a request waits in the kernel is closed with `unread` alone.
        """
        cycle = self._answering
        if cycle is not None:
            cycle.body.clear()
        if self._is_half_closed or self.transport.is_closing():
            self.transport.abort()  # what it has to send may never be read
        elif cycle is not None and (cycle.response_started or self.pipeline):
            self.transport.close()
        elif cycle is not None and not cycle.more_body:
            cycle.disconnected = True  # its application has not seen it, and stops
            self._refuse(OVERLOADED)
        elif cycle is not None or self._head_bytes:
            self._refuse_incomplete(OVERLOADED)
        elif unread or self._is_idle:
            self.transport.close()
        else:
            return False
        return True

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
        super()._unset_keepalive_if_required()
        if self._counts_body:
            self._body_limit.release(self)
        if self._is_half_closed:
            self._connection_limit.half_closed -= 1
        super().connection_lost(exc)

    def _unset_keepalive_if_required(self) -> None:
        # The timer goes on: to set one for each request takes longer than to see why it fired.
        self._idle_since = None

    def _set_keep_alive_timer(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _head_is_complete(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, refusal: _Refusal) -> None:
        body = error_body(refusal.sentence)
        headers = [JSON, (b"content-length", str(len(body)).encode()), CONNECTION_CLOSE, *refusal.headers]
        lines = [b"%s: %s" % header for header in (*self.server_state.default_headers, *headers)]
        self.transport.write(b"\r\n".join((b"HTTP/1.1 " + refusal.status, *lines, b"", body)))
        self.transport.close()

    def _close_on_timeout(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _close_unless_answering(self) -> None:
        if self._answering is None:
            self.transport.close()

    def _give_up_body(self, cycle: RequestResponseCycle) -> None:
        if self.cycle is cycle and cycle.more_body:
            self.transport.close()

    def _count_body(self, count: int) -> None:
        if not self._counts_body:
            self._counts_body = True
            self._since = self.loop.time()
        self._body_limit.add(self, count, self.loop.time())
        grown = len(self.cycle.body) > self._body_length
        self._body_length = len(self.cycle.body)
        if self.cycle.more_body and not grown:
            self._bound_framing(count)

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
