"""The chart, as helm itself renders it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml
from tests.docs.deploy.manifests import Manifest, Server, environment, faults, named, only, parse
from tests.docs.deploy.test_kubernetes import MANIFESTS, ROOT, composed, rendered

import netloader
from mesh_inspect.cli import main
from mesh_inspect.exits import InspectExit
from netloader.config import KEYS, field_of
from netloader.config.keys import UPSTREAM_ONLY

CHART: Final = MANIFESTS.parent / "helm" / "netloader-mesh"

OF_THE_CHART: Final = frozenset(
    {
        "MESH_NAME",
        "MESH_KUBERNETES_SERVICE",
        "MESH_KEY_FILE",
        "PORT_RANGE",
        "METRICS_PORT",
        "METRICS_HOST",
    }
)
"""Settings that the chart derives from values of its own."""

OF_ONE_POD: Final = frozenset({"BIND", "MESH_ADVERTISE", "LISTEN_ADVERTISE"})
"""Settings that differ between pods."""

ELSEWHERE: Final = frozenset({"MESH_KEY", "MESH_PORT"})
"""A key belongs into a Secret. MESH_PORT would move the mesh away from the port that is opened."""


def templated(
    helm: Path, tmp_path: Path, values: Mapping[str, Any], release: str = "chat"
) -> list[Manifest]:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(dict(values)))
    done = subprocess.run(
        [helm, "template", release, CHART, "--namespace", "team", "--values", file],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


def specs(objects: list[Manifest]) -> dict[tuple[str, str], Any]:
    """What is left without metadata, which names who has made it, and an order of variables."""
    for one in only(objects, "Deployment"):
        one["spec"]["template"]["spec"]["containers"][0]["env"].sort(
            key=lambda entry: entry["name"]
        )
    return {name: one["spec"] for name, one in named(objects).items() if one["kind"] != "Pod"}


VALUES: Final[dict[str, dict[str, Any]]] = {
    "by default": {},
    "four workers a pod": {"tensorParallelSize": 4},
    "any port": {"mesh": {"ports": ""}},
    "no claim": {"model": {"path": "org/model", "claim": ""}},
    "NPUs": {"tensorParallelSize": 8, "accelerator": "huawei.com/Ascend910"},
    "a processor": {"accelerator": ""},
    "a monitor": {
        "tensorParallelSize": 2,
        "metrics": {"port": 9500, "podMonitor": True, "podMonitorLabels": {"release": "stack"}},
    },
    "no spare accelerators": {"maxSurge": 0},
    "long requests": {"terminationGracePeriodSeconds": 600},
    "settings": {
        "settings": {
            "RATE_LIMIT": 1_000_000_000,
            "MAX_SESSIONS": 8,
            "VERIFY": True,
            "DISCOVERY_TIMEOUT": 0.5,
            "TRANSPORTS": "tcp-sealed",
        },
        "args": ["--max-model-len", "4096"],
        "env": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
    },
    "everything else": {
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "priorityClassName": "serving",
        "runtimeClassName": "nvidia",
        "service": {"type": "LoadBalancer", "port": 80},
        "image": {"repository": "registry.example/vllm", "tag": "1"},
    },
}


@pytest.mark.parametrize("what", VALUES)
def test_a_rendered_chart_fits(helm: Path, tmp_path: Path, what: str) -> None:
    assert list(faults(templated(helm, tmp_path, VALUES[what]))) == []


def test_the_names_of_a_release_may_look_like_numbers(helm: Path, tmp_path: Path) -> None:
    assert list(faults(templated(helm, tmp_path, {"mesh": {"name": "007"}}, release="1"))) == []


def test_settings_arrive_as_they_were_written(helm: Path, tmp_path: Path) -> None:
    """Helm reads a large whole number as a float."""
    config = Server.of(templated(helm, tmp_path, VALUES["settings"])).config
    assert config.rate_limit == 1_000_000_000
    assert (config.source_settings.max_sessions, config.discovery_timeout_s) == (8, 0.5)


class TestChartAndManifestsSayTheSame:
    def test_by_default(self, helm: Path, kubectl: Path, tmp_path: Path) -> None:
        assert specs(templated(helm, tmp_path, {})) == specs(rendered(kubectl, MANIFESTS / "base"))

    def test_with_four_workers_and_any_port(
        self, helm: Path, kubectl: Path, tmp_path: Path
    ) -> None:
        chart = templated(helm, tmp_path, {"tensorParallelSize": 4, "mesh": {"ports": ""}})
        assert specs(chart) == specs(composed(kubectl, tmp_path, "tensor-parallel", "any-port"))


class TestOneMeshForTwoReleases:
    def test_the_second_joins_the_first(self, helm: Path, tmp_path: Path) -> None:
        first = templated(helm, tmp_path, {})
        joined = {"mesh": {"name": "chat", "service": "chat-mesh", "secret": "chat-mesh"}}
        second = templated(helm, tmp_path, joined, release="chat-long")
        (service,) = only(second, "Service")
        assert service["metadata"]["name"] == "chat-long"
        assert list(faults([*second, only(first, "Service")[1]])) == []
        mine, theirs = Server.of(first), Server.of(second)
        assert mine.config.mesh_settings == theirs.config.mesh_settings
        assert mine.labels["netloader-mesh"] == theirs.labels["netloader-mesh"]
        assert mine.labels["app"] != theirs.labels["app"]


class TestHelmTest:
    @pytest.fixture
    def pod(self, helm: Path, tmp_path: Path) -> Manifest:
        objects = templated(helm, tmp_path, {"replicas": 3, "tensorParallelSize": 2})
        (pod,) = only(objects, "Pod")
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        return pod

    def test_it_waits_for_every_worker(self, pod: Manifest) -> None:
        command = pod["spec"]["containers"][0]["command"]
        assert command[command.index("--count") + 1] == "6"

    def test_the_command_line_is_one_that_is_understood(
        self, pod: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where nobody is, it says so: a line that it did not understand would end otherwise."""
        program, *arguments = pod["spec"]["containers"][0]["command"]
        assert program == "mesh-inspect"
        arguments[arguments.index("--timeout") + 1] = "0.05"
        monkeypatch.setenv("NETLOADER_MESH_DIRECTORY", str(tmp_path / "nobody"))
        monkeypatch.setenv("NETLOADER_MESH_NAME", "nobody")
        assert main(arguments) == InspectExit.NO_MESH

    def test_it_sees_what_the_workers_see(self, helm: Path, tmp_path: Path) -> None:
        objects = templated(helm, tmp_path, {})
        (pod,) = only(objects, "Pod")
        mine = environment(pod["spec"]["containers"][0])
        assert mine.items() <= Server.of(objects).env.items()


