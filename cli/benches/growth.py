#!/usr/bin/env python3
"""Shows how cost grows with size: the CPU time of a whole process at doubling sizes, one table a kind of size.

    cargo build --release && python3 cli/benches/growth.py
    python3 cli/benches/growth.py --rbuild PATH --runs 3 --only files,instructions

The last column is the exponent between the smallest and the largest size once a build of nothing is taken off: 1 is
linear. Standard library only; needs what reach.py needs.
"""
from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path

from reach import MIB, Bench, Figure, log, mixed, put, tree


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
            return self.measure(self.build(context, "-o", "type=cacheonly"), before=self.empty)

        def cached(count):
            context = self.wide(count)
            self.run(self.build(context, "-o", "type=cacheonly"))
            return self.measure(self.build(context, "-o", "type=cacheonly"))
        sizes = [25, 50, 100, 200]
        self.table("stages, cold", sizes, cold)
        self.table("stages, cached", sizes, cached)

    def layers(self):
        def cost(count):
            context = self.context(f"layers{count}", lambda at: put(
                at / "Dockerfile", "FROM base\n" + "".join(f"RUN echo {i} > /f{i}\n" for i in range(count))))
            return self.measure(self.build(context, "-o", "type=cacheonly", "--no-cache"))
        self.table("layers, RUN after RUN", [10, 20, 40, 80], cost)

    def image(self):
        archive = self.data / "growth.tar"

        def cost(mib):
            def make(at):
                put(at / "seed", mixed("growth", 16 * MIB))
                lines = "".join(f"COPY seed /seed{i}\n" for i in range(mib // 16))
                put(at / "Dockerfile", "FROM base\n" + lines)
            context = self.context(f"image{mib}", make)
            return self.measure(self.build(context, "-o", f"type=oci,dest={archive}"), before=self.empty)
        self.table("MiB of an image, cold, OCI archive, gzip", [32, 64, 128, 256], cost)
        archive.unlink(missing_ok=True)

    def store_size(self):
        small = self.context("small", lambda at: put(at / "Dockerfile", "FROM base\nRUN echo small\n"))
        done = [0]
        self.empty()

        def cost(snapshots):
            while done[0] < snapshots:
                # Each has a snapshot a leaf, and one for each that is copied together.
                self.run(self.build(self.wide(125, f"-{done[0]}"), "-o", "type=cacheonly"))
                done[0] += 250
            self.run(self.build(small, "-o", "type=cacheonly"))
            return self.measure(self.build(small, "-o", "type=cacheonly"))
        self.table("snapshots in the store, a small cached build", [250, 500, 1000, 2000], cost)

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
    log(f"a build of nothing: {bench.nothing:.4f} s")
    for name in Growth.ROWS:
        if not only or name in only:
            getattr(bench, name)()
    print("| size | at | CPU s | exponent |\n|---|---|---|---|")
    for name, sizes, figures, exponent in bench.rows:
        print(f"| {name} | {' · '.join(map(str, sizes))} | {' · '.join(f'{it:.3f}' for it in figures)} | {exponent:.2f} |")


if __name__ == "__main__":
    main()
