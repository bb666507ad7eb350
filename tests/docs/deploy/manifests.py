"""What must agree among the manifests of one deployment, beyond what Kubernetes' schemas say.

`faults` knows no template: it reads what `kubectl kustomize` or `helm template` has printed, and
asks the code what a worker in such a pod would do.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Any, Final

import jsonschema
import yaml
from referencing import Registry, Resource

from netloader.config import Config
from netloader.config.variables import told
from netloader.errors import ConfigError
from netloader.program import PROGRAM
from netmesh.address import Address
from netmesh.bootstrap.environment import scheduler_seeds
from netmesh.seeds import DnsSeed

Manifest = dict[str, Any]

SCHEMAS: Final = files("kubernetes_validate") / "kubernetes-json-schema"

VERSIONS: Final = ("1.27", "1.37")
"""Releases of Kubernetes: the oldest that the chart takes, and the newest whose schemas we have."""

WITHOUT_SCHEMA: Final = frozenset({"PodMonitor"})
"""Kinds of the Prometheus operator, which Kubernetes does not know."""

NAMESPACE: Final = "team"

POD_IP: Final = "10.0.0.7"

EPHEMERAL: Final = range(32_768, 61_000)
"""Ports that Linux hands out for outgoing connections, unless told otherwise."""

WRITTEN: Final = ("/tmp", "/dev/shm", "/home/vllm")
"""Where vLLM, torch and their compilers write, with HOME=/home/vllm. `vllm serve` for CPU ran as
user 2000 on a root that is read-only elsewhere."""

IMAGE_USER: Final = (2000, 0)
"""User and group in vLLM's image for those who do not want root."""


def parse(text: str) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(text) if one is not None]


def only(objects: Sequence[Manifest], kind: str) -> list[Manifest]:
    return [one for one in objects if one["kind"] == kind]


def named(objects: Sequence[Manifest]) -> dict[tuple[str, str], Manifest]:
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


@dataclass(frozen=True)
class Server:
    """A pod of the Deployment, as the worker in it sees it."""

    labels: Mapping[str, str]
    pod: Manifest
    replicas: int

    @classmethod
    def of(cls, objects: Sequence[Manifest]) -> Server:
        (deployment,) = only(objects, "Deployment")
        template = deployment["spec"]["template"]
        return cls(template["metadata"]["labels"], template["spec"], deployment["spec"]["replicas"])

    @property
    def container(self) -> Manifest:
        (container,) = self.pod["containers"]
        return container

    @property
    def env(self) -> dict[str, str]:
        return environment(self.container)

    @property
    def arguments(self) -> list[str]:
        return [*self.container["command"], *self.container["args"]]

    def argument(self, flag: str, default: str) -> str:
        return dict(zip(self.arguments, self.arguments[1:], strict=False)).get(flag, default)

    @property
    def workers(self) -> int:
        return int(self.argument("--tensor-parallel-size", "1"))

    @property
    def config(self) -> Config:
        """Raises ConfigError."""
        return Config.load(json.loads(self.argument("--model-loader-extra-config", "{}")), self.env)

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}


def environment(container: Manifest) -> dict[str, str]:
    """What the kubelet makes of `env`: a reference stands for a variable that comes before it."""
    found: dict[str, str] = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    for entry in container["env"]:
        match entry:
            case {"value": str(value)}:
                found[entry["name"]] = re.sub(
                    r"\$\((\w+)\)", lambda name: found.get(name[1], name[0]), value
                )
            case {"valueFrom": {"fieldRef": {"fieldPath": path}}}:
                found[entry["name"]] = {"status.podIP": POD_IP, "metadata.namespace": NAMESPACE}[
                    path
                ]
    return found


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", selector)
    return bool(wanted) and wanted.items() <= labels.items()


def faults(objects: Sequence[Manifest]) -> Iterator[str]:
    """What does not fit, in words."""
    yield from _schemas(objects)
    server = Server.of(objects)
    yield from _settings(server)
    for pod in (server.pod, *(one["spec"] for one in only(objects, "Pod"))):
        yield from _key(pod)
        yield from _files(pod)
        yield from _privileges(pod)
    yield from _first_contact(server, objects)
    yield from _ports(server)
    yield from _policy(server, objects)
    yield from _selectors(server, objects)
    yield from _probes(server)


def _schemas(objects: Sequence[Manifest]) -> Iterator[str]:
    for one in objects:
        if one["kind"] not in WITHOUT_SCHEMA:
            yield from _schema_faults(json.dumps(one))


@functools.cache
def _schema_faults(manifest: str) -> tuple[str, ...]:
    """Kept, since many renderings have the same objects."""
    one = json.loads(manifest)
    return tuple(
        f"{one['kind']}: {version}: {'.'.join(map(str, error.path))}: {error.message[:200]}"
        for version in VERSIONS
        for error in _validator(one["kind"], one["apiVersion"], version).iter_errors(one)
    )


