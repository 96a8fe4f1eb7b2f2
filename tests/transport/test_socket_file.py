"""A socket file under a name of a person's choice: who had it before, who may connect, and who takes it away."""

import os
import socket
import stat
from pathlib import Path

import pytest

from phalanx.transport.listener import AddressInUse
from phalanx.transport.socket_file import SocketFile


def connected(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_it_listens_with_the_permissions_that_were_asked_for_until_its_name_goes(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "phalanx.sock"
    file = SocketFile(path, mode)
    with file.sock:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert connected(path)
        shared = file.for_api_servers(3)
        assert [os.path.sameopenfile(sock.fileno(), file.sock.fileno()) for (sock,) in shared] == [True] * 3
        for (sock,) in shared:
            sock.close()
        file.remove()
        assert not path.exists()
        file.remove()


def test_what_a_dead_service_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "phalanx.sock"
    SocketFile(path, 0o600).sock.close()
    assert path.exists()
    with SocketFile(path, 0o600).sock:
        assert connected(path)


def test_a_name_that_somebody_listens_at_is_not_taken_even_where_nobody_accepts(tmp_path: Path) -> None:
    path = tmp_path / "phalanx.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(str(path))
        with pytest.raises(AddressInUse, match=f"{path} is in use: another process listens there"):
            SocketFile(path, 0o600)
        for client in waiting:
            client.close()
    assert path.exists()


def test_nothing_but_a_socket_is_ever_replaced(tmp_path: Path) -> None:
    text, folder, link = tmp_path / "text", tmp_path / "folder", tmp_path / "link"
    text.write_text("mine")
    folder.mkdir()
    SocketFile(tmp_path / "dead", 0o600).sock.close()
    link.symlink_to(tmp_path / "dead")
    for path in (text, folder, link):
        with pytest.raises(AddressInUse, match=f"{path} is there already, and is no socket"):
            SocketFile(path, 0o600)
    assert text.read_text() == "mine"
    assert (tmp_path / "dead").exists()


def test_a_name_that_another_has_by_now_stays_the_others(tmp_path: Path) -> None:
    path = tmp_path / "phalanx.sock"
    first = SocketFile(path, 0o600)
    first.sock.close()
    second = SocketFile(path, 0o600)
    with second.sock:
        first.remove()
        assert connected(path)


def test_where_no_socket_can_be_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot listen on .*nowhere/a: No such file or directory"):
        SocketFile(tmp_path / "nowhere" / "a", 0o600)
    with pytest.raises(OSError, match="is longer than the 107 bytes of a socket's path"):
        SocketFile(tmp_path / ("a" * 120), 0o600)
