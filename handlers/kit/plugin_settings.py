"""Settings of a plugin's own, from the environment and `.env`, as those of the program are read."""

from ingest.config.env_source import EnvFileSettings


class PluginSettings(EnvFileSettings):
    """The settings of a plugin; make one when the module is imported, so that an invalid one is reported at start.

    A field `thanks_title` is the setting `THANKS_TITLE`. Begin the names with that of the plugin: they share `.env`.
    """
