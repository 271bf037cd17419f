#!/usr/bin/env python3
"""Holds `rbuild run --rm IMAGE true` against the least that it could take, and against `crun run` of a bundle that is
ready: runs take turns, so what else the machine does hits all of them.

    cargo build --release && python3 cli/benches/minimum.py
    python3 cli/benches/minimum.py --rbuild PATH --runs 200 --json FILE

The least is `minimum.c`, which makes the same sandbox, network and directory by bare system calls. Root only, because
that program has no user namespace for others.

crun runs twice: with a bundle as `crun spec` makes it, and with what rbuild's container has besides: namespaces for
users and cgroups, the filter of system calls that Docker and podman use (podman's file), and an overlay for its root,
mounted and taken away again by `minimum -o`. Its network is `lo` alone in both.

Needs gcc, `busybox` (static), and for crun's rows `crun` and /usr/share/containers/seccomp.json. Prints the least
and the median of wall and CPU time (user and system of the whole process and what it started and waited for), in
milliseconds, and the ratios to the minimum.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from reach import Layout, busybox_tar, installed  # noqa: E402


STREAM = tempfile.TemporaryFile()


def run(command, env):
    """(wall, CPU) seconds."""
    # As root, crun gives its streams to the root of the container: /dev/null must not be one of them.
    streams = [(os.POSIX_SPAWN_DUP2, STREAM.fileno(), number) for number in range(3)]
    began = time.perf_counter()
    child = os.posix_spawn(command[0], command, env, file_actions=streams)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - began
    if status:
        raise SystemExit(f"{command}: status {os.waitstatus_to_exitcode(status)}")
    return wall, usage.ru_utime + usage.ru_stime


PODMANS_FILTER = Path("/usr/share/containers/seccomp.json")


def like_ours(spec):
    """A bundle's config with what rbuild's container has besides."""
    spec = json.loads(json.dumps(spec))
    linux = spec["linux"]
    have = {namespace["type"] for namespace in linux["namespaces"]}
    linux["namespaces"] += [{"type": kind} for kind in ("user", "cgroup") if kind not in have]
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 1 << 31, "size": (1 << 31) - 1}]
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/sys/fs/cgroup"]
    filter = json.loads(PODMANS_FILTER.read_text())
    rules = []
    for rule in filter["syscalls"]:
        only = rule.get("includes", {})
        if only.get("caps") or (only.get("arches") and "amd64" not in only["arches"]):
            continue
        rules.append({key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None})
    linux["seccomp"] = {"defaultAction": filter["defaultAction"], "defaultErrnoRet": filter.get("defaultErrnoRet", 1),
                        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": rules}
    return spec


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rbuild", default="target/release/rbuild")
    words.add_argument("--runs", type=int, default=200)
    words.add_argument("--json")
    args = words.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("SKIPPED: only root is measured here")
    hybrid = Path("/sys/fs/cgroup/unified")
    if hybrid.is_mount():
        # crun refuses to run where both versions of cgroups are mounted: all of this happens where only one is.
        again = [sys.executable, *sys.argv]
        os.execvp("unshare", ["unshare", "--mount", "sh", "-c", f"umount {hybrid} && exec \"$@\"", "sh", *again])
    with tempfile.TemporaryDirectory(prefix="minimum-", dir="/var/tmp") as name:
        at = Path(name)
        rbuild = str(installed(args.rbuild, at))
        env = {**os.environ, "RBUILD_ROOT": str(at / "store")}
        tar = busybox_tar()
        Layout(at / "base").write(tar)
        (at / "context").mkdir()
        (at / "context/Dockerfile").write_text("FROM base\n")
        subprocess.run([rbuild, "build", "-q", "--build-context", f"base=oci-layout://{at}/base:latest", "-t", "base",
                        at / "context"], env=env, check=True, stdout=subprocess.DEVNULL)
        [lower] = (at / "store/snapshots").glob("*/fs")

        points = at / "points"
        for directory in ("proc", "sys", "dev", "etc", "tmp"):
            (points / directory).mkdir(parents=True)
        for file in ("resolv.conf", "hosts", "hostname"):
            (points / "etc" / file).touch()
        subprocess.run(["gcc", "-O2", "-static", "-o", at / "minimum", Path(__file__).with_name("minimum.c"), "-lpthread"],
                       check=True)
        commands = {
            "minimum": [str(at / "minimum"), str(lower), str(points), str(at / "container"), "/bin/true"],
            "rbuild run": [rbuild, "run", "--rm", "base", "true"],
        }
        crun = shutil.which("crun")
        if crun:
            bundle = at / "bundle"
            (bundle / "rootfs").mkdir(parents=True)
            subprocess.run([crun, "spec"], cwd=bundle, check=True)
            with open(at / "base.tar", "wb") as file:
                file.write(tar)
            with tarfile.open(at / "base.tar") as archive:
                archive.extractall(bundle / "rootfs", filter="fully_trusted")
            spec = json.loads((bundle / "config.json").read_text())
            spec["process"].update(args=["/bin/true"], terminal=False)
            spec["process"].pop("rlimits", None)
            (bundle / "config.json").write_text(json.dumps(spec))
            commands["crun run"] = [crun, "run", "--bundle", str(bundle), "minimum-bench"]
            if PODMANS_FILTER.exists():
                like = at / "bundle-like-ours"
                (like / "rootfs").mkdir(parents=True)
                (like / "config.json").write_text(json.dumps(like_ours(spec)))
                commands["crun run, the same isolation"] = [
                    str(at / "minimum"), "-o", str(like / "rootfs"), str(lower), str(points), str(at / "of-crun"),
                    crun, "run", "--bundle", str(like), "minimum-bench"]
            else:
                print(f"SKIPPED crun with the same isolation: there is no {PODMANS_FILTER}")
        else:
            print("SKIPPED crun: it is not installed")

        times = {name: [] for name in commands}
        for command in commands.values():
            run(command, env)
        for _ in range(args.runs):
            for name, command in commands.items():
                times[name].append(run(command, env))

    rows = {}
    for name, pairs in times.items():
        wall, cpu = sorted(it[0] for it in pairs), sorted(it[1] for it in pairs)
        rows[name] = {"wall least": wall[0], "wall median": wall[len(wall) // 2],
                      "CPU least": cpu[0], "CPU median": cpu[len(cpu) // 2]}
    least = rows["minimum"]
    print("| | " + " | ".join(least) + " |\n|---|" + "---|" * len(least))
    for name, row in rows.items():
        cells = (f"{value * 1e3:.2f} ({value / least[column]:.2f}×)" for column, value in row.items())
        print(f"| {name} | " + " | ".join(cells) + " |")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
