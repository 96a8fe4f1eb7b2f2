"""A port thief: takes every TCP port of the ephemeral range that becomes free, as fast as it can.

It holds most of the range on every address and goes round the rest for ever, so a port that anybody probes and closes
is gone before it can be bound again. It lets random ports go as it takes others, so that there is always something to
take and the machine's other programs still find a port. Ends with its standard input. Prints `holding N ports` once
it is at work, and at the end how many it has taken.

    python benchmarks/port_grabber.py
"""

import errno
import random
import resource
import select
import socket
import sys
from pathlib import Path

SHARE_HELD = 0.8


def main() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = min(int((high - low) * SHARE_HELD), hard - 64)
    held: dict[int, socket.socket] = {}
    taken = 0
    announced = False
    while not select.select([sys.stdin], [], [], 0)[0]:
        for port in random.sample(range(low, high + 1), 512):
            if port in held:
                continue
            sock = socket.socket()
            try:
                sock.bind(("0.0.0.0", port))
                sock.listen(1)
            except OSError as error:
                sock.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            held[port] = sock
            taken += 1
            if len(held) > most:
                _let_go(held, 64)
        if not announced and len(held) >= most // 2:
            announced = True
            print(f"holding {len(held)} ports", flush=True)
    print(f"took {taken} ports", flush=True)


def _let_go(held: dict[int, socket.socket], count: int) -> None:
    for port in random.sample(list(held), count):
        held.pop(port).close()


if __name__ == "__main__":
    main()
