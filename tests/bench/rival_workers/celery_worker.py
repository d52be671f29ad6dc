"""What the command `celery` works with; run as a module, it fills the queue."""

import os

from celery import Celery

from tests.bench.rival_workers.event_store import BROKER_VARIABLE, events, store

app = Celery("rival", broker=os.environ[BROKER_VARIABLE])
app.conf.update(
    # Else a job is acknowledged before its handler runs, and with it the job of a child process that dies.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    # Its manual: 64 or 128 where there are many short jobs, so that none waits for the broker.
    worker_prefetch_multiplier=64,
)


@app.task(name="one")
def one(body: str) -> None:
    store(body)


if __name__ == "__main__":
    with app.producer_pool.acquire() as producer:
        for each in events():
            one.apply_async((each,), producer=producer)
