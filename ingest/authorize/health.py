"""Answers those who watch over `authorize`."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ingest.authorize.evaluator import PolicyEvaluator
from ingest.authorize.metrics import AuthorizeMetrics
from ingest.metrics import CONTENT_TYPE


class HealthEndpoints:
    """Looks at the judges: without them every answer would be AUTHORIZE_ON_FAILURE."""

    def __init__(self, judges: PolicyEvaluator, counts: AuthorizeMetrics) -> None:
        self._judges = judges
        self._counts = counts

    async def healthz(self, _request: Request) -> Response:
        """Say that the process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """Say whether policies can be asked. The ledger need not be there: who needs it is a matter of policies."""
        standing = self._judges.status()
        is_ready = standing.ready > 0 or standing.wanted == 0
        return JSONResponse(
            {
                "ready": is_ready,
                "processes": {"wanted": standing.wanted, "ready": standing.ready},
                "spared_policies": list(standing.open_circuits),
            },
            HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    async def metrics(self, _request: Request) -> Response:
        """Say everything in numbers."""
        standing = self._judges.status()
        facts = {"processes_ready": standing.ready, "policies_spared": len(standing.open_circuits)}
        return Response(self._counts.text(facts), media_type=CONTENT_TYPE)