@functools.cache
def _validator(kind: str, api: str, version: str) -> jsonschema.Draft202012Validator:
    """By the strict schema of one kind: a field that Kubernetes does not know is an error."""
    group, _, release = api.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], release)))
    return jsonschema.Draft202012Validator(
        json.loads((_schemas_of(version) / f"{name}.json").read_text()),
        registry=_definitions(version),
    )


@functools.cache
def _definitions(version: str) -> Registry[Any]:
    text = (_schemas_of(version) / "_definitions.json").read_text()
    return Resource.from_contents(json.loads(text)) @ Registry()


def _schemas_of(version: str) -> Traversable:
    return SCHEMAS / f"v{version}.0-local-strict"


def _settings(server: Server) -> Iterator[str]:
    names = [entry["name"] for entry in server.container["env"]]
    yield from (f"{name} is set twice" for name in sorted(set(names)) if names.count(name) > 1)
    yield from told(server.env)
    try:
        config = server.config
    except ConfigError as error:
        yield str(error)
        return
    if config.mesh_settings.key_file is None:
        yield "no key file is set: the mesh would stay on loopback"
    if config.metrics_port is not None and config.metrics_host != POD_IP:
        yield f"metrics are at {config.metrics_host}, which Prometheus does not reach"
    if server.argument("--load-format", "") != "netloader":
        yield "the load format is not netloader"
    accelerators = [
        int(number)
        for name, number in server.container["resources"]["limits"].items()
        if "/" in name
    ]
    if accelerators not in ([], [server.workers]):
        yield f"{server.workers} workers, and accelerators {accelerators}"


def _key(pod: Manifest) -> Iterator[str]:
    (container,) = pod["containers"]
    path = PurePosixPath(environment(container)["NETLOADER_MESH_KEY_FILE"])
    mounts = [
        mount for mount in container["volumeMounts"] if mount["mountPath"] == str(path.parent)
    ]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    match [(mount, volumes[mount["name"]]) for mount in mounts]:
        case [({"readOnly": True} as mount, {"secret": secret})]:
            if "subPath" in mount:
                yield "the key is mounted by subPath: a rotation would not reach it"
            if secret["defaultMode"] & 0o007:
                yield f"every user of the container reads the key: {secret['defaultMode']:04o}"
            # Files of a Secret belong to root, and to its group unless there is an fsGroup.
            if pod["securityContext"]["runAsGroup"] != 0 or not secret["defaultMode"] & 0o040:
                yield f"the worker cannot read the key: {secret['defaultMode']:04o}"
        case other:
            yield f"no secret is mounted at {path.parent}, read-only: {other}"


def _files(pod: Manifest) -> Iterator[str]:
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    writable = {
        path
        for path, mount in mounted.items()
        if "emptyDir" in volumes[mount["name"]] and not mount.get("readOnly")
    }
    shared = () if container["command"] == ["vllm", "serve"] else ("/dev/shm",)
    yield from (
        f"nothing can be written at {path}" for path in WRITTEN if path not in {*writable, *shared}
    )
    if environment(container)["HOME"] not in writable:
        yield "HOME cannot be written"
    unused = volumes.keys() - {mount["name"] for mount in mounted.values()}
    yield from (f"nothing mounts the volume {name}" for name in sorted(unused))


def _privileges(pod: Manifest) -> Iterator[str]:
    """The restricted profile of Kubernetes' pod security standards, and what goes beyond it."""
    (container,) = pod["containers"]
    context, own = pod["securityContext"], container["securityContext"]
    wanted = {
        "non-root": context.get("runAsNonRoot") is True,
        "the image's user": (context.get("runAsUser"), context.get("runAsGroup")) == IMAGE_USER,
        "seccomp": context.get("seccompProfile") == {"type": "RuntimeDefault"},
        "no escalation": own.get("allowPrivilegeEscalation") is False,
        "no capability": own.get("capabilities") == {"drop": ["ALL"]},
        "a read-only root": own.get("readOnlyRootFilesystem") is True,
        "no token": pod.get("automountServiceAccountToken") is False,
        "no variables of services": pod.get("enableServiceLinks") is False,
    }
    yield from (f"missing: {name}" for name, held in wanted.items() if not held)


def _first_contact(server: Server, objects: Sequence[Manifest]) -> Iterator[str]:
    """The name that the worker will ask for is a headless service of its own pods."""
    mesh = server.config.mesh_settings
    (seed,) = scheduler_seeds(
        server.env,
        port=mesh.well_known_ports[0],
        service=mesh.kubernetes_service or PROGRAM.service,
        namespace_file=Path("/nowhere"),
    )
    services = {
        DnsSeed(
            Address(f"{one['metadata']['name']}.{NAMESPACE}.svc", mesh.well_known_ports[0])
        ): one["spec"]
        for one in only(objects, "Service")
    }
    spec = services.get(seed)
    if spec is None:
        yield f"no service is behind {seed}"
        return
    if spec.get("clusterIP") != "None" or spec.get("publishNotReadyAddresses") is not True:
        yield "the mesh's service is not headless, or leaves out pods that load"
    if not selects(spec["selector"], server.labels):
        yield "the mesh's service does not select the server"
    if [port["port"] for port in spec["ports"]] != [mesh.well_known_ports[0]]:
        yield f"the mesh's service names other ports than {mesh.well_known_ports[0]}"


