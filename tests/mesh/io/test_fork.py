import os
import socket

from netmesh.io.fork import drop_inherited


def test_a_child_gives_up_what_listens_on_the_port_and_nothing_else() -> None:
    reader, writer = os.pipe()
    with (
        socket.create_server(("127.0.0.1", 0)) as ours,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(ours.getsockname()) as client,
        ours.accept()[0] as accepted,
    ):
        child = os.fork()
        if child == 0:
            dropped = drop_inherited({ours.getsockname()[1]})
            left = [
                os.fstat(one.fileno()).st_rdev == os.stat(os.devnull).st_rdev  # noqa: PTH116
                for one in (ours, accepted, other, client)
            ]
            os.write(writer, repr((dropped, left)).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 99) == repr((2, [True, True, False, False])).encode()
        client.sendall(b"x")
        assert accepted.recv(9) == b"x"  # the parent's are untouched
    os.close(reader)
    os.close(writer)
