#!/usr/bin/env python3
"""Holds `rbuild run --rm IMAGE true` against the least that it could take, and against `crun run` of a bundle that is
ready: runs take turns, so what else the machine does hits all of them.

    cargo build --release && python3 cli/benches/minimum.py
    python3 cli/benches/minimum.py --rbuild PATH --runs 200 --json FILE

The least is `minimum.c`, which makes the same sandbox, network and directory by bare system calls. Root only, because
that program has no user namespace for others. Needs gcc, `busybox` (static), and `crun` for its row. Prints the least
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
from reach import Layout, busybox_tar  # noqa: E402


def run(command, env):
    """(wall, CPU) seconds."""
    began = time.perf_counter()
    child = os.posix_spawn(command[0], command, env)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - began
    if status:
        raise SystemExit(f"{command}: status {os.waitstatus_to_exitcode(status)}")
    return wall, usage.ru_utime + usage.ru_stime


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
        rbuild = str(Path(args.rbuild).resolve())
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
