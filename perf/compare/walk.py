#!/usr/bin/env python3
"""The walk beside the libraries from PyPI: one thread, one data set, one graph each, in turns.

    python3 -m venv target/compare
    target/compare/bin/pip install numpy hnswlib usearch faiss-cpu
    target/compare/bin/python perf/compare/walk.py --data DIR

All have M = 16 and ef_construction = 200, the same vectors scaled to length 1, the same queries and
k = 10. Graphs are kept in --cache. A round runs every engine once at every beam width, in another
order each time; figures are medians of the rounds. Queries a second are given by the clock and by
the CPU time of the thread; what lies between two widths is interpolated, by the logarithm of the
queries a second over recall. Libraries get all queries in one call, so no Python is in the figure.
"""

import argparse
import json
import math
import pathlib
import shlex
import statistics
import subprocess
import time

import faiss
import hnswlib
import numpy
import usearch.index

K, M, EF_CONSTRUCTION = 10, 16, 200
RECALL_MAX = 0.992
WIDTHS = [10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 896, 1280]


class Library:
    """One of the libraries: `build` gives an index, `find` the ids at a beam width."""

    def __init__(self, name, data, cache, threads):
        self.data = data
        path = cache / f"{name}-{len(data.base)}x{data.base.shape[1]}"
        begun, begun_cpu = time.monotonic(), time.process_time()
        if not path.exists():
            self.build(threads)
            self.save(str(path))
            taken = time.monotonic() - begun, time.process_time() - begun_cpu
            print(f"{name}: built in {taken[0]:.1f} s, {taken[1]:.1f} CPU s", flush=True)
        self.load(str(path))

    def run(self, width):
        self.set_width(width)
        begun, begun_cpu = time.monotonic(), time.process_time()
        ids = self.find()
        wall, cpu = time.monotonic() - begun, time.process_time() - begun_cpu
        truth = self.data.truth
        hits = sum(len(numpy.intersect1d(row, true)) for row, true in zip(ids, truth))
        count = len(truth)
        return {"recall": hits / count / K, "qps": count / wall, "qps_cpu": count / cpu}


class Hnswlib(Library):
    def make(self):
        self.index = hnswlib.Index(space="ip", dim=self.data.base.shape[1])

    def build(self, threads):
        self.make()
        self.index.init_index(len(self.data.base), M=M, ef_construction=EF_CONSTRUCTION)
        self.index.add_items(self.data.base, num_threads=threads)

    def save(self, path):
        self.index.save_index(path)

    def load(self, path):
        self.make()
        self.index.load_index(path)

    def set_width(self, width):
        self.index.set_ef(width)

    def find(self):
        return self.index.knn_query(self.data.queries, K, num_threads=1)[0]


class Usearch(Library):
    dtype = "f32"

    def build(self, threads):
        self.index = usearch.index.Index(
            ndim=self.data.base.shape[1], metric="ip", dtype=self.dtype,
            connectivity=M, expansion_add=EF_CONSTRUCTION)
        self.index.add(numpy.arange(len(self.data.base)), self.data.base, threads=threads)

    def save(self, path):
        self.index.save(path)

    def load(self, path):
        self.index = usearch.index.Index.restore(path)

    def set_width(self, width):
        self.index.expansion_search = width

    def find(self):
        return self.index.search(self.data.queries, K, threads=1).keys


class UsearchBf16(Usearch):
    dtype = "bf16"


class Faiss(Library):
    def make(self, dimension):
        return faiss.IndexHNSWFlat(dimension, M, faiss.METRIC_INNER_PRODUCT)

    def build(self, threads):
        faiss.omp_set_num_threads(threads)
        self.index = self.make(self.data.base.shape[1])
        self.index.hnsw.efConstruction = EF_CONSTRUCTION
        self.index.train(self.data.base)
        self.index.add(self.data.base)

    def save(self, path):
        faiss.write_index(self.index, path)

    def load(self, path):
        self.index = faiss.read_index(path)

    def set_width(self, width):
        faiss.omp_set_num_threads(1)
        self.index.hnsw.efSearch = width

    def find(self):
        return self.index.search(self.data.queries, K)[1]


