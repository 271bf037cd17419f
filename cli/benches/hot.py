#!/usr/bin/env python3
"""Finds the functions that short commands go through, for the linker to lay together (`cli/hot.txt`, `cli/build.rs`).

    cargo rustc --release -p rbuild-cli --bin rbuild -- -C strip=none
    python3 cli/benches/hot.py --rbuild target/release/rbuild

A breakpoint is set at the beginning of every function and taken away where it is met, in each process that the command
starts, so that the commands run almost at their own pace. x86-64 only, as root or not; needs `nm`, `cc`, `busybox`
(static). Writes `cli/hot.txt`: for each command the functions that none before it has met, in the order of their
meeting, by their names in the object files, mostly without the hashes of compiler and crates. To be made anew when much of the
hot paths has changed: a name that is gone does no harm, a function that is not named lies further away.
"""
from __future__ import annotations

import argparse
import collections
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from reach import Layout, busybox_tar, put  # noqa: E402

HERE = Path(__file__).resolve().parent
WALL = 0x40000000
TRACEME, CONT, DETACH, PEEKUSER, POKEUSER, SETOPTIONS = 0, 7, 17, 3, 6, 0x4200
FORK, VFORK, CLONE, EXEC = 1, 2, 3, 4
OPTIONS = 1 << FORK | 1 << VFORK | 1 << CLONE | 1 << EXEC | 1 << 20
RIP = 16 * 8

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
libc.ptrace.restype = ctypes.c_long


def ptrace(request, process, address=0, data=0):
    return libc.ptrace(request, process, address, data)


