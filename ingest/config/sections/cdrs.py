"""Settings of CDRs: where each field is, as their schema is not public."""

from pydantic_settings import BaseSettings

from ingest.config.types import FieldPaths, Pointers, pointer_setting, setting
from ingest.wire.field_paths import HeaderPath, Pointer


class CdrSettings(BaseSettings):
    """`work`: where a CDR holds each field; the first pointer that leads to a readable value counts."""

    cdr_request_id: FieldPaths = setting(
        (Pointer("/requestId"), Pointer("/id"), HeaderPath("X-Request-Id")),
        "request id of a CDR, by comma: JSON pointers and headers",
    )
    cdr_session: Pointers = pointer_setting(
        "the session of a CDR", "/sessionId,/payload/sessionId,/session/sessionId,/session/id,/session_id"
    )
    cdr_user: Pointers = pointer_setting("its driver", "/userId,/user/userId,/user/id")
    cdr_charging_key: Pointers = pointer_setting(
        "its charging key", "/chargingKeyId,/chargingKey/keyIdentifier,/chargingKey/id,/keyIdentifier,/cdr_token/uid"
    )
    cdr_amount: Pointers = pointer_setting(
        "its total cost, a number or a text that is one",
        "/cost/total,/cost/amount,/totalCost,/totalAmount,/amount,/total_cost/incl_vat",
    )
    cdr_currency: Pointers = pointer_setting("the currency of its cost", "/cost/currency,/currency")
    cdr_energy: Pointers = pointer_setting(
        "its energy in kWh", "/session/energyKwh,/session/energy,/energyKwh,/energy,/total_energy"
    )
    cdr_started_at: Pointers = pointer_setting(
        "its start", "/session/startedAt,/session/startTime,/startedAt,/startTime,/start_date_time"
    )
    cdr_ended_at: Pointers = pointer_setting(
        "its end", "/session/stoppedAt,/session/endedAt,/session/endTime,/endedAt,/endTime,/end_date_time"
    )
    cdr_location: Pointers = pointer_setting("its location", "/location/id,/locationId,/location/name,/cdr_location/id")
    cdr_operator: Pointers = pointer_setting(
        "the operator of the charger", "/location/operator_display_name,/location/operator,/operator/name,/operator"
    )
