#!/usr/bin/env python3
"""Measures rbuild against the figures it promises: one row a promise, as docs/performance.md lists them.

    cargo build --release && python3 cli/benches/reach.py
    python3 cli/benches/reach.py --rbuild PATH --runs 5 --scale 1 --only cached,edit --json FILE

Every command is timed as a whole process from start to exit. Of all runs the least wall time and the least CPU time
(user and system, with the steps it ran) are shown, and the greatest resident memory of any one process. The machine
should be quiet; what it is busy with is printed, and what making a file costs. That is 15 µs, or 300 where thousands were
deleted in the last minutes and the file system is ext4 without a journal: then every row that makes many files measures
it. So a store that is done with stays until the last row is, and five minutes should pass between two runs.

Needs `busybox` (static) for the base image, `docker-registry` for the row `pull`, and about 10 GB in --data. Standard
library only. What is built here is checked for being built at all; that it is right is what the conformance corpus and
the tests are for.
"""
from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

MIB = 1 << 20


def log(*words):
    print(*words, file=sys.stderr, flush=True)


def installed(rbuild, directory: Path):
    """A copy, as installing makes one. What a linker has just written lies in the page cache in pages of 4 KiB, and a
    program begins a quarter slower from those."""
    return Path(shutil.copy(Path(rbuild).resolve(), directory / "rbuild"))


# ------------------------------------------------------------------ material

