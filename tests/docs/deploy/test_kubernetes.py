"""The manifests for kubectl, as kubectl itself renders them."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.docs.deploy.manifests import Manifest, Server, faults, only, parse, selects

ROOT: Final = Path(__file__).parents[3]

MANIFESTS: Final = ROOT / "docs" / "deploy" / "kubernetes"

NAME: Final = "kubernetes.io/metadata.name"
"""The label with which Kubernetes names a namespace."""

COMPONENTS: Final = ("tensor-parallel", "any-port")


def rendered(kubectl: Path, folder: Path) -> list[Manifest]:
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=True, timeout=60
    )
    return parse(done.stdout)


@pytest.fixture(scope="module")
def base(kubectl: Path) -> list[Manifest]:
    return rendered(kubectl, MANIFESTS / "base")


def composed(kubectl: Path, tmp_path: Path, *components: str) -> list[Manifest]:
    """What an operator gets who names these components in a kustomization of his own."""
    shutil.copytree(MANIFESTS, tmp_path / "given")
    own = {
        "resources": ["given/base"],
        "components": [f"given/components/{name}" for name in components],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    return rendered(kubectl, tmp_path)


class TestRendered:
    def test_the_base(self, base: list[Manifest]) -> None:
        assert list(faults(base)) == []
        assert Server.of(base).workers == 1

    @pytest.mark.parametrize("component", COMPONENTS)
    def test_each_component(self, kubectl: Path, tmp_path: Path, component: str) -> None:
        assert list(faults(composed(kubectl, tmp_path, component))) == []

    def test_all_components_together(self, kubectl: Path, tmp_path: Path) -> None:
        together = composed(kubectl, tmp_path, *COMPONENTS)
        assert list(faults(together)) == []
        server = Server.of(together)
        assert server.workers == 4
        assert server.config.mesh_settings.port_range is None

    def test_every_component_and_overlay_is_looked_at(self) -> None:
        assert {path.name for path in (MANIFESTS / "components").iterdir()} == set(COMPONENTS)
        assert [path.name for path in (MANIFESTS / "overlays").iterdir()] == ["second-mesh"]


@pytest.fixture(scope="module")
def second(kubectl: Path) -> list[Manifest]:
    return rendered(kubectl, MANIFESTS / "overlays" / "second-mesh")


class TestTwoMeshesInOneNamespace:
    def test_the_second_is_whole(self, second: list[Manifest]) -> None:
        assert list(faults(second)) == []

    def test_they_share_no_name_no_pod_and_no_key(
        self, base: list[Manifest], second: list[Manifest]
    ) -> None:
        names = [{(one["kind"], one["metadata"]["name"]) for one in two} for two in (base, second)]
        assert names[0].isdisjoint(names[1])
        one, other = Server.of(base), Server.of(second)
        for objects, stranger in ((base, other), (second, one)):
            for manifest in objects:
                for key in ("selector", "podSelector"):
                    if key in manifest["spec"]:
                        assert not selects(manifest["spec"][key], stranger.labels)
            (policy,) = only(objects, "NetworkPolicy")
            (peers, *_) = policy["spec"]["ingress"]
            assert not selects(peers["from"][0]["podSelector"], stranger.labels)
        assert one.config.mesh_settings.name != other.config.mesh_settings.name
        assert one.pod["volumes"][0]["secret"] != other.pod["volumes"][0]["secret"]


Broken = Callable[[list[Manifest]], Any]


def container(objects: list[Manifest]) -> Manifest:
    (deployment,) = only(objects, "Deployment")
    return deployment["spec"]["template"]["spec"]["containers"][0]


def pod(objects: list[Manifest]) -> Manifest:
    (deployment,) = only(objects, "Deployment")
    return deployment["spec"]["template"]["spec"]


def set_to(name: str, value: str) -> Broken:
    def change(objects: list[Manifest]) -> None:
        for entry in container(objects)["env"]:
            if entry["name"] == name:
                entry["value"] = value

    return change


def headless(objects: list[Manifest]) -> Manifest:
    return only(objects, "Service")[1]


def policy(objects: list[Manifest]) -> Manifest:
    return only(objects, "NetworkPolicy")[0]["spec"]


BROKEN: Final[dict[str, tuple[Broken, str]]] = {
    "a field that Kubernetes does not know": (
        lambda them: pod(them).update(terminationGracePeriod=60),
        "terminationGracePeriod",
    ),
    "a misspelt setting": (
        lambda them: container(them)["env"].append(
            {"name": "NETLOADER_RATE_LIMTI", "value": "1000000"}
        ),
        "did you mean NETLOADER_RATE_LIMIT",
    ),
    "a value that is not allowed": (set_to("NETLOADER_PORT_RANGE", "wide"), "PORT_RANGE"),
    "a range that is too narrow": (set_to("NETLOADER_PORT_RANGE", "17946-17949"), "fewer than 7"),
    "a range that the policy does not open": (
        set_to("NETLOADER_PORT_RANGE", "17946-18046"),
        "the policy lets in",
    ),
    "metrics that nobody reaches": (
        set_to("NETLOADER_METRICS_HOST", "127.0.0.1"),
        "metrics are at",
    ),
    "another service": (set_to("NETLOADER_MESH_KUBERNETES_SERVICE", "chat"), "not headless"),
    "a service that is not there": (
        set_to("NETLOADER_MESH_KUBERNETES_SERVICE", "netloader-mesh"),
        "no service is behind",
    ),
    "a service that waits for readiness": (
        lambda them: headless(them)["spec"].pop("publishNotReadyAddresses"),
        "leaves out pods that load",
    ),
    "a key file elsewhere": (
        set_to("NETLOADER_MESH_KEY_FILE", "/run/mesh.key"),
        "no secret is mounted",
    ),
    "a key that only root reads": (
        lambda them: pod(them)["volumes"][0]["secret"].update(defaultMode=0o400),
        "cannot read the key: 0400",
    ),
    "a key by subPath": (
        lambda them: container(them)["volumeMounts"][0].update(subPath="mesh.key"),
        "subPath",
    ),
    "a home that cannot be written": (
        lambda them: container(them)["volumeMounts"].pop(1),
        "HOME cannot be written",
    ),
    "root": (lambda them: pod(them)["securityContext"].update(runAsUser=0), "the image's user"),
    "variables of services": (
        lambda them: pod(them).pop("enableServiceLinks"),
        "no variables of services",
    ),
    "a policy for others": (
        lambda them: policy(them)["ingress"][0]["from"][0]["podSelector"].update(
            matchLabels={"netloader-mesh": "other"}
        ),
        "does not let in pods of the mesh",
    ),
    "a policy that opens more": (
        lambda them: policy(them)["ingress"][0]["ports"][0].update(endPort=20_000),
        "the policy lets in",
    ),
    "a budget for others": (
        lambda them: only(them, "PodDisruptionBudget")[0]["spec"]["selector"].update(
            matchLabels={"app": "other"}
        ),
        "PodDisruptionBudget does not select",
    ),
    "a probe that needs the mesh": (
        lambda them: container(them).update(
            livenessProbe={"exec": {"command": ["mesh-inspect", "wait", "--for", "alive"]}}
        ),
        "livenessProbe does not ask vLLM",
    ),
    "a pod that is killed too early": (
        lambda them: pod(them).update(terminationGracePeriodSeconds=55),
        "is killed while its requests end",
    ),
    "fewer accelerators than workers": (
        lambda them: container(them)["args"].extend(["--tensor-parallel-size", "2"]),
        "2 workers, and accelerators [1]",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_checks_would_notice(base: list[Manifest], what: str) -> None:
    change, words = BROKEN[what]
    changed = copy.deepcopy(base)
    change(changed)
    assert any(words in fault for fault in faults(changed)), list(faults(changed))


def test_the_command_for_the_secret_makes_what_the_pods_mount(
    kubectl: Path, base: list[Manifest], tmp_path: Path
) -> None:
    """`mesh-inspect keygen | kubectl create secret ...`, as the page says."""
    page = (ROOT / "docs" / "howto" / "kubernetes.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("mesh-inspect keygen |")]
    words = line.split("|")[1].split()
    done = subprocess.run(
        [kubectl, *words[1:], "--dry-run=client", "--output=yaml"],
        input="00" * 32,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "KUBECONFIG": str(tmp_path / "none")},
    )
    (secret,) = parse(done.stdout)
    mounted = Server.of(base).pod["volumes"][0]["secret"]["secretName"]
    assert (secret["metadata"]["name"], list(secret["data"])) == (mounted, ["mesh.key"])


class TestPrometheus:
    """The scrape job and the dashboard's config map, as far as that shows without a Prometheus."""

    def test_the_job_keeps_the_metrics_ports_and_no_other(self, base: list[Manifest]) -> None:
        (job,) = yaml.safe_load((MANIFESTS / "prometheus.yaml").read_text())["scrape_configs"]
        (keep,) = [rule for rule in job["relabel_configs"] if rule.get("action") == "keep"]
        assert keep["source_labels"] == ["__meta_kubernetes_pod_container_port_name"]
        ports = Server.of(base).ports
        kept = {name for name in ports if re.fullmatch(keep["regex"], name)}
        assert kept == {"mesh-metrics-0"}

    def test_the_policy_names_the_namespace_that_the_page_names(self, base: list[Manifest]) -> None:
        (rule,) = [
            rule
            for rule in only(base, "NetworkPolicy")[0]["spec"]["ingress"]
            if "namespaceSelector" in str(rule)
        ]
        (peer,) = rule["from"]
        page = (ROOT / "docs" / "howto" / "kubernetes.md").read_text()
        assert (
            f"kubectl -n {peer['namespaceSelector']['matchLabels'][NAME]} create configmap" in page
        )