def functions(binary):
    """{address: (size, names)} of what has a section of its own: not the C library's and the compiler's. Functions that
    are the same are one, with the section of any."""
    foreign = set()
    for archive in ("libc.a", "libm.a", "libgcc.a", "libgcc_eh.a"):
        path = subprocess.run(["cc", f"-print-file-name={archive}"], stdout=subprocess.PIPE, text=True).stdout.strip()
        listed = subprocess.run(["nm", "--defined-only", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        foreign.update(line.split()[-1] for line in listed.stdout.splitlines() if " " in line)
    found = {}
    for line in subprocess.run(["nm", "-S", binary], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
        words = line.split()
        if len(words) == 4 and words[2] in "tTwW" and words[3] not in foreign:
            found.setdefault(int(words[0], 16), (int(words[1], 16), []))[1].append(words[3])
    return found


class Trace:
    """One command and all that it starts."""

    def __init__(self, binary, found):
        self.binary, self.found = binary, found
        self.first = min(found)
        self.met = []

    def memory(self, process):
        return os.open(f"/proc/{process}/mem", os.O_RDWR)

    def plant(self, process):
        memory = self.memory(process)
        self.code = bytearray(os.pread(memory, max(self.found) + 1 - self.first, self.first))
        mined = bytearray(self.code)
        for address in self.found:
            mined[address - self.first] = 0xCC
        os.pwrite(memory, mined, self.first)
        os.close(memory)

    def lift(self, process):
        """Takes away the breakpoint that a process stands behind. Returns whether it does."""
        address = ptrace(PEEKUSER, process, RIP) - 1
        if address not in self.found:
            return False
        memory = self.memory(process)
        os.pwrite(memory, self.code[address - self.first:address - self.first + 1], address)
        os.close(memory)
        ptrace(POKEUSER, process, RIP, address)
        self.met.append(address)
        return True

    def run(self, command, env):
        main = os.fork()
        if main == 0:
            ptrace(TRACEME, 0)
            null = os.open("/dev/null", os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            os.execve(command[0], [str(word) for word in command], env)
        os.waitpid(main, 0)
        ptrace(SETOPTIONS, main, 0, OPTIONS)
        self.plant(main)
        ptrace(CONT, main)
        while True:
            process, status = os.waitpid(-1, WALL)
            if not os.WIFSTOPPED(status):
                if process == main:
                    return status
                continue
            number, event, deliver = os.WSTOPSIG(status), status >> 16, 0
            if event == EXEC and not os.path.samefile(f"/proc/{process}/exe", self.binary):
                ptrace(DETACH, process)
                continue
            if event == EXEC:
                self.plant(process)
            elif not event and number == signal.SIGTRAP:
                deliver = 0 if self.lift(process) else number
            elif not event and number != signal.SIGSTOP:
                deliver = number
            ptrace(CONT, process, 0, deliver)


def exact(name):
    """Without the hash of the module that it was put into."""
    return re.sub(r"\.llvm\.\d+$", "*", name)


def plain(name):
    """Without what differs from compiler to compiler: the hashes of an item, of its crate and of its module."""
    name = re.sub(r"17h[0-9a-f]{16}E\*?$", "17h*", exact(name))
    name = re.sub(r"Cs[0-9A-Za-z]+_(?=\d)", "Cs*_", name)
    return name if len(name) <= LONGEST else name[:LONGEST] + "*"


# Names of nested futures go on for a thousand characters and tell no more.
LONGEST = 200
# A name without its hash is shared by all the types that a generic function was made for. Where the met ones are less
# than this part of their bytes, the name would bring in more than it brings together, and each is named with its hash:
# by another compiler those are not found.
LEAST_PART = 0.5


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rbuild", required=True, help="a release build with its symbols; a profile that keeps them has other hashes")
    arguments.add_argument("--out", default=HERE.parent / "hot.txt")
    arguments = arguments.parse_args()
    binary = str(Path(arguments.rbuild).resolve())
    found = functions(binary)
    work = Path(tempfile.mkdtemp(prefix="rbuild-hot."))
    env = {"PATH": os.environ["PATH"], "HOME": str(work), "RBUILD_ROOT": str(work / "root")}
    Layout(work / "base").write(busybox_tar())
    lines = ["FROM base"]
    for i in range(8):
        put(work / f"context/f{i}", f"{i}\n")
        lines += [f"ENV V{i}=value", f"LABEL l{i}=value", f"WORKDIR /w/{i}", f"COPY f{i} f", "RUN true"]
    put(work / "context/Dockerfile", "\n".join(lines) + "\n")
    build = [binary, "build", "--build-context", f"base=oci-layout://{work}/base:latest", "-t", "hot", work / "context"]
    output = ["-o", f"type=oci,dest={work}/out.tar,compression=uncompressed"]
    commands = [("a cached build", build, True), ("its archive", build + output, True),
                ("a container", [binary, "run", "--rm", "hot", "true"], True),
                ("a build", build + ["--no-cache"] + output, False)]
    groups, seen, met = [], set(), set()
    try:
        for title, command, warm in commands:
            if warm:
                subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            trace = Trace(binary, found)
            if status := trace.run(command, env):
                raise SystemExit(f"{shlex.join(map(str, command))}: status {os.waitstatus_to_exitcode(status)}")
            groups.append((title, trace.met))
            met.update(trace.met)
            print(f"{title}: {len(set(trace.met))} functions, {sum(found[a][0] for a in set(trace.met))} bytes", file=sys.stderr)
    finally:
        shutil.rmtree(work)
    of_name, of_met = collections.Counter(), collections.Counter()
    for address, (size, names) in found.items():
        for name in set(map(plain, names)):
            of_name[name] += size
            of_met[name] += size if address in met else 0
    with open(arguments.out, "w") as out:
        out.write("# The functions that short commands go through, which the linker lays together: made by benches/hot.py.\n")
        for title, addresses in groups:
            out.write(f"# {title}\n")
            for full in (name for address in addresses for name in found[address][1]):
                name = plain(full)
                name = name if of_met[name] >= LEAST_PART * of_name[name] else exact(full)
                if name not in seen:
                    seen.add(name)
                    out.write(name + "\n")


if __name__ == "__main__":
    main()
