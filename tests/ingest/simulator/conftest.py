"""The receiver on a real port."""

import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from tests.ingest.simulator.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    config = uvicorn.Config("", port=0, log_config=None, lifespan="off")
    socket = config.bind_socket()
    here = Receiver(socket.getsockname()[1])
    config.app = Starlette(routes=[Route("/plugsurfing/{kind}", here.take, methods=["POST"])])
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield here
    server.should_exit = True
    thread.join()
    socket.close()
