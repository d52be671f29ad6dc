"""A receiver that verifies and remembers what it was sent."""

import time
from datetime import UTC, datetime

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from ingest.errors import NotAuthentic
from ingest.events import decode
from ingest.wire.envelope import Envelope, Kind, verify_request
from tests.ingest.simulator.samples import KEYS


class Receiver:
    """An app that verifies requests, and remembers those that it kept."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.kept: list[Envelope] = []
        self.chunked: list[bool] = []
        self.spans: list[float] = []
        self.clients: set[tuple[str, int]] = set()

    async def take(self, request: HttpRequest) -> JSONResponse:
        began = time.monotonic()
        body = await request.body()
        self.spans.append(time.monotonic() - began)
        self.clients.add(tuple(request.client or ()))
        self.chunked.append(request.headers.get("transfer-encoding") == "chunked")
        if "content-encoding" in request.headers:
            return JSONResponse({"error": "encoded"}, 415)
        kind = Kind(request.path_params["kind"])
        try:
            envelope = verify_request(
                kind, request.headers.raw, body, KEYS, signature_required=True, received_at=datetime.now(UTC)
            )
        except NotAuthentic:
            return JSONResponse({"error": "not authentic"}, 403)
        duplicate = envelope.id in {one.id for one in self.kept}
        self.kept.append(envelope)
        return JSONResponse({"id": envelope.id, "duplicate": duplicate})

    @property
    def names(self) -> list[str]:
        return [decode(envelope.kind, envelope.body).name for envelope in self.kept]
