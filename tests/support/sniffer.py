"""Prints every packet that crosses a cable, as it is; needs root. Ends with its standard input."""

import socket
import sys

ALL = 3
"""ETH_P_ALL"""


def main(device: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL)) as wire:
        wire.setsockopt(socket.SOL_SOCKET, 33, 64 * 2**20)  # SO_RCVBUFFORCE: none may be lost
        wire.bind((device, 0))
        sys.stdout.buffer.write(b"listening")
        sys.stdout.buffer.flush()
        while True:
            sys.stdout.buffer.write(wire.recv(1 << 17))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
