import pytest

from netmesh.address import Address, numeric_address, parse_address
from netmesh.core.records import MemberId
from netmesh.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("node-1", "node-1", 7),
        ("node-1.example.:80", "node-1.example.", 80),
        ("10.0.0.1", "10.0.0.1", 7),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
        ("[fe80::1]", "fe80::1", 7),
        ("[FE80:0::1]:9", "fe80::1", 9),
        ("fe80::1", "fe80::1", 7),
        (" node ", "node", 7),
    ],
)
def test_what_operators_write(text: str, host: str, port: int) -> None:
    assert parse_address(text, 7) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a:0", "a:65536", "a:x", "a:", "[::1", "[::1]80", "[1.2.3.4]:5", "1.2.3",
     "1.2.3.256", "a b", "-a", "a_-", "ü", "a" * 64, "::1::2", "a:٣", "http://a",
     "tcp://1.2.3.4:5", "a:1;b"],
)  # fmt: skip
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="address"):
        parse_address(text, 7)


def test_text_form_is_a_member_id_that_parses_back() -> None:
    for address in (Address("10.0.0.1", 5), Address("::1", 6)):
        assert numeric_address(address.member_id()) == address


@pytest.mark.parametrize("text", ["host:5", "0.0.0.0:5", "[::]:5", "224.0.0.1:5", "1.2.3.4", ""])
def test_ids_nobody_should_connect_to(text: str) -> None:
    assert numeric_address(MemberId(text)) is None


def test_a_zone_must_be_an_interface_of_this_host() -> None:
    """Else the C library takes it for a name, and the mesh's thread waits for a resolver."""
    assert numeric_address(MemberId("[fe80::1%lo]:5")) is not None
    assert numeric_address(MemberId("[fe80::1%1]:5")) is not None
    for text in ("[fe80::1%nosuch0]:5", "[::1%lo]:5", "[fd00::1%1]:5", "[fe80::1%x.y]:5"):
        assert numeric_address(MemberId(text)) is None


def test_loopback() -> None:
    assert Address("127.3.2.1", 1).is_loopback
    assert Address("::1", 1).is_loopback
    assert Address("localhost", 1).is_loopback
    assert not Address("10.0.0.1", 1).is_loopback
    assert not Address("db", 1).is_loopback
