"""The manifests for Kubernetes are valid, grant no more than is needed, and their processes run as they say."""

import contextlib
import os
import shutil
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from ingest.config.settings import load_settings
from ingest.server.supervisor import DRAIN_TIMEOUT
from tests.faults.cluster import wait_until
from tests.faults.keep_alive_senders import KEY
from tests.project.served_metrics import served_metrics
from tests.workers.deploy.pod import ROOT, STARTS_WITHIN_S, Manifest, Network, Pod
from workers.commands.check.probe import ProbedProcess

FOLDER = ROOT / "workers" / "deploy" / "kubernetes"
BASE, AUTOSCALING = FOLDER / "base", FOLDER / "autoscaling"
VERSION = "1.34"
"""Of Kubernetes: the first in which `preStop.sleep` is stable."""
PROCESSES = ("web", "authorize", "worker", "clock", "dashboard", "devices")
HTTP = ("web", "authorize", "dashboard", "devices")
MAY_RUN = os.geteuid() == 0 and all(map(shutil.which, ("unshare", "nsenter", "setpriv", "curl", "ip")))


def render() -> list[Manifest]:
    """Return what `kubectl apply --kustomize` would apply; the kustomization uses nothing beyond this."""
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    assert set(kustomization) == {"apiVersion", "kind", "namespace", "resources", "images"}
    assert set(kustomization["resources"]) == {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    images = {each["name"]: f"{each['newName']}:{each['newTag']}" for each in kustomization["images"]}
    found = [each for name in kustomization["resources"] for each in yaml.safe_load_all((BASE / name).read_text())]
    for manifest in found:
        manifest["metadata"]["namespace"] = kustomization["namespace"]
        for container in containers(manifest):
            container["image"] = images[container["image"]]
    return found


def containers(manifest: Manifest) -> list[Manifest]:
    found: list[Manifest] = (
        manifest["spec"].get("template", {"spec": {}})["spec"].get("containers", []) if "spec" in manifest else []
    )
    return found


MANIFESTS = render()
WORKLOADS = [each for each in MANIFESTS if containers(each)]


def of_kind(kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in MANIFESTS if each["kind"] == kind}


def workload(name: str) -> Manifest:
    (found,) = [each for each in WORKLOADS if each["metadata"]["name"] == name]
    return found


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name_of)
def test_a_manifest_follows_the_schema_of_kubernetes(manifest: Manifest) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_there_is_a_workload_for_every_process() -> None:
    kinds = {each["metadata"]["name"]: each["kind"] for each in WORKLOADS}
    assert kinds == {**dict.fromkeys(PROCESSES, "Deployment"), "web": "StatefulSet", "migrate": "Job"}


@pytest.mark.parametrize("manifest", WORKLOADS, ids=name_of)
def test_a_pod_has_no_more_rights_than_it_needs(manifest: Manifest) -> None:
    pod, (container,) = manifest["spec"]["template"]["spec"], containers(manifest)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert str(pod["securityContext"]["runAsUser"]) in (ROOT / "Dockerfile").read_text()
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"memory"} == set(container["resources"]["limits"])
    assert not [key for key in pod if key.startswith("host")]


@pytest.mark.parametrize("manifest", WORKLOADS, ids=name_of)
def test_secrets_are_files_and_every_setting_exists(manifest: Manifest) -> None:
    given = {each["name"]: each.get("value") for each in containers(manifest)[0].get("env", ())}
    given |= of_kind("ConfigMap")["webhooks"]["data"]
    settings = {each.name for each in load_settings().describe_all()}
    assert set(given) <= settings
    assert {name for name in given if name.endswith("_FILE")} == {
        name for name, value in given.items() if value == f"/run/secrets/webhooks/{name.removesuffix('_FILE')}"
    }


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_has_probes(name: str) -> None:
    (container,) = containers(workload(name))
    process = container["command"][1]
    assert {"startupProbe", "livenessProbe"} <= set(container)
    assert ("readinessProbe" in container) == (name in HTTP)
    if name not in HTTP:
        assert container["livenessProbe"]["exec"]["command"] == ["webhooks", "check", "--live", process]
    assert process in {each.value for each in ProbedProcess}


@pytest.mark.parametrize("name", ["web", "authorize"])
def test_a_server_may_drain_before_it_is_killed(name: str) -> None:
    pod = workload(name)["spec"]["template"]["spec"]
    waits = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= waits + 2 * DRAIN_TIMEOUT


def test_each_web_has_an_inbox_of_its_own_which_stays() -> None:
    spec = workload("web")["spec"]
    assert [each["metadata"]["name"] for each in spec["volumeClaimTemplates"]] == ["inbox"]
    assert {"name": "inbox", "mountPath": "/data"} in spec["template"]["spec"]["containers"][0]["volumeMounts"]
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    assert spec["serviceName"] in of_kind("Service")