def _ports(server: Server) -> Iterator[str]:
    config, mesh = server.config, server.config.mesh_settings
    metrics = [config.metrics_address(rank) for rank in range(server.workers)]
    wanted = {
        "http": int(server.argument("--port", "8000")),
        "mesh": mesh.well_known_ports[0],
        **{f"mesh-metrics-{rank}": address[1] for rank, address in enumerate(metrics) if address},
    }
    if server.ports != wanted:
        yield f"the container's ports are {server.ports}, the settings say {wanted}"
    if mesh.port_range is None:
        return
    needed = server.workers * (3 + config.source_settings.max_sessions)
    if len(mesh.port_range.all) < needed:
        yield f"PORT_RANGE {mesh.port_range} has fewer than {needed} ports"
    others = {name: port for name, port in wanted.items() if name != "mesh"}
    inside = {name for name, port in others.items() if port in mesh.port_range}
    yield from (f"{name} has a port of PORT_RANGE" for name in sorted(inside))
    if any(port in EPHEMERAL for port in (mesh.port_range.first, mesh.port_range.last)):
        yield f"PORT_RANGE {mesh.port_range} has ports that Linux gives to outgoing connections"


def _policy(server: Server, objects: Sequence[Manifest]) -> Iterator[str]:
    """What is let in is what is listened at, and from whom it should be."""
    (policy,) = only(objects, "NetworkPolicy")
    spec = policy["spec"]
    if not selects(spec["podSelector"], server.labels) or spec["policyTypes"] != ["Ingress"]:
        yield "the policy is not about what comes to the server"
    config = server.config
    mesh_ports = config.mesh_settings.port_range
    first = config.metrics_port or 0
    wanted = {
        "mesh": (mesh_ports.first, mesh_ports.last) if mesh_ports else (1, 65_535),
        "metrics": (first, first + server.workers - 1),
        "http": (server.ports["http"], server.ports["http"]),
    }
    allowed: dict[str, tuple[int, int]] = {}
    for rule in spec["ingress"]:
        (port,) = rule["ports"]
        if port["protocol"] != "TCP":
            yield f"a rule about {port['protocol']}"
        low = port.get("port", 1)
        span = (low, port.get("endPort", low if "port" in port else 65_535))
        match rule.get("from"):
            case None:
                allowed["http"] = span
            case [{"podSelector": selector}]:
                if not selects(selector, server.labels):
                    yield "the policy does not let in pods of the mesh"
                allowed["mesh"] = span
            case [{"namespaceSelector": _}]:
                allowed["metrics"] = span
            case other:
                yield f"a rule about others: {other}"
    if allowed != wanted:
        yield f"the policy lets in {allowed}, the server listens at {wanted}"
    for pod in only(objects, "Pod"):
        if not selects(spec["ingress"][0]["from"][0]["podSelector"], pod["metadata"]["labels"]):
            yield f"the policy does not let in {pod['metadata']['name']}"


def _selectors(server: Server, objects: Sequence[Manifest]) -> Iterator[str]:
    (deployment,) = only(objects, "Deployment")
    spread = [one["labelSelector"] for one in server.pod["topologySpreadConstraints"]]
    chosen = {
        "Deployment": deployment["spec"]["selector"],
        **{one["kind"]: one["spec"]["selector"] for one in only(objects, "PodDisruptionBudget")},
        **{one["kind"]: one["spec"]["selector"] for one in only(objects, "PodMonitor")},
        **{
            f"Service {one['metadata']['name']}": one["spec"]["selector"]
            for one in only(objects, "Service")
        },
        **{f"spread {number}": selector for number, selector in enumerate(spread)},
    }
    for name, selector in chosen.items():
        if not selects(selector, server.labels):
            yield f"{name} does not select the server"
    targets = [
        port["targetPort"] for one in only(objects, "Service") for port in one["spec"]["ports"]
    ]
    scraped = [
        endpoint["port"]
        for one in only(objects, "PodMonitor")
        for endpoint in one["spec"]["podMetricsEndpoints"]
    ]
    yield from (
        f"no port is named {name}" for name in targets + scraped if name not in server.ports
    )
    ranks = sorted(name for name in server.ports if name.startswith("mesh-metrics-"))
    if only(objects, "PodMonitor") and scraped != ranks:
        yield f"the monitor reads {scraped} of {ranks}"


def _probes(server: Server) -> Iterator[str]:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = server.container[probe].get("httpGet")
        if asked != {"path": "/health", "port": "http"}:
            yield f"{probe} does not ask vLLM: {server.container[probe]}"
    words = server.container["lifecycle"]["preStop"]["exec"]["command"]
    ends = int(words[1]) + int(server.argument("--shutdown-timeout", "0"))
    if words[0] != "sleep" or not ends < server.pod["terminationGracePeriodSeconds"]:
        yield f"the pod is killed while its requests end: {words}, {ends} s"
    startup = server.container["startupProbe"]
    if startup["periodSeconds"] * startup["failureThreshold"] < 600:
        yield "a start may take less than ten minutes"
