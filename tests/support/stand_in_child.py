"""A child that does what DEED in its environment says."""

import json
import os
import signal
import socket
import subprocess
import sys
import time


def inherited():
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    descriptors = range(3, 3 + int(os.environ.get("LISTEN_FDS", "0")))
    return {
        name: socket.socket(fileno=fd).getsockname()[:2] for name, fd in zip(names, descriptors, strict=False) if name
    }


match os.environ["DEED"]:
    case "tell":
        print(json.dumps({"arguments": sys.argv[1:], "environment": dict(os.environ), "sockets": inherited()}))
    case "print":
        os.write(1, b"one\nto stderr: \xff\xfe, no end")
        sys.exit(3)
    case "grandchild":
        subprocess.Popen(["sleep", "1000"])
        print("started one", flush=True)
        time.sleep(1000)
    case "hang":
        print("hanging", flush=True)
        time.sleep(1000)
    case "flood":
        for _ in range(4096):
            os.write(1, b" " * 4095 + b"\n")  # The node prints no empty line itself.
    case "die":
        os.kill(os.getpid(), signal.SIGSEGV)
