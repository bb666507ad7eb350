import resource
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from netmesh.address import Address
from netmesh.bootstrap.resolve import MAX_TEXT, Resolver
from netmesh.errors import SettingsError
from netmesh.seeds import DnsSeed, ExecSeed, FileSeed, HostSeed, SrvSeed, parse_seed

from ..support import until

HOSTS = {"one": ["10.0.0.1"], "many": ["10.0.0.1", "10.0.0.2"]}


def lookup(address: Address) -> list[Address]:
    if address.ip is not None:
        return [address]
    if address.host not in HOSTS:
        raise socket.gaierror(f"unknown {address.host}")
    return [Address(host, address.port) for host in HOSTS[address.host]]


RESOLVER = Resolver(lookup)


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        ("node", HostSeed(Address("node", 7))),
        ("[::1]:9", HostSeed(Address("::1", 9))),
        ("dns://svc.ns:9", DnsSeed(Address("svc.ns", 9))),
        ("file:/etc/seeds", FileSeed(Path("/etc/seeds"))),
        ("exec:list-nodes --up 'a b'", ExecSeed(("list-nodes", "--up", "a b"))),
    ],
)
def test_every_form(text: str, seed: object) -> None:
    assert parse_seed(text, 7) == seed


@pytest.mark.parametrize(
    "text", ["", "ftp://a", "dns://", "dns://a b", "file:", "exec:", "exec:'a", "dns+srv://"]
)
def test_bad_seeds_are_named(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_seed(text, 7)


def test_srv_without_dnspython_says_what_to_install() -> None:
    with pytest.raises(SettingsError, match="pip install dnspython"):
        parse_seed("dns+srv://_mesh._tcp.example", 7, lambda _: None)


def test_srv_records_give_ports() -> None:
    resolver = Resolver(lookup, srv=lambda _: [Address("many", 5), Address("x", 1)])
    found = resolver.resolve(SrvSeed("_mesh._tcp.example"), 7)
    assert found == [Address("10.0.0.1", 5), Address("10.0.0.2", 5)]


def test_srv_answers_in_the_order_of_their_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = pytest.importorskip("dns.resolver", reason="dnspython is not installed")
    records = [
        SimpleNamespace(priority=priority, target=f"{name}.", port=port)
        for priority, name, port in ((20, "many", 6), (10, "one", 5))
    ]
    monkeypatch.setattr(resolver, "resolve", lambda *_, **__: records)
    found = RESOLVER.resolve(SrvSeed("_mesh._tcp.example"), 7)
    assert found == [Address("10.0.0.1", 5), Address("10.0.0.1", 6), Address("10.0.0.2", 6)]

    def fails(*_: object, **__: object) -> None:
        raise resolver.NXDOMAIN

    monkeypatch.setattr(resolver, "resolve", fails)
    with pytest.raises(OSError, match="_mesh"):
        RESOLVER.resolve(SrvSeed("_mesh._tcp.example"), 7)


def test_dns_gives_every_address() -> None:
    assert RESOLVER.resolve(DnsSeed(Address("many", 9)), 7) == [
        Address("10.0.0.1", 9),
        Address("10.0.0.2", 9),
    ]


def test_an_unknown_name_is_an_error_to_try_again() -> None:
    with pytest.raises(OSError, match="unknown"):
        RESOLVER.resolve(HostSeed(Address("nowhere", 9)), 7)


def test_file_is_read_again_every_time(tmp_path: Path) -> None:
    path = tmp_path / "seeds"
    path.write_text("# ours\none:5\n\n  [::1]  # local\n")
    assert RESOLVER.resolve(FileSeed(path), 7) == [Address("10.0.0.1", 5), Address("::1", 7)]
    path.write_text("one")
    assert RESOLVER.resolve(FileSeed(path), 7) == [Address("10.0.0.1", 7)]
    path.unlink()
    with pytest.raises(OSError):
        RESOLVER.resolve(FileSeed(path), 7)


def test_one_bad_name_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "seeds"
    path.write_text("nowhere\none\n")
    assert RESOLVER.resolve(FileSeed(path), 7) == [Address("10.0.0.1", 7)]


def test_a_file_of_something_else_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "seeds"
    path.write_bytes(b"\xff\xfe\x00 what is this?\n")
    with pytest.raises(SettingsError):
        RESOLVER.resolve(FileSeed(path), 7)


def test_command_prints_addresses() -> None:
    seed = ExecSeed((sys.executable, "-c", "print('one:5'); print('10.9.9.9')"))
    assert RESOLVER.resolve(seed, 7) == [Address("10.0.0.1", 5), Address("10.9.9.9", 7)]


def test_command_that_fails_hangs_or_is_missing() -> None:
    with pytest.raises(OSError, match="ended with 3"):
        RESOLVER.resolve(ExecSeed((sys.executable, "-c", "raise SystemExit(3)")), 7)
    with pytest.raises(OSError):
        RESOLVER.resolve(ExecSeed(("/does/not/exist",)), 7)
    impatient = Resolver(lookup, exec_timeout_s=0.05)
    with pytest.raises(OSError, match=r"took over 0\.05 s"):
        impatient.resolve(ExecSeed((sys.executable, "-c", "import time; time.sleep(60)")), 7)


def ended(pid: int) -> bool:
    """Whether a process is gone, or only its exit status is left."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_command_that_prints_without_end_is_cut_at_once() -> None:
    endless = "import os\nwhile True: os.write(1, b'10.9.9.9\\n' * 4096)"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Resolver(lookup, exec_timeout_s=60).resolve(
        ExecSeed((sys.executable, "-c", endless)), 7
    )
    assert set(found) == {Address("10.9.9.9", 7)}  # the last line was not torn
    assert len(found) <= MAX_TEXT // len("10.9.9.9\n")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024  # KiB


@pytest.mark.parametrize("ending", ["", "exit 3", "sleep 60"])
def test_what_a_command_has_started_ends_with_it(tmp_path: Path, ending: str) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 60 >/dev/null & echo $! > {pid}; echo 10.9.9.9; {ending}"
    with suppress(OSError):
        Resolver(lookup, exec_timeout_s=2).resolve(ExecSeed(("sh", "-c", script)), 7)
    until(lambda: ended(int(pid.read_text())))


def test_a_child_that_keeps_the_output_open_does_not_hold_the_answer_up() -> None:
    seed = ExecSeed(("sh", "-c", "sleep 60 & echo 10.9.9.9"))
    with pytest.raises(OSError, match=r"took over 0\.5 s"):
        Resolver(lookup, exec_timeout_s=0.5).resolve(seed, 7)
