"""`python -m phalanx.chaos.balloon BYTES`: take memory, touch it again and again, give it back when stdin ends."""

import contextlib
import mmap
import select
import sys

BLOCK = 2**20
PAUSE = 1.0
"""Seconds between two rounds over it."""


def main() -> None:
    # Where memory runs out after all, this is what the kernel is to end.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    blocks = max(1, int(sys.argv[1]) // BLOCK)
    content = b"\1" * BLOCK
    with mmap.mmap(-1, blocks * BLOCK) as memory:
        while True:
            for block in range(blocks):
                memory[block * BLOCK : (block + 1) * BLOCK] = content
                if _ended(0):
                    return
            if _ended(PAUSE):
                return


def _ended(within: float) -> bool:
    return bool(select.select([sys.stdin], [], [], within)[0])


if __name__ == "__main__":
    main()
