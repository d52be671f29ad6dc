"""How the question at the charger is read and answered."""

from datetime import timedelta

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from ingest.config.durations import Duration, PositiveDuration
from ingest.config.types import Pointers, Port, PositiveInt, TemplateSetting
from ingest.wire.authorization.request import Allowed
from ingest.wire.authorization.response_templates import ResponseTemplate
from ingest.wire.json_pointers import pointers

ANSWER = ResponseTemplate('{"allowed": "@allowed", "info": "@information"}')
OCPI_ANSWER = ResponseTemplate(
    '{"allowed": "@allowed", "token": {"uid": "@key", "type": "@token_type", "valid": "@valid", "whitelist": "NEVER", '
    '"last_updated": "@now"}, "location": "@location", "authorization_reference": "@id", "info": "@info"}'
)


class AuthorizationSettings(BaseSettings):
    """How `authorize` answers. The places of fields in a question, and its answer, are assumptions."""

    authorize_credentials: SecretStr | None = Field(
        None, description="value expected in `Authorization` by `authorize`; several on a line each"
    )
    authorize_port: Port = Field(8001, description="port of `authorize`")
    authorize_timeout: PositiveDuration = Field(
        timedelta(seconds=2.5), description="when a question is answered at the latest, from its first byte"
    )
    authorize_on_failure: Allowed = Field(
        Allowed.ALLOWED, description="what is answered when policies fail or take too long"
    )
    authorize_repeats: Duration = Field(
        timedelta(minutes=1), description="how long the same question gets the same answer; 0: not at all"
    )
    authorize_processes: PositiveInt = Field(2, description="processes that policies are run in")
    authorize_concurrency: PositiveInt = Field(32, description="plain policies at the same time, in each of them")
    authorize_key: Pointers = Field(
        pointers("/keyIdentifier", "/chargingKey/keyIdentifier", "/chargingKeyIdentifier", "/chargingKey", "/tokenUid"),
        description="JSON pointers to the charging key of a question",
    )
    authorize_country: Pointers = Field(
        pointers("/countryCode", "/country"), description="JSON pointers to its country"
    )
    authorize_reference: Pointers = Field(pointers("/referenceId"), description="JSON pointers to its reference")
    authorize_location: Pointers = Field(
        pointers("/locationId", "/location/id"), description="JSON pointers to where it is asked"
    )
    authorize_evse: Pointers = Field(
        pointers("/evseId", "/evseIds", "/location/evseId"), description="JSON pointers to the charging points there"
    )
    authorize_session: Pointers = Field(pointers("/sessionId"), description="JSON pointers to its session")
    authorize_answer: TemplateSetting = Field(
        ANSWER, description="answer to Plugsurfing, as JSON with `@allowed`, `@information`, …"
    )
    authorize_ocpi_answer: TemplateSetting = Field(
        OCPI_ANSWER, description="`data` of the answer in OCPI's form, likewise"
    )