def test_what_refers_to_pods_finds_them() -> None:
    labels = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in WORKLOADS}
    ports = {
        name: {port["name"]: port["containerPort"] for port in containers(workload(name))[0].get("ports", ())}
        for name in labels
    }
    for name, service in of_kind("Service").items():
        (target,) = [each for each, found in labels.items() if found == service["spec"]["selector"]]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports[target]), name
    for budget in of_kind("PodDisruptionBudget").values():
        assert budget["spec"]["selector"]["matchLabels"] in labels.values()
    for each in WORKLOADS:
        assert each["spec"].get("selector", {}).get("matchLabels", labels["migrate"]) in labels.values()
    for policy in of_kind("NetworkPolicy").values():
        chosen = policy["spec"]["podSelector"].get("matchLabels", {})
        targets = [name for name, found in labels.items() if chosen.items() <= found.items()]
        for rule in policy["spec"].get("ingress", ()):
            assert {port["port"] for port in rule["ports"]} <= {p for name in targets for p in ports[name].values()}
    paths = of_kind("Ingress")["webhooks"]["spec"]["rules"][0]["http"]["paths"]
    assert {path["backend"]["service"]["name"] for path in paths} <= set(of_kind("Service"))


def test_the_ports_are_those_of_the_settings() -> None:
    settings = of_kind("ConfigMap")["webhooks"]["data"]
    names = {"web": "PORT", "authorize": "AUTHORIZE_PORT", "dashboard": "DASHBOARD_PORT", "clock": "METRICS_PORT"}
    for name, setting in {**names, "devices": "DEVICES_PORT"}.items():
        assert [str(port["containerPort"]) for port in containers(workload(name))[0]["ports"]] == [settings[setting]]


def test_workers_are_scaled_by_a_metric_that_there_is() -> None:
    scaled = yaml.safe_load((AUTOSCALING / "scaled-worker.yaml").read_text())
    assert scaled["spec"]["scaleTargetRef"]["name"] in of_kind("Deployment")
    (trigger,) = scaled["spec"]["triggers"]
    assert "webhooks_queue_oldest_seconds" in trigger["metadata"]["query"]
    assert "webhooks_queue_oldest_seconds" in {metric.name for metric in served_metrics()["clock"]}
    kustomization = yaml.safe_load((AUTOSCALING / "kustomization.yaml").read_text())
    assert kustomization["resources"] == ["../base", "scaled-worker.yaml"]
    assert kustomization["patches"][0]["target"] == {
        "kind": "Deployment",
        "name": scaled["spec"]["scaleTargetRef"]["name"],
    }


SECRETS = {
    "webhooks-keys": {"PLUGSURFING_HMAC_CURRENT": KEY.decode()},
    "webhooks-authorize": {"AUTHORIZE_CREDENTIALS": "secret-of-the-charger"},
    "webhooks-dashboard": {"DASHBOARD_PASSWORD": "a-long-password-of-ours"},
    "webhooks-devices": {"ADMIN_TOKEN": "a-long-token-of-the-backend"},
}
SEND = """
import http.client
from tests.faults.keep_alive_senders import KEY, PATH, event
from ingest.wire.signature import SIGNATURE_HEADER, sign
body = event()
connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=30)
connection.request("POST", PATH, body, {SIGNATURE_HEADER: sign(body, KEY)})
raise SystemExit(connection.getresponse().status != 200)
"""


@pytest.mark.slow  # half a minute, and all of two cores
@pytest.mark.skipif(not MAY_RUN, reason="only root may make namespaces")
def test_the_processes_run_with_the_command_environment_folders_and_probes_of_the_manifests(
    tmp_path: Path, valkey_url: str
) -> None:
    stores = tmp_path / "stores"
    stores.mkdir()
    urls = {"REDIS_URL": valkey_url, "DATABASE_URL": f"sqlite:///{stores}/ledger.db"}
    shared = [stores, Path(valkey_url.removeprefix("unix://")).parent]
    settings = of_kind("ConfigMap")["webhooks"]["data"]
    secrets = {**SECRETS, "webhooks-stores": urls}
    pods = {
        each["metadata"]["name"]: Pod(each, settings, secrets, tmp_path / "pods", shared)
        for each in sorted(WORKLOADS, key=lambda each: each["metadata"]["name"] != "migrate")
    }
    with Network() as network, contextlib.ExitStack() as running:
        for name, pod in pods.items():
            pod.start(network)
            running.callback(pod.kill)
            if name == "migrate":
                assert pod.process.wait(STARTS_WITHIN_S) == 0, pod.log.read_text()
        running_pods = [pods[name] for name in PROCESSES]
        for pod in running_pods:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                wait_until(
                    lambda pod=pod, probe=probe: pod.probe(probe) or pod.has_ended,
                    f"{pod.name}: {probe}",
                    STARTS_WITHIN_S,
                )
            assert not pod.has_ended, pod.log.read_text()
            assert pod.run("touch", "/etc/x") != 0, "its root can be written"

        assert pods["web"].run("python", "-c", SEND, PYTHONPATH=str(ROOT)) == 0, pods["web"].answer
        wait_until(lambda: pods["worker"].settled() == 1, "the event is settled", STARTS_WITHIN_S)
        assert pods["worker"].run("webhooks", "check", "--live", "clock") == 1, "a probe is of its own pod"

        for pod in running_pods:
            assert pod.end() == 0, pod.log.read_text()
            assert "Traceback" not in pod.log.read_text()
