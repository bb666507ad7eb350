"""Variables that look like settings and are none."""

from __future__ import annotations

import pytest

from netloader.config.variables import told


def lines(**environ: str) -> list[str]:
    return list(told(environ, ("NETLOADER_OF_OURS",)))


def test_what_is_read_is_no_news() -> None:
    assert lines(NETLOADER_MESH_PORT="5000", NETLOADER_PEER_BUDGET="9", NETLOADER_OF_OURS="1") == []


def test_what_has_another_prefix_is_nobody_s_business() -> None:
    assert lines(MESH_PORT_5555_TCP="tcp://10.0.0.1:5555", MESH_SEDS="x", VLLM_PORT="1") == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NETLOADER_MESH_SEDS", "did you mean NETLOADER_MESH_SEEDS?"),
        ("NETLOADER_mesh_seeds", "there is no such setting"),
        ("NETLOADER_TIMEOUT", "did you mean NETLOADER_"),
        ("NETLOADER_LISTEN_PORT", "LISTEN_PORT is set in --model-loader-extra-config"),
        ("NETLOADER_MODEL", "MODEL is set in --model-loader-extra-config"),
    ],
)
def test_a_variable_that_nothing_reads_is_named_without_its_value(name: str, words: str) -> None:
    (line,) = lines(**{name: "s3cret"})
    assert line.startswith(f"{name} is ignored: ")
    assert words in line and "s3cret" not in line


def test_of_a_service_of_kubernetes_only_a_setting_s_name_is_news() -> None:
    url = "tcp://10.96.0.1:17946"
    (line,) = lines(
        NETLOADER_PORT=url,
        NETLOADER_SERVICE_HOST="10.96.0.1",
        NETLOADER_SERVICE_PORT_HTTP="80",
        NETLOADER_MESH_PORT=url,
        NETLOADER_MESH_SERVICE_HOST="10.96.0.1",
        NETLOADER_MESH_SERVICE_PORT="17946",
        NETLOADER_MESH_PORT_17946_TCP=url,
        NETLOADER_MESH_PORT_17946_TCP_ADDR="10.96.0.1",
        NETLOADER_MESH_PORT_17946_TCP_PROTO="tcp",
    )
    assert line.startswith(f"NETLOADER_MESH_PORT={url} is ignored: Kubernetes wrote it")
    assert "put MESH_PORT into --model-loader-extra-config" in line
