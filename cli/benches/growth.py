#!/usr/bin/env python3
"""Shows how cost grows with size: the CPU time of a whole process at doubling sizes, one table a kind of size.

    cargo build --release && python3 cli/benches/growth.py
    python3 cli/benches/growth.py --rbuild PATH --runs 3 --only files,instructions

The last column is the exponent between the smallest and the largest size once a build of nothing is taken off: 1 is
linear. Standard library only; needs what reach.py needs. All rows take a quarter of an hour on two quiet cores; most of
that fills the stores.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
from pathlib import Path

from reach import MIB, Bench, Figure, Layout, busybox_tar, log, mixed, put, tree


class Growth(Bench):
    def measure(self, command, before=None):
        figure = Figure()
        for _ in range(self.runs):
            if before:
                before()
            figure.add(*self.run(command))
        return figure.cpu

    def table(self, name, sizes, cost):
        figures = []
        for size in sizes:
            figures.append(cost(size))
            log(f"  {name} {size}: {figures[-1]:.4f} s")
        self.line(name, sizes, figures)

    def line(self, name, sizes, figures):
        least, most = figures[0] - self.nothing, figures[-1] - self.nothing
        exponent = math.log(max(most, 1e-4) / max(least, 1e-4)) / math.log(sizes[-1] / sizes[0])
        self.rows.append((name, sizes, figures, exponent))

    def files(self):
        def cost(count):
            def make(at):
                tree(at / "data", count, 1024, "files")
                put(at / "Dockerfile", "FROM base\nCOPY data /data\n")
            context = self.context(f"files{count}", make)
            self.run(self.build(context, "-o", "type=cacheonly"))
            return self.measure(self.build(context, "-o", "type=cacheonly"))
        self.table("files of the context, cached", [2500, 5000, 10000, 20000], cost)

    def instructions(self):
        def cost(count):
            def make(at):
                # Every RUN has all variables of its stage: stages of a length that people write.
                lines = []
                for i in range(count):
                    lines.append(f"FROM base AS s{i}" if i % 50 == 0 else
                                 f"ENV V{i}=value" if i % 3 == 0 else f"RUN echo {i}" if i % 3 == 1 else f"LABEL l{i}=x")
                put(at / "Dockerfile", "\n".join(lines) + "\n")
            return self.measure(self.build(self.context(f"stages-of-instructions{count}", make), "--check"))
        self.table("instructions, --check", [1250, 2500, 5000, 10000], cost)

    def wide(self, count, token=""):
        def make(at):
            lines = []
            for i in range(count):
                put(at / f"f{i}", f"leaf {i}\n")
                lines += [f"FROM base AS l{i}", f"COPY f{i} /out{token}"]
            lines += ["FROM base", *[f"COPY --from=l{i} /out{token} /o/{i}" for i in range(count)]]
            put(at / "Dockerfile", "\n".join(lines) + "\n")
        return self.context(f"wide{count}{token}", make)

    def stages(self):
        def cold(count):
            context = self.wide(count)
            return self.measure(self.build(context, "-o", "type=cacheonly"), before=self.fresh)

        def cached(count):
            context = self.wide(count)
            self.run(self.build(context, "-o", "type=cacheonly"))
            return self.measure(self.build(context, "-o", "type=cacheonly"))
        sizes = [25, 50, 100, 200]
        self.table("stages, cold", sizes, cold)
        self.table("stages, cached", sizes, cached)

    def layers(self):
        """Steps one upon the other, made and found again; and a base image of so many layers."""
        def chain(count):
            return self.context(f"layers{count}", lambda at: put(
                at / "Dockerfile", "FROM base\n" + "".join(f"RUN echo {i} > /f{i}\n" for i in range(count))))

        def cold(count):
            return self.measure(self.build(chain(count), "-o", "type=cacheonly", "--no-cache"))

        def cached(count):
            self.run(self.build(chain(count), "-o", "type=cacheonly"))
            return self.measure(self.build(chain(count), "-o", "type=cacheonly"))

        def archive(count):
            context, target = chain(count), self.data / "growth.tar"
            command = self.build(context, "-o", f"type=oci,dest={target}")
            self.run(command)
            figure = self.measure(command)
            target.unlink()
            return figure

        def base(count):
            layout = self.data / f"stack{count}"
            if not (layout / "index.json").exists():
                Layout(layout).write(busybox_tar(), *[busybox_tar([(f"srv/f{i}", b"x" * 1000, 0o644)])
                                                      for i in range(count - 1)])
            context = self.context("on-a-stack", lambda at: put(at / "Dockerfile", "FROM stack\nRUN true\n"))
            return self.measure([self.rbuild, "build", "-q", "--network", "host", "--build-context",
                                 f"stack=oci-layout://{layout}:latest", "-o", "type=cacheonly", context], before=self.fresh)
        sizes = [10, 20, 40, 80]
        self.table("layers, RUN after RUN, cold", sizes, cold)
        self.table("layers, RUN after RUN, cached", sizes, cached)
        self.table("layers, all known, OCI archive", sizes, archive)
        self.table("layers of a base image of 400 links each, unpacked, RUN true", sizes, base)

    def image(self):
        archive = self.data / "growth.tar"

        def cost(mib):
            def make(at):
                put(at / "seed", mixed("growth", 16 * MIB))
                lines = "".join(f"COPY seed /seed{i}\n" for i in range(mib // 16))
                put(at / "Dockerfile", "FROM base\n" + lines)
            context = self.context(f"image{mib}", make)
            return self.measure(self.build(context, "-o", f"type=oci,dest={archive}"), before=self.fresh)
        self.table("MiB of an image, cold, OCI archive, gzip", [32, 64, 128, 256], cost)
        archive.unlink(missing_ok=True)

    def store_size(self):
        """Everything in one store of 10,000 snapshots, as many records and twice as many keys, with 40 names."""
        small = self.context("small", lambda at: put(at / "Dockerfile", "FROM base\nRUN echo small\n"))
        commands = {
            "a small cached build": self.build(small, "-o", "type=cacheonly"),
            "`images`": [self.rbuild, "images"],
            "`du`": [self.rbuild, "du"],
            "`prune --filter unused-for=24h` of nothing": [self.rbuild, "prune", "-f", "--filter", "unused-for=24h"],
            "`prune --keep-storage`, above what is used": [self.rbuild, "prune", "-f", "--keep-storage", "10TB"],
            "`store check`, which reads all of it": [self.rbuild, "store", "check"],
        }
        self.fresh()
        done, sizes, figures = 0, [1250, 2500, 5000, 10000], {name: [] for name in commands}
        for snapshots in sizes:
            while done < snapshots:
                # Each has a snapshot a leaf, and one for each that is copied together.
                self.run(self.build(self.wide(125, f"-{done}"), "-t", f"wide{done}"))
                done += 250
            self.run(self.build(small, "-o", "type=cacheonly"))
            told = subprocess.run([self.rbuild, "du", "--format", "json"], env=self.env, stdout=subprocess.PIPE, check=True)
            log(f"  {snapshots} snapshots: `du` tells {told.stdout.decode().strip()[:2000]}")
            for name, command in commands.items():
                figures[name].append(self.measure(command))
                log(f"  {name}, {snapshots} snapshots: {figures[name][-1]:.4f} s")
        for name in commands:
            self.line(f"snapshots in the store, {name}", sizes, figures[name])

    ROWS = ("files", "instructions", "stages", "layers", "image", "store_size")


def main():
    here = Path(__file__).resolve().parent.parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rbuild", default=here / "target/release/rbuild")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help=f"some of {','.join(Growth.ROWS)}")
    parser.add_argument("--data", default=os.path.join(tempfile.gettempdir(), "rbuild-growth"))
    args = parser.parse_args()
    args.scale = 1.0
    bench = Growth(args)
    only = [name for name in args.only.split(",") if name]
    nothing = bench.context("nothing", lambda at: put(at / "Dockerfile", "FROM base\nENV x=1\n"))
    bench.nothing = 0.0
    bench.run(bench.build(nothing, "-o", "type=cacheonly"))
    bench.nothing = bench.measure(bench.build(nothing, "-o", "type=cacheonly"))
    log(f"a build of nothing: {bench.nothing:.4f} s; load {os.getloadavg()[0]:.1f}, {bench.inode() * 1e6:.0f} µs for a new file")
    try:
        for name in Growth.ROWS:
            if not only or name in only:
                getattr(bench, name)()
    finally:
        bench.finish()
    print("| size | at | CPU s | exponent |\n|---|---|---|---|")
    for name, sizes, figures, exponent in bench.rows:
        print(f"| {name} | {' · '.join(map(str, sizes))} | {' · '.join(f'{it:.3f}' for it in figures)} | {exponent:.2f} |")


if __name__ == "__main__":
    main()
