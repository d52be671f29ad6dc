"""A list as CSV or JSON, streamed: read page by page, so that a million rows take no more memory than a thousand."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from starlette.responses import Response, StreamingResponse

from workers.console.page_stores import Opener
from workers.lists.list_query import ListQuery, Selection
from workers.lists.listing import Listing

CHUNK = 500
"""Rows that are read at once, each time in a transaction of its own: a slow reader holds none open."""


def export(opener: Opener, query: ListQuery[Any], selection: Selection, listing: Listing[Any], form: str) -> Response:
    """Return all rows of a selection as `json`, one object a line, or as `csv`; the listing says what is in them."""
    chunks = read_chunks(opener, query, selection)
    # The first one is read before the answer begins: if the ledger is away, it is an answer that says so.
    first = next(chunks, [])

    def text() -> Iterator[bytes]:
        yield _format(listing, first, form, has_heading=True)
        for chunk in chunks:
            yield _format(listing, chunk, form, has_heading=False)

    if form == "json":
        return StreamingResponse(text(), media_type="application/x-ndjson")
    headers = {"content-disposition": f'attachment; filename="{query.name}.csv"'}
    return StreamingResponse(text(), media_type="text/csv; charset=utf-8", headers=headers)


def read_chunks(opener: Opener, query: ListQuery[Any], selection: Selection) -> Iterator[Sequence[Any]]:
    """Yield the rows of a list, those of one position in the same chunk."""
    position, size = query.position, CHUNK
    while True:
        wanted = replace(selection, limit=None if position is None else size + 1)
        with opener.open(reads_ledger=query.reads_ledger) as stores:
            found = list(islice(query.find(stores, wanted), wanted.limit))
        if position is None or len(found) <= size:
            if found:
                yield found
            return
        end = position(found[-1])
        chunk = [row for row in found if position(row) != end]
        if chunk:
            yield chunk
            size, selection = CHUNK, replace(selection, before=position(chunk[-1]))
        else:  # more rows of one position than fit
            size *= 2


def _format(listing: Listing[Any], rows: Sequence[Any], form: str, *, has_heading: bool) -> bytes:
    if form == "json":
        return "".join(f"{json.dumps(listing.json(row))}\n" for row in rows).encode()
    file = io.StringIO()
    listing.write_csv(file, rows, has_heading=has_heading)
    return file.getvalue().encode("utf-8", "backslashreplace")
