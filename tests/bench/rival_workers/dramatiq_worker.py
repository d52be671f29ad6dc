"""What the command `dramatiq` works with; run as a module, it fills the queue."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.bench.rival_workers.event_store import BROKER_VARIABLE, events, store

dramatiq.set_broker(RedisBroker(url=os.environ[BROKER_VARIABLE]))


@dramatiq.actor
def one(body: str) -> None:
    store(body)


if __name__ == "__main__":
    for each in events():
        one.send(each)