class FaissSq8(Faiss):
    def make(self, dimension):
        kind = faiss.ScalarQuantizer.QT_8bit
        return faiss.IndexHNSWSQ(dimension, kind, M, faiss.METRIC_INNER_PRODUCT)


LIBRARIES = {
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "usearch bf16": UsearchBf16,
    "faiss HNSW": Faiss,
    "faiss HNSW-SQ8": FaissSq8,
}


class Kyrodb:
    """The bench of this repository, asked over its input."""

    def __init__(self, command, data, cache, codes):
        state = cache / f"kyrodb-{len(data.base)}x{data.base.shape[1]}-{codes}"
        command = [*shlex.split(command), "--data", str(data.directory), "--codes", codes,
                   "--state", str(state)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.strip() == "ready":
                break
            print(f"kyrodb {codes}: {line.strip()}", flush=True)

    def run(self, width):
        print(width, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


class Data:
    def __init__(self, directory):
        def unit(name):
            rows = numpy.load(directory / name).astype(numpy.float32)
            return rows / numpy.linalg.norm(rows, axis=1, keepdims=True)

        self.directory = directory
        self.base, self.queries = unit("base.npy"), unit("queries.npy")
        self.truth = numpy.load(directory / "gt_ids.npy")[:, :K]


def at_recall(curve, recall, figure):
    """The figure where the curve, narrowest beam first, passes the recall."""
    for before, after in zip(curve, curve[1:]):
        if before["recall"] < recall <= after["recall"]:
            part = (recall - before["recall"]) / (after["recall"] - before["recall"])
            ends = math.log(before[figure]), math.log(after[figure])
            return math.exp(ends[0] + part * (ends[1] - ends[0]))
    return math.nan


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("target/compare/graphs"))
    parser.add_argument("--command", default="cargo bench --quiet --bench walk --")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="to build graphs of the libraries")
    parser.add_argument("--widths", type=lambda text: [int(w) for w in text.split(",")],
                        default=WIDTHS)
    parser.add_argument("--engines", type=lambda text: text.split(","),
                        default=["kyrodb none", "kyrodb sq8", *LIBRARIES])
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    data = Data(arguments.data)
    engines = {}
    for name in arguments.engines:
        if name.startswith("kyrodb "):
            engines[name] = Kyrodb(arguments.command, data, arguments.cache, name.split()[1])
        else:
            engines[name] = LIBRARIES[name](name, data, arguments.cache, arguments.threads)
    samples = {name: {width: [] for width in arguments.widths} for name in engines}

    def is_beyond(name, width):
        """Past the highest recall that is asked about there is nothing to learn."""
        runs = [runs[0] for narrower, runs in samples[name].items() if narrower < width and runs]
        return any(run["recall"] >= RECALL_MAX for run in runs)

    for round_number in range(arguments.rounds):
        for turn, width in enumerate(arguments.widths, round_number):
            names = list(engines)
            turn %= len(names)
            for name in names[turn:] + names[:turn]:
                if not is_beyond(name, width):
                    samples[name][width].append(engines[name].run(width))
        print(f"round {round_number + 1} of {arguments.rounds}", flush=True)
    print(f"\n{'':16}{'recall':>8}{'ef':>6}{'QPS':>9}{'QPS of CPU':>12}")
    curves = {}
    for name, widths in samples.items():
        curves[name] = [
            {"ef": width, **{figure: statistics.median(run[figure] for run in runs)
                             for figure in ("recall", "qps", "qps_cpu")}}
            for width, runs in widths.items() if runs]
        for point in curves[name]:
            print(f"{name:16}{point['recall']:8.4f}{point['ef']:6}{point['qps']:9.0f}"
                  f"{point['qps_cpu']:12.0f}")
    print(f"\n{'':16}{'CPU 0.95':>10}{'CPU 0.99':>10}{'clock 0.95':>12}{'clock 0.99':>12}")
    for name, curve in curves.items():
        figures = [at_recall(curve, recall, figure)
                   for figure in ("qps_cpu", "qps") for recall in (0.95, 0.99)]
        print(f"{name:16}{figures[0]:10.0f}{figures[1]:10.0f}{figures[2]:12.0f}{figures[3]:12.0f}")


if __name__ == "__main__":
    main()