def put(path: Path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def text(seed, size):
    """Words that gzip shrinks to roughly two fifths."""
    chance = random.Random(seed)
    words = [hashlib.md5(str(i).encode()).hexdigest()[: 3 + i % 9] for i in range(4096)]
    out = []
    have = 0
    while have < size:
        line = " ".join(chance.choices(words, k=200)) + "\n"
        out.append(line)
        have += len(line)
    return "".join(out).encode()[:size]


def mixed(seed, size):
    """Three parts text, one part noise, in turns of 64 KiB."""
    chance = random.Random(seed)
    words = text(seed, min(size, 4 * MIB))
    out = []
    for i in range(0, size, 65536):
        at = chance.randrange(0, len(words) - 65536)
        out.append(chance.randbytes(65536) if i // 65536 % 4 == 3 else words[at:at + 65536])
    return b"".join(out)[:size]


def tree(root: Path, files, size, seed, per_directory=200):
    pool = text(seed, 4 * MIB)
    chance = random.Random(seed)
    for i in range(files):
        directory = root / f"d{i // per_directory:04d}"
        if i % per_directory == 0:
            directory.mkdir(parents=True, exist_ok=True)
        at = chance.randrange(0, len(pool) - size)
        with open(directory / f"f{i:06d}", "wb") as file:
            file.write((f"{i:08d} ".encode() + pool[at:at + size])[:size])


class Layout:
    """An OCI image layout, made here."""

    def __init__(self, at: Path):
        self.at = at

    def blob(self, data):
        digest = hashlib.sha256(data).hexdigest()
        put(self.at / "blobs/sha256" / digest, data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def write(self, *layers):
        packed = [subprocess.run(["gzip", "-n", "-1"], input=raw, stdout=subprocess.PIPE, check=True).stdout for raw in layers]
        config = {"architecture": "amd64", "os": "linux",
                  "config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["sh"]},
                  "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(raw).hexdigest() for raw in layers]}}
        kind = "application/vnd.oci.image."
        manifest = {"schemaVersion": 2, "mediaType": kind + "manifest.v1+json",
                    "config": {"mediaType": kind + "config.v1+json", **self.blob(json.dumps(config).encode())},
                    "layers": [{"mediaType": kind + "layer.v1.tar+gzip", **self.blob(data)} for data in packed]}
        entry = {"mediaType": kind + "manifest.v1+json", **self.blob(json.dumps(manifest).encode()),
                 "annotations": {"org.opencontainers.image.ref.name": "latest"}}
        put(self.at / "oci-layout", '{"imageLayoutVersion":"1.0.0"}')
        put(self.at / "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def busybox_tar(extra=()):
    out = io.BytesIO()
    box = shutil.which("busybox") or "/bin/busybox"
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "root"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        files = [("bin/busybox", Path(box).read_bytes(), 0o755),
                 ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644), *extra]
        for name, data, mode in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
        for name in subprocess.run([box, "--list"], stdout=subprocess.PIPE, check=True, text=True).stdout.split():
            if name != "busybox":
                entry = tarfile.TarInfo(f"bin/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    return out.getvalue()


# ------------------------------------------------------------------ timing

class Figure:
    """The best of some runs."""

    def __init__(self):
        self.wall, self.cpu, self.memory = float("inf"), float("inf"), 0

    def add(self, wall, cpu):
        self.wall, self.cpu = min(self.wall, wall), min(self.cpu, cpu)


def timed(commands, env):
    """Runs commands at once; (wall seconds, CPU seconds of all)."""
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        children = [subprocess.Popen([str(word) for word in command], env=env, stdin=subprocess.DEVNULL, stdout=output,
                                     stderr=output) for command in commands]
        cpu, failed = 0.0, False
        for child in children:
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            cpu += usage.ru_utime + usage.ru_stime
            failed |= child.returncode != 0
        wall = time.perf_counter() - began
        if failed:
            output.seek(0)
            raise SystemExit(f"{commands[0]}: failed\n" + output.read().decode(errors="replace")[-3000:])
        return wall, cpu


SMALL = """import os, sys
pid = os.spawnvp(os.P_NOWAIT, sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(pid, 0)
open(sys.argv[1], 'w').write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))"""


class Bench:
    def __init__(self, args):
        self.runs, self.scale = args.runs, args.scale
        self.data = Path(args.data).resolve() / f"x{args.scale:g}"
        self.data.mkdir(parents=True, exist_ok=True)
        self.stores = Path(tempfile.mkdtemp(prefix="stores-", dir=self.data))
        self.rbuild = installed(args.rbuild, self.stores)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("RBUILD_")}
        self.made = 0
        self.fresh()
        self.layout = self.data / "base"
        if not (self.layout / "index.json").exists():
            Layout(self.layout).write(busybox_tar())
        self.rows = []

    def count(self, full):
        return max(1, int(full * self.scale))

    def context(self, name, make, ignored=""):
        at = self.data / "contexts" / name
        if not (at / ".made").exists():
            log(f"  making {name}")
            shutil.rmtree(at, ignore_errors=True)
            at.mkdir(parents=True)
            make(at)
            put(at / ".dockerignore", ".made\n" + ignored)
            put(at / ".made", "")
        return at

    def build(self, context, *flags):
        return [self.rbuild, "build", "-q", "--network", "host", "--build-context", f"base=oci-layout://{self.layout}:latest",
                *flags, context]

    def fresh(self):
        """A store that is not there yet. The one before stays: see the top."""
        self.made += 1
        self.store = self.stores / str(self.made)
        self.store.mkdir()
        self.env["RBUILD_ROOT"] = str(self.store / "store")

    def empty(self):
        """As `fresh`, where what is in the store is large and of few files."""
        subprocess.run(["rm", "-rf", self.store], check=True)
        self.fresh()

    def finish(self):
        subprocess.run(["rm", "-rf", self.stores], check=True)

    def inode(self):
        """Seconds for making an empty file where the stores are."""
        count, at = 2000, Path(tempfile.mkdtemp(dir=self.stores))
        began = time.perf_counter()
        for number in range(count):
            os.close(os.open(at / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return (time.perf_counter() - began) / count

    def run(self, *commands):
        return timed(commands, self.env)

    def memory(self, commands):
        """Greatest resident bytes of any one process. What `wait4` says of a child begins with the size of its
        parent, so that something small must stand between."""
        with tempfile.TemporaryDirectory() as at:
            measured = [[sys.executable, "-ISc", SMALL, f"{at}/{place}", *command] for place, command in enumerate(commands)]
            timed(measured, self.env)
            return max(int(Path(f"{at}/{place}").read_text()) for place in range(len(commands))) * 1024

    def row(self, name, reach, command, before=None, runs=None):
        """Times a command, or several at once, after `before()`, which is not timed. The first run is for the memory."""
        figure = Figure()
        for turn in range(1 + (runs or self.runs)):
            if before:
                before()
            commands = command() if callable(command) else command
            commands = commands if isinstance(commands[0], list) else [commands]
            if turn == 0:
                figure.memory = self.memory(commands)
            else:
                figure.add(*self.run(*commands))
        self.show(name, reach, figure)
        return figure

    def show(self, name, reach, figure):
        self.rows.append({"name": name, "reach": reach, "wall": figure.wall, "cpu": figure.cpu, "memory": figure.memory})
        log(f"{name:46} wall {figure.wall:8.4f} s   cpu {figure.cpu:8.4f} s   {figure.memory / MIB:6.1f} MiB   (reach {reach})")

    # -------------------------------------------------------------- the rows

    def application(self):
        """20 instructions over 20,000 files of 4 KiB."""
        parts = [("p1", 0.3), ("p2", 0.25), ("p3", 0.2), ("p4", 0.15), ("p5", 0.0975)]

        def make(at):
            lines = ["FROM base", "ENV APP=/app", "WORKDIR /app"]
            lines += [f"RUN mkdir -p /opt/t{i} && echo {i} > /opt/t{i}/v" for i in range(4)]
            for name, share in parts:
                tree(at / name, int(self.count(20000) * share), 4096, name)
                lines += [f"COPY {name} /app/{name}", f"RUN ls /app/{name} | wc -l > /app/{name}.count"]
            tree(at / "src", self.count(50), 2048, "src")
            put(at / "src/main.c", "start\n")
            lines += ["COPY src /app/src", "RUN cat /app/src/main.c > /app/built", 'CMD ["true"]']
            put(at / "Dockerfile", "\n".join(lines) + "\n")

        return self.context("application", make)

    def cached(self):
        context = self.application()
        self.fresh()
        self.run(self.build(context, "-t", "app"))
        self.row("cached, 20 instructions, 20,000 files", 0.06, self.build(context, "-t", "app"), runs=self.runs * 2)

    def small(self):
        """The same, and an output: an image with little in it, which is there already as it was."""
        context = self.application()
        dockerfile = self.data / "small.Dockerfile"
        stage = (context / "Dockerfile").read_text().replace("FROM base", "FROM base AS app").replace('CMD ["true"]\n', "")
        put(dockerfile, stage + 'FROM base\nCOPY --from=app /app/built /app/p1.count /\nCMD ["true"]\n')
        archive = self.data / "small.tar"
        command = self.build(context, "-f", dockerfile, "-o", f"type=oci,dest={archive}")
        self.fresh()
        self.run(command)
        self.row("the same, small image as an OCI archive", 0.12, command, runs=self.runs * 2)
        archive.unlink()

    def ignored(self):
        """180,000 files more that the ignore file names."""
        plain = self.application()

        def make(at):
            shutil.copytree(plain, at, dirs_exist_ok=True)
            tree(at / "node_modules", self.count(180000), 64, "ignored")
        more = self.context("ignored", make, "node_modules\n")
        commands = [self.build(plain, "-t", "app"), self.build(more, "-t", "app")]
        self.fresh()
        for command in commands:
            self.run(command)
        figures = [Figure(), Figure()]
        for figure, command in zip(figures, commands):
            figure.memory = self.memory([command])
        # In turns, so that whatever else the machine does is on both sides.
        for _ in range(self.runs * 4):
            for figure, command in zip(figures, commands):
                figure.add(*self.run(command))
        without, with_them = figures
        self.show("cached, without 180,000 ignored files", "", without)
        self.show("cached, with them", 0.06, with_them)
        difference = Figure()
        difference.add(with_them.wall - without.wall, with_them.cpu - without.cpu)
        difference.memory = with_them.memory - without.memory
        self.show("180,000 ignored files, the difference", 0, difference)

    def edit(self):
        context = self.application()
        self.run(self.build(context, "-t", "app"))
        self.row("one of 20,000 files edited", 0.1, self.build(context, "-t", "app"),
                 before=lambda: put(context / "src/main.c", f"{time.time_ns()}\n"), runs=self.runs * 2)

    def steps(self):
        def chain(count):
            return self.context(f"chain{count}", lambda at: put(
                at / "Dockerfile", "FROM base\n" + "".join(f"RUN [\"true\",\"{i}\"]\n" for i in range(count)) + "ENV x=1\n"))
        self.run(self.build(chain(0)))
        none = self.row("no step (the same build without RUN)", "", self.build(chain(0), "--no-cache"), runs=self.runs * 3)
        one = self.row("one RUN true", "", self.build(chain(1), "--no-cache"), runs=self.runs * 3)
        step = Figure()
        step.add(one.wall - none.wall, one.cpu - none.cpu)
        step.memory = one.memory
        self.show("one RUN true, the difference", 0.005, step)
        self.row("40 RUN true in a chain", 0.25, self.build(chain(40), "--no-cache"), runs=self.runs * 2)

    def stages(self):
        def make(at):
            lines = []
            for i in range(8):
                lines += [f"FROM base AS s{i}", f"RUN sleep 1 && echo {i} > /out"]
            lines += ["FROM base", *[f"COPY --from=s{i} /out /o{i}" for i in range(8)]]
            put(at / "Dockerfile", "\n".join(lines) + "\n")
        context = self.context("stages", make)
        self.row("8 stages of sleep 1", 1.1, self.build(context, "--no-cache", "-j", "8"))

    def copy(self):
        count = self.count(50000)

        def make(at):
            tree(at / "data", count, 4096, "copy", 500)
            put(at / "Dockerfile", "FROM base\nCOPY data /data\n")
        context = self.context("copy", make)
        archive = self.data / "copy.tar"
        self.row("COPY of 50,000 files + OCI archive", 2.0,
                 self.build(context, "-o", f"type=oci,dest={archive},compression=uncompressed"), before=self.fresh,
                 runs=min(self.runs, 5))
        self.row("COPY of 50,000 files, kept (no layer)", "", self.build(context, "-o", "type=cacheonly"), before=self.fresh,
                 runs=min(self.runs, 3))
        self.run(self.build(context, "-o", "type=cacheonly"))
        self.row("the same, cached", "", self.build(context, "-o", "type=cacheonly"))
        archive.unlink(missing_ok=True)
        self.fresh()

    def layer(self):
        mib = max(16, self.count(1024) // 16 * 16)

        def make(at):
            put(at / "seed", mixed("layer", 16 * MIB))
            put(at / "Dockerfile", "FROM base\nARG turn\nCOPY seed /seed\n"
                f"RUN : $turn; i=0; while [ $i -lt {mib // 16} ]; do cat /seed; i=$((i+1)); done > /big\n")
        context = self.context("layer", make)
        archive = self.data / "layer.tar"
        for compression, reach in (("gzip", 7), ("zstd", 3.5), ("uncompressed", 2)):
            turn = [0]

            def before():
                # The step is built, its layer is not: what is timed is what the output costs.
                self.empty()
                archive.unlink(missing_ok=True)
                turn[0] += 1
                self.run(self.build(context, "--build-arg", f"turn={turn[0]}", "-o", "type=cacheonly"))

            self.row(f"1 GiB layer, OCI archive, {compression}", reach, lambda: self.build(
                context, "--build-arg", f"turn={turn[0]}", "-o", f"type=oci,dest={archive},compression={compression}"),
                before=before, runs=min(self.runs, 3))
            log(f"    archive {os.path.getsize(archive) / 1e6:.1f} MB")
        archive.unlink(missing_ok=True)
        self.empty()

    def pull(self):
        program = shutil.which("docker-registry") or shutil.which("registry")
        if not program:
            log("SKIPPED pull: there is no docker-registry")
            return
        layout = self.data / "large"
        if not (layout / "index.json").exists():
            log("  making a base image of 200 MB")
            block, rnd, files = mixed("pull", 32 * MIB), random.Random("pull"), []
            left, i = self.count(200) * MIB, 0
            while left > 0:
                size = min(left, rnd.choice((1000, 4000, 9000, 30000, 100000, 300000)))
                at = rnd.randrange(0, len(block) - size)
                files.append((f"usr/share/k{i % 97}/f{i}", block[at:at + size], 0o644))
                left, i = left - size, i + 1
            Layout(layout).write(busybox_tar(sorted(files)))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        home = self.data / "registry"
        put(self.data / "registry.yml", json.dumps({
            "version": 0.1, "log": {"level": "error"}, "http": {"addr": f"127.0.0.1:{port}"},
            "storage": {"filesystem": {"rootdirectory": str(home)}}}))
        server = subprocess.Popen([program, "serve", self.data / "registry.yml"], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            name = f"127.0.0.1:{port}/large:latest"
            put(self.data / "push/Dockerfile", "FROM large\n")
            self.run([self.rbuild, "build", "-q", "--build-context", f"large=oci-layout://{layout}:latest",
                      "-o", f"type=registry,name={name}", self.data / "push"])
            put(self.data / "pull/Dockerfile", f"FROM {name}\nRUN true\n")
            self.row("pull and unpack 200 MB, RUN true", 1.0, [self.rbuild, "build", "-q", "--network", "host", self.data / "pull"],
                     before=self.fresh)
        finally:
            server.kill()
            server.wait()
            self.fresh()

    def wide(self):
        stages, groups = self.count(300), 17
        leaves = max(1, stages - groups - 1)

        def make(at):
            lines = []
            for i in range(leaves):
                put(at / f"f{i}", f"leaf {i}\n")
                lines += [f"FROM base AS l{i}", f"COPY f{i} /out"]
            for group in range(groups):
                lines.append(f"FROM base AS g{group}")
                lines += [f"COPY --from=l{i} /out /o/{i}" for i in range(group, leaves, groups)]
            lines += ["FROM base", *[f"COPY --from=g{group} /o /o" for group in range(groups) if group < leaves]]
            put(at / "Dockerfile", "\n".join(lines) + "\n")
        context = self.context("wide", make)
        self.fresh()
        self.run(self.build(context, "-t", "wide"))
        self.row("300 stages, cold", 2, self.build(context, "--no-cache", "-t", "wide"))
        self.row("300 stages, cached", 0.06, self.build(context, "-t", "wide"))

    def check(self):
        count = self.count(5000)

        def make(at):
            lines = ["FROM base AS s0"]
            for i in range(1, count):
                kind = i % 5
                lines.append(f"FROM base AS s{i}" if i % 50 == 0 else
                             f"ENV V{i}=${{V{i - 5}:-x}}" if kind == 0 else
                             f"RUN echo {i} && \\\n    true" if kind == 1 else
                             f"COPY f /d/f{i}" if kind == 2 else
                             f"ARG A{i}=v{i}" if kind == 3 else f"LABEL l{i}=$A{i - 1}")
            put(at / "f", "f\n")
            put(at / "Dockerfile", "\n".join(lines) + "\n")
        context = self.context("check", make)
        self.row("5,000 instructions, --check", 0.05, self.build(context, "--check"), runs=self.runs * 2)

    def latency(self):
        context = self.context("latency", lambda at: put(at / "Dockerfile", "FROM base\nRUN echo ready > /ready\n"))
        self.run(self.build(context, "-t", "latency"))
        self.row("rbuild run IMAGE true", 0.01, [self.rbuild, "run", "--rm", "latency", "true"], runs=self.runs * 4)
        self.row("rbuild version (start-up alone)", "", [self.rbuild, "version"], runs=self.runs * 4)

    def multi(self):
        files = self.count(2000)

        def make(at):
            for place in range(4):
                tree(at / f"p{place}/src", files, 4096, f"multi{place}")
                lines = ["FROM base"] + [f"RUN echo {place}-{i} > /r{i}" for i in range(5)]
                lines += ["COPY src /src"] + [f"RUN ls /src | wc -l > /n{i}" for i in range(3)]
                put(at / f"p{place}/Dockerfile", "\n".join(lines) + "\n")
        context = self.context("multi", make)
        builds = [self.build(context / f"p{place}", "--no-cache", "-t", f"multi{place}") for place in range(4)]
        self.run(builds[0])
        after = Figure()
        for _ in range(self.runs):
            samples = [self.run(build) for build in builds]
            after.add(sum(wall for wall, _ in samples), sum(cpu for _, cpu in samples))
        self.show("four builds, one after the other", "", after)
        self.row("four builds at once", round(after.wall / os.cpu_count(), 3), builds)
        self.fresh()

    ROWS = ("cached", "small", "ignored", "edit", "steps", "stages", "latency", "wide", "check", "multi", "copy", "layer", "pull")


def main():
    here = Path(__file__).resolve().parent.parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rbuild", default=here / "target/release/rbuild")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full sizes")
    parser.add_argument("--only", default="", help=f"some of {','.join(Bench.ROWS)}")
    parser.add_argument("--data", default=os.path.join(tempfile.gettempdir(), "rbuild-reach"))
    parser.add_argument("--json", help="a file for the figures")
    args = parser.parse_args()
    bench = Bench(args)
    only = [name for name in args.only.split(",") if name]
    unknown = set(only) - set(bench.ROWS)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}")
    log(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {bench.inode() * 1e6:.0f} µs for a new file, best of {args.runs}")
    try:
        for name in bench.ROWS:
            if not only or name in only:
                getattr(bench, name)()
        log(f"load {os.getloadavg()[0]:.1f}, {bench.inode() * 1e6:.0f} µs for a new file")
    finally:
        bench.finish()
    print("| work | wall s | CPU s | memory MiB | reach |\n|---|---|---|---|---|")
    for row in bench.rows:
        print(f"| {row['name']} | {row['wall']:.4f} | {row['cpu']:.4f} | {row['memory'] / MIB:.0f} | {row['reach']} |")
    if args.json:
        put(Path(args.json), json.dumps(bench.rows, indent=1))


if __name__ == "__main__":
    main()
