"""Changes runs in the order of their keys, so that two workers never wait for each other in a circle."""

from sqlalchemy import ColumnElement, Update, select, tuple_, update

from workers.ledger.tables.core import runs

#: A run's name: the delivery's id and the handler's name.
RunKey = tuple[str, str]

KEY = tuple_(runs.c.delivery_id, runs.c.handler)


def locked_update(*conditions: ColumnElement[bool], skip_locked: bool = False) -> Update:
    """Begin an update of the runs that fit; with `skip_locked` of those only that nobody else is changing."""
    fitting = (
        select(runs.c.delivery_id, runs.c.handler)
        .where(*conditions)
        .order_by(runs.c.delivery_id, runs.c.handler)
        .with_for_update(skip_locked=skip_locked)
        .correlate(None)
    )
    return update(runs).where(KEY.in_(fitting))
