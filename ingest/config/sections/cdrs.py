"""Settings of CDRs: where each field is, as their schema is not public."""

from pydantic import Field
from pydantic_settings import BaseSettings

from ingest.config.types import FieldPaths, Pointers
from ingest.wire.field_paths import field_paths
from ingest.wire.json_pointers import pointers


class CdrSettings(BaseSettings):
    """`work`: where a CDR holds each field; the first pointer that leads to a readable value counts."""

    cdr_request_id: FieldPaths = Field(
        field_paths("/requestId", "X-Request-Id"),
        description="request id of a CDR: JSON pointers and names of headers, by comma",
    )
    cdr_session: Pointers = Field(
        pointers("/sessionId", "/payload/sessionId", "/session/sessionId", "/session/id"),
        description="JSON pointers to the session of a CDR",
    )
    cdr_user: Pointers = Field(
        pointers("/userId", "/user/userId", "/user/id"), description="JSON pointers to its driver"
    )
    cdr_charging_key: Pointers = Field(
        pointers("/chargingKeyId", "/chargingKey/keyIdentifier", "/chargingKey/id", "/keyIdentifier"),
        description="JSON pointers to its charging key",
    )
    cdr_amount: Pointers = Field(
        pointers("/cost/total", "/cost/amount", "/totalCost", "/totalAmount", "/amount", "/total_cost/incl_vat"),
        description="JSON pointers to its total cost, a number or a text that is one",
    )
    cdr_currency: Pointers = Field(
        pointers("/cost/currency", "/currency"), description="JSON pointers to the currency of its cost"
    )
    cdr_energy: Pointers = Field(
        pointers("/session/energyKwh", "/session/energy", "/energyKwh", "/energy", "/total_energy"),
        description="JSON pointers to its energy in kWh",
    )
    cdr_started_at: Pointers = Field(
        pointers("/session/startedAt", "/session/startTime", "/startedAt", "/startTime", "/start_date_time"),
        description="JSON pointers to its start",
    )
    cdr_ended_at: Pointers = Field(
        pointers(
            "/session/stoppedAt", "/session/endedAt", "/session/endTime", "/endedAt", "/endTime", "/end_date_time"
        ),
        description="JSON pointers to its end",
    )
    cdr_location: Pointers = Field(
        pointers("/location/id", "/locationId", "/location/name"), description="JSON pointers to its location"
    )
    cdr_operator: Pointers = Field(
        pointers("/location/operator_display_name", "/location/operator", "/operator/name", "/operator"),
        description="JSON pointers to the operator of the charger",
    )
