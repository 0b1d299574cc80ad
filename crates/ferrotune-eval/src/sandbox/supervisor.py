"""Runs one untrusted Python program and says how it ended.

Reads one JSON request from standard input, writes one JSON answer to standard output. Three processes:

- the launcher makes the namespaces and waits, unless bubblewrap has made them already;
- the supervisor is process 1 in there, so that nothing inside can kill it, and all that is left inside dies with it;
- the worker is its only child. It gives up every right, then runs the program.

Only the worker runs code that is not trusted. What it says about itself is believed if it carries the request's nonce,
which only code that got to the end of the program, or that searched this file's frames for it, can know.
"""

import sys

# With -c the current folder is on the path, and nothing may be imported from there.
sys.path[:] = [folder for folder in sys.path if folder]

import ctypes  # noqa: E402
import errno  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import select  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402

LIBC = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522

# A program chooses the text of its exceptions.
MESSAGE_CHARACTERS = 1000

# What the worker says once it has no rights left: an error before it is ours, everything after it the program's.
READY = b"ready\n"

# How long that may take on a machine that is busy with other things.
READY_SECONDS = 30


def call(name, *arguments):
    """A function of libc that returns 0, or an exception that names it."""
    if getattr(LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def prctl(option, value, pointer=None):
    call("prctl", ctypes.c_int(option), ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0))


def mount(source, target, kind, flags, data=None):
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    call("mount", encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])


# --- The launcher -----------------------------------------------------------------------------------------------------


