"""Settings of a plugin's own, from the environment and `.env`, as those of the program are read."""

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ingest.config.env_source import EnvFileSource


class PluginSettings(BaseSettings):
    """The settings of a plugin; make one when the module is imported, so that an invalid one is reported at start.

    A field `thanks_title` is the setting `THANKS_TITLE`. Begin the names with that of the plugin: they share `.env`.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - replaced
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings come from, the first that has one counts."""
        return init_settings, env_settings, EnvFileSource(settings_cls)
