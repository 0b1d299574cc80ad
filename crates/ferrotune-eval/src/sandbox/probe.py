# Tries to get out of the sandbox that it runs in, and prints what it managed as JSON. PARAMETERS stands above.

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import sys
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, PTRACE_TRACEME, PR_GET_NO_NEW_PRIVS, CAPABILITY_VERSION_3 = 0x10000000, 0, 39, 0x20080522


def refusal(attempt):
    """The name of the error that an attempt ends with, or None if it succeeds."""
    try:
        attempt()
    except MemoryError:
        return "ENOMEM"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    except (RuntimeError, ValueError) as error:
        return type(error).__name__
    return None


def raw(name, *arguments):
    def attempt():
        if getattr(LIBC, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)

    return attempt


def write(folder, size=1):
    path = os.path.join(folder, "written-from-inside")
    try:
        with open(path, "wb") as file:
            file.write(bytes(size))
    finally:
        if os.path.exists(path):
            os.remove(path)


def connect():
    socket.create_connection(("127.0.0.1", PARAMETERS["port"]), timeout=1).close()


def capabilities():
    header, data = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    raw("capget", header, data)()
    return any(data)


def children(at_most):
    """How many processes can be alive at once, up to a number."""
    alive = []
    try:
        while len(alive) < at_most:
            child = os.fork()
            if child == 0:
                signal.pause()
            alive.append(child)
    except OSError:
        pass
    for child in alive:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(alive)


def is_open(descriptor):
    return refusal(lambda: os.fstat(descriptor)) is None


def run_thread():
    thread = threading.Thread(target=time.monotonic)
    thread.start()
    thread.join()


found = {
    "writable": [folder for folder in PARAMETERS["folders"] if refusal(lambda: write(folder)) is None],
    "temporary": refusal(lambda: write(".")),
    "overfull": refusal(lambda: write(".", PARAMETERS["file_bytes"] + 1)),
    "visible": [path for path in PARAMETERS["hidden"] if os.path.exists(path)],
    "connect": refusal(connect),
    "outside_process": refusal(lambda: os.kill(PARAMETERS["process"], 0)),
    "parent": os.getppid(),
    "user": os.getuid(),
    "capabilities": capabilities(),
    "no_new_privileges": LIBC.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1,
    "memory": refusal(lambda: bytearray(PARAMETERS["memory_bytes"])),
    "raise_limit": refusal(lambda: resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)),
    "environment": sorted(os.environ),
    "descriptors": [d for d in range(4, 1024) if is_open(d)],
    "thread": refusal(run_thread),
    "children": children(PARAMETERS["tasks"] + 8),
}
if PARAMETERS["filtered"]:
    found["socket"] = refusal(lambda: socket.socket().close())
    found["new_namespace"] = refusal(raw("unshare", CLONE_NEWUSER))
    found["trace"] = refusal(raw("ptrace", PTRACE_TRACEME, 0, None, None))
    found["execute"] = refusal(lambda: os.execv(sys.executable, ["python3", "-c", ""]))
print(json.dumps(found))
