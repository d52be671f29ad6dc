"""The health and metrics endpoints of `authorize`."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ingest.authorize.authorize_metrics import AuthorizeMetrics
from ingest.authorize.decisions import PolicyEvaluator
from ingest.metrics import CONTENT_TYPE


class AuthorizeHealth:
    """Reports the state of the policy evaluator: without it every answer would be AUTHORIZE_ON_FAILURE."""

    def __init__(self, evaluator: PolicyEvaluator, metrics: AuthorizeMetrics) -> None:
        self._evaluator = evaluator
        self._metrics = metrics

    async def healthz(self, _request: Request) -> Response:
        """Respond 200 while the process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """Respond 200 while policies can be evaluated, else 503. The ledger need not be reachable."""
        status = self._evaluator.status()
        is_ready = status.ready > 0 or status.wanted == 0
        return JSONResponse(
            {
                "ready": is_ready,
                "processes": {"wanted": status.wanted, "ready": status.ready},
                "spared_policies": list(status.open_circuits),
            },
            HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    async def metrics(self, _request: Request) -> Response:
        """Respond with all metrics in Prometheus' text format."""
        status = self._evaluator.status()
        gauges = {
            "webhooks_authorize_processes_ready": status.ready,
            "webhooks_authorize_policies_spared": len(status.open_circuits),
        }
        return Response(self._metrics.text(gauges), media_type=CONTENT_TYPE)
