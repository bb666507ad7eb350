"""Members with the environment of the manifests' pods find each other by the headless service.

Each has a network namespace of its own, as a pod has. A file of hosts stands for the cluster's DNS.
Slow: needs the right to make network namespaces, and iproute2.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.docs.deploy.manifests import NAMESPACE, POD_IP, Server
from tests.docs.deploy.test_kubernetes import MANIFESTS, ROOT, rendered
from tests.fastest import HANG_S
from tests.mesh.test_namespaces import Network

from netloader.program import PROGRAM
from netmesh import MeshSettings, generate_key

pytestmark = pytest.mark.slow

IN_POD: Final = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


@pytest.fixture
def pods() -> Iterator[Network]:
    made = Network()
    try:
        made.build()
    except (subprocess.CalledProcessError, OSError) as error:
        made.remove()
        pytest.skip(f"network namespaces are not permitted here: {error}")
    yield made
    made.remove()


def test_pods_meet_by_the_service(kubectl: Path, pods: Network, tmp_path: Path) -> None:
    server = Server.of(rendered(kubectl, MANIFESTS / "base"))
    service = f"{server.env['NETLOADER_MESH_KUBERNETES_SERVICE']}.{NAMESPACE}.svc"
    key, hosts = tmp_path / "mesh.key", tmp_path / "hosts"
    key.write_text(generate_key())
    hosts.write_text("".join(f"{pods.address(number)} {service}\n" for number in (1, 2)))

    running = []
    for number in (1, 2):
        ours = {
            name: value.replace(POD_IP, pods.address(number)) for name, value in server.env.items()
        }
        ours |= {
            "NETLOADER_MESH_KEY_FILE": str(key),
            "NETLOADER_MESH_DIRECTORY": str(tmp_path / f"pod-{number}"),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PATH": os.environ["PATH"],
        }
        command = [*pods.inside(number), "unshare", "--mount", "sh", "-c", IN_POD, "sh", str(hosts)]
        command += [sys.executable, "-m", "tests.docs.deploy.member", "2"]
        running.append(
            subprocess.Popen([*command, str(tmp_path / f"seen-{number}")], cwd=ROOT, env=ours)
        )
    try:
        assert [process.wait(HANG_S) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
            process.wait()

    port = MeshSettings.load({}, server.env, PROGRAM).well_known_ports[0]
    mesh, *members = (tmp_path / "seen-1").read_text().split()
    assert mesh == server.env["NETLOADER_MESH_NAME"]
    assert members == [f"{pods.address(number)}:{port}" for number in (1, 2)]
    assert (tmp_path / "seen-2").read_text().split() == [mesh, *members]