class TestValues:
    SCHEMA: Final = json.loads((CHART / "values.schema.json").read_text())
    DEFAULTS: Final = yaml.safe_load((CHART / "values.yaml").read_text())

    def test_the_defaults_follow_the_schema(self) -> None:
        jsonschema.Draft7Validator.check_schema(self.SCHEMA)
        jsonschema.validate(self.DEFAULTS, self.SCHEMA)

    def test_every_value_is_in_the_schema_and_the_other_way_round(self) -> None:
        assert set(self.DEFAULTS) == set(self.SCHEMA["properties"]) - {"global"}
        for name in ("image", "model", "mesh", "service", "metrics", "resources"):
            assert set(self.DEFAULTS[name]) == set(self.SCHEMA["properties"][name]["properties"])

    def test_settings_may_be_all_that_the_environment_may_hold(self) -> None:
        (pattern,) = self.SCHEMA["properties"]["settings"]["patternProperties"]
        listed = re.fullmatch(r"\^\((.+)\)\$", pattern)
        assert listed is not None
        assert set(listed[1].split("|")) == (
            KEYS - UPSTREAM_ONLY - OF_THE_CHART - OF_ONE_POD - ELSEWHERE
        )

    @pytest.mark.parametrize(
        "values",
        [
            {"settings": {"RATE_LIMTI": 1}},
            {"settings": {"MESH_KEY": "00"}},
            {"replica": 3},
            {"mesh": {"ports": "any"}},
            {"mesh": {"name": "Not A Label"}},
            {"metrics": {"port": "9400"}},
        ],
        ids=str,
    )
    def test_helm_refuses_what_cannot_be_meant(
        self, helm: Path, tmp_path: Path, values: dict[str, Any]
    ) -> None:
        with pytest.raises(AssertionError, match="don't meet the specifications"):
            templated(helm, tmp_path, values)


@pytest.mark.parametrize(
    ("values", "needed"),
    [
        ({"mesh": {"ports": "17946-17951"}}, 7),
        ({"mesh": {"ports": "18045-17946"}}, 7),
        ({"tensorParallelSize": 8, "settings": {"MAX_SESSIONS": 16}}, 152),
    ],
    ids=str,
)
def test_helm_refuses_too_few_ports(
    helm: Path, tmp_path: Path, values: dict[str, Any], needed: int
) -> None:
    with pytest.raises(AssertionError, match=f"and {needed} are needed"):
        templated(helm, tmp_path, values)


def test_the_chart_knows_how_many_sessions_there_are_by_default() -> None:
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    default = field_of("MAX_SESSIONS")[1].default
    assert f"MAX_SESSIONS | default {default} |" in helpers


PAGE: Final = (ROOT / "docs" / "howto" / "kubernetes.md").read_text()

INSTALLS: Final = re.findall(r"^helm install (.+)$", PAGE.replace("\\\n", " "), re.MULTILINE)


@pytest.mark.parametrize("line", INSTALLS)
def test_the_page_s_commands_install_what_fits(helm: Path, tmp_path: Path, line: str) -> None:
    done = subprocess.run(
        [helm, "template", *shlex.split(line)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    objects = parse(done.stdout)
    if "mesh.service" in line:
        objects.append(only(templated(helm, tmp_path, {}), "Service")[1])
    assert list(faults(objects)) == []


def test_the_page_installs_two_releases() -> None:
    assert len(INSTALLS) == 2


def test_helm_finds_nothing_to_improve(helm: Path) -> None:
    done = subprocess.run(
        [helm, "lint", "--strict", "--quiet", CHART], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_the_chart_is_of_this_release() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == netloader.__version__
