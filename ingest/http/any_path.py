"""The part of a route that takes any text: Starlette's own `path` takes no line break."""

from starlette.convertors import PathConvertor, register_url_convertor

ANY_TEXT = "anytext"
"""What a route names it by, as in `{token:anytext}`."""


class AnyPathConvertor(PathConvertor):
    """Takes slashes and line breaks, too; or nothing."""

    regex = r"[\s\S]*"


register_url_convertor(ANY_TEXT, AnyPathConvertor())