def enter_namespaces(view, numbers):
    """Makes new namespaces and returns in their first process; the launcher itself waits for it and never returns."""
    user, group = os.getuid(), os.getgid()
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET
    flags |= CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
    call("unshare", ctypes.c_int(flags))
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    alive, lives = os.pipe()
    child = os.fork()
    if child != 0:
        os.closerange(0, 2)
        os.waitpid(child, 0)
        os._exit(0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.close(lives)
    if select.select([alive], [], [], 0)[0]:
        os._exit(1)  # The launcher died before the signal was asked for.
    os.close(alive)
    build_root(view, numbers)


def build_root(view, numbers):
    """Replaces the root folder by an empty one that shows what the view names, read-only, and a private `/tmp`."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755")
    os.mkdir("/tmp/old")
    pivot_root = ctypes.c_long(numbers["pivot_root"])
    call("syscall", pivot_root, b"/tmp", b"/tmp/old")
    os.chdir("/")
    for path in view["folders"] + view["files"] + view["devices"]:
        if path in view["folders"]:
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "w").close()
        mount("/old" + path, path, None, MS_BIND | MS_REC)
        attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID
        if path not in view["devices"]:
            attributes |= MOUNT_ATTR_NODEV
        set_mount_attributes(path, attributes)
    for path, target in view["links"]:
        os.symlink(target, path)
    os.makedirs(view["temporary"], exist_ok=True)
    size = f"size={view['temporary_bytes']},nr_inodes={view['temporary_files']},mode=0700"
    mount("tmpfs", view["temporary"], "tmpfs", MS_NOSUID | MS_NODEV, size)
    call("umount2", b"/old", ctypes.c_int(MNT_DETACH))
    os.rmdir("/old")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def set_mount_attributes(path, attributes):
    """Sets attributes of a mount and of all below it, which a remount would not reach."""
    structure = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    number, length = ctypes.c_long(SYS_MOUNT_SETATTR), ctypes.c_size_t(ctypes.sizeof(structure))
    call("syscall", number, ctypes.c_int(AT_FDCWD), os.fsencode(path), ctypes.c_uint(AT_RECURSIVE), structure, length)


# --- The worker -------------------------------------------------------------------------------------------------------


def give_up_rights(request):
    """No capabilities, none to be gained, bounded resources, and no system call that the filter refuses."""
    limits = request["limits"]
    for name, value in (
        ("RLIMIT_AS", limits["memory_bytes"]),
        ("RLIMIT_CPU", limits["cpu_seconds"]),
        ("RLIMIT_FSIZE", limits["file_bytes"]),
        ("RLIMIT_NOFILE", limits["open_files"]),
        ("RLIMIT_NPROC", limits["tasks"]),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_MSGQUEUE", 0),
        ("RLIMIT_MEMLOCK", 0),
    ):
        resource.setrlimit(getattr(resource, name), (value, value))
    drop_capabilities()
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    program = bytes.fromhex(request["filter"])
    if program:
        code = ctypes.create_string_buffer(program, len(program))

        class Filter(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

        structure = Filter(len(program) // 8, ctypes.addressof(code))
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(structure))


def drop_capabilities():
    header, none = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    call("capset", header, none)


def work(request, report, output):
    """Runs the program as `exec` would in an empty module, and reports how that ended."""
    # A group of its own: signals to one's own group reach over the walls of a namespace.
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # The report is the only other descriptor that the program finds open.
    os.dup2(report, 3)
    os.closerange(4, 1 << 20)
    os.chdir(request["view"]["temporary"])
    os.environ.clear()
    give_up_rights(request)
    # Bound before the program runs, so that a program that replaces parts of `os` cannot keep its end from being told.
    tell, leave, encode = os.write, os._exit, json.dumps
    flushes = (sys.stdout.flush, sys.stderr.flush)
    program, nonce = request["program"], request["nonce"]
    tell(3, READY)
    try:
        try:
            exec(compile(program, "<program>", "exec"), {})
            answer = {"nonce": nonce, "ending": "finished"}
        except BaseException as error:
            answer = {"nonce": nonce, "ending": "raised", "exception": type(error).__name__}
            answer["errno"] = error.errno if isinstance(error, OSError) else None
            answer["message"] = str(error)[:MESSAGE_CHARACTERS]
        for flush in flushes:
            try:
                flush()
            except BaseException:
                pass  # A program may close what it writes to.
        tell(3, encode(answer).encode())
    finally:
        leave(0)


# --- The supervisor ---------------------------------------------------------------------------------------------------


def supervise(request):
    # Not to be traced or read by the worker, which has the same user.
    prctl(PR_SET_DUMPABLE, 0)
    # Process 1 is deaf to every signal that it has no handler for, and Python brings one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reports, report = os.pipe()
    outputs, output = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reports)
            os.close(outputs)
            work(request, report, output)
        except BaseException as error:
            os.write(report, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    os.close(report)
    os.close(output)
    drop_capabilities()
    said, kept, timed_out = listen(reports, outputs, request["limits"])
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not said.startswith(READY):
        answer = {"ending": "unready", "message": said.decode("utf-8", "replace")}
    elif timed_out:
        answer = {"ending": "timed out"}
    elif os.WIFEXITED(status):
        answer = {"ending": "quit", "exit": os.WEXITSTATUS(status)}
    else:
        answer = {"ending": "killed", "signal": os.WTERMSIG(status)}
    claim = claimed(said[len(READY) :], request["nonce"])
    if claim is not None:
        answer = claim
    answer["output"] = kept.decode("utf-8", "replace")
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    # What else is alive in here dies with process 1.
    os._exit(0)


def claimed(said, nonce):
    """How the worker says that it ended, or None if it said nothing, or something that is not by this file."""
    try:
        claim = json.loads(said.decode())
        if claim["nonce"] != nonce or claim["ending"] not in ("finished", "raised"):
            return None
        answer = {"ending": claim["ending"]}
        if claim["ending"] == "raised":
            answer["errno"] = claim["errno"] if claim["errno"] in errno.errorcode else None
            for field in ("exception", "message"):
                # Halves of surrogate pairs are strings in Python and nowhere else.
                answer[field] = claim[field][:MESSAGE_CHARACTERS].encode("utf-8", "replace").decode()
        return answer
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def listen(reports, outputs, limits):
    """Reads until the worker has ended or its time is over; keeps the first bytes of the output, drops the rest.

    Returns what it said and wrote, and whether its time was over. The time begins when the worker is ready, so that a
    busy machine does not count against the program.
    """
    deadline = time.monotonic() + READY_SECONDS
    said, kept = bytearray(), bytearray()
    waiting = [reports, outputs]
    timed_out = False
    while reports in waiting and not timed_out:
        ready = select.select(waiting, [], [], max(0, deadline - time.monotonic()))[0]
        if outputs in ready and not keep(outputs, kept, limits):
            waiting.remove(outputs)
        if reports in ready:
            data = os.read(reports, 1 << 16)
            if not data:
                waiting.remove(reports)
            elif not said:
                deadline = time.monotonic() + limits["wall_seconds"]
            if len(said) < 1 << 16:
                said += data
        timed_out = time.monotonic() >= deadline
    # What the worker wrote last stands in the pipe; a program that goes on writing does not end this.
    while outputs in waiting and len(kept) < limits["output_bytes"] and select.select([outputs], [], [], 0)[0]:
        if not keep(outputs, kept, limits):
            break
    return said, kept, timed_out and reports in waiting


def keep(outputs, kept, limits):
    """Reads once; returns whether there can be more."""
    data = os.read(outputs, 1 << 16)
    kept += data[: limits["output_bytes"] - len(kept)]
    return bool(data)


def main():
    # Before the request is read: if whoever asks is gone by now, there is no request.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.closerange(3, 1 << 20)
    request = json.loads(sys.stdin.buffer.read())
    if request["make_namespaces"]:
        enter_namespaces(request["view"], request["numbers"])
    os.environ.clear()
    supervise(request)


main()
