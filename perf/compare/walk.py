#!/usr/bin/env python3
"""The walk beside the libraries from PyPI: one thread, one data set, one graph each, in turns.

    python3 -m venv target/compare
    target/compare/bin/pip install numpy hnswlib usearch faiss-cpu rabitqlib scalable-vs
    target/compare/bin/python perf/compare/walk.py --data DIR

Those that are not installed are left out, which is said. All have M = 16 and ef_construction = 200,
the same vectors scaled to length 1, the same queries and k = 10. SymphonyQG (of rabitqlib 0.7 or 0.8)
and SVS Vamana have no M: they have 32 links a node at most, as M = 16 has on the lowest level. SVS
f16 keeps vectors as float16; its LVQ ends the process on CPUs that are not Intel's, so it is not
here. Graphs are kept in --cache. A round runs every engine once at every beam width, in another
order each time; figures are medians of the rounds. Queries a second are given by the clock and by
the CPU time of the thread; what lies between two widths is interpolated, by the logarithm of the
queries a second over recall. Libraries get all queries in one call, so no Python is in the figure.

    … walk.py --data DIR --engines hnswlib --build-threads 2 --build-only

builds anew and prints documents a second, of libraries alone.
"""

import argparse
import importlib
import json
import math
import pathlib
import shlex
import statistics
import subprocess
import time

import numpy

K, M, EF_CONSTRUCTION = 10, 16, 200
RECALL_MAX = 0.992
DEGREE = 2 * M
WIDTHS = [10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 896, 1280]


class Library:
    """One of the libraries: `build` gives an index, `find` the ids at a beam width."""

    def __init__(self, name, data):
        self.name, self.data = name, data
        self.library = importlib.import_module(self.module)

    def open(self, cache, threads):
        path = cache / f"{self.name}-{len(self.data.base)}x{self.data.base.shape[1]}"
        if not path.exists():
            self.build_timed(threads)
            self.save(str(path))
        self.load(str(path))

    def build_timed(self, threads):
        begun, begun_cpu = time.monotonic(), time.process_time()
        self.build(threads)
        wall, cpu = time.monotonic() - begun, time.process_time() - begun_cpu
        rate = len(self.data.base) / wall
        print(f"{self.name}: built in {wall:.1f} s by {threads} threads, {cpu:.1f} CPU s, "
              f"{rate:.0f} documents a second", flush=True)

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
    module = "hnswlib"

    def make(self):
        self.index = self.library.Index(space="ip", dim=self.data.base.shape[1])

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
    module = "usearch.index"
    dtype = "f32"

    def build(self, threads):
        self.index = self.library.Index(
            ndim=self.data.base.shape[1], metric="ip", dtype=self.dtype,
            connectivity=M, expansion_add=EF_CONSTRUCTION)
        self.index.add(numpy.arange(len(self.data.base)), self.data.base, threads=threads)

    def save(self, path):
        self.index.save(path)

    def load(self, path):
        self.index = self.library.Index.restore(path)

    def set_width(self, width):
        self.index.expansion_search = width

    def find(self):
        return self.index.search(self.data.queries, K, threads=1).keys


class UsearchBf16(Usearch):
    dtype = "bf16"


class Faiss(Library):
    module = "faiss"

    def make(self, dimension):
        return self.library.IndexHNSWFlat(dimension, M, self.library.METRIC_INNER_PRODUCT)

    def build(self, threads):
        self.library.omp_set_num_threads(threads)
        self.index = self.make(self.data.base.shape[1])
        self.index.hnsw.efConstruction = EF_CONSTRUCTION
        self.index.train(self.data.base)
        self.index.add(self.data.base)

    def save(self, path):
        self.library.write_index(self.index, path)

    def load(self, path):
        self.index = self.library.read_index(path)

    def set_width(self, width):
        self.library.omp_set_num_threads(1)
        self.index.hnsw.efSearch = width

    def find(self):
        return self.index.search(self.data.queries, K)[1]


class FaissSq8(Faiss):
    def make(self, dimension):
        kind = self.library.ScalarQuantizer.QT_8bit
        return self.library.IndexHNSWSQ(dimension, kind, M, self.library.METRIC_INNER_PRODUCT)


class SymphonyQg(Library):
    module = "rabitqlib"

    def build(self, threads):
        self.index = self.library.SymqgIndex(self.data.base.shape[1], DEGREE, "ip")
        self.index.build(self.data.base, EF_CONSTRUCTION, threads)

    def save(self, path):
        self.index.save(path)

    def load(self, path):
        self.index = self.library.SymqgIndex.load(path)

    def set_width(self, width):
        self.width = width

    def find(self):
        return self.index.search(self.data.queries, K, self.width, 1)[0]


class Svs(Library):
    module = "svs"
    dtype = "float32"

    def build(self, threads):
        parameters = self.library.VamanaBuildParameters(
            graph_max_degree=DEGREE, window_size=EF_CONSTRUCTION)
        base = self.data.base.astype(self.dtype)
        metric = self.library.DistanceType.MIP
        self.index = self.library.Vamana.build(parameters, base, metric, num_threads=threads)

    def save(self, path):
        pathlib.Path(path).mkdir()
        self.index.save(*(f"{path}/{part}" for part in ("config", "graph", "vectors")))

    def load(self, path):
        dtype = getattr(self.library, self.dtype)
        self.index = self.library.Vamana(
            f"{path}/config", self.library.GraphLoader(f"{path}/graph"),
            self.library.VectorDataLoader(f"{path}/vectors", dtype),
            distance=self.library.DistanceType.MIP, num_threads=1)

    def set_width(self, width):
        self.index.search_window_size = width

    def find(self):
        return self.index.search(self.data.queries, K)[0]


class SvsF16(Svs):
    dtype = "float16"


LIBRARIES = {
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "usearch bf16": UsearchBf16,
    "faiss HNSW": Faiss,
    "faiss HNSW-SQ8": FaissSq8,
    "SymphonyQG": SymphonyQg,
    "SVS f32": Svs,
    "SVS f16": SvsF16,
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

    def first(self, rows, cache):
        """The first rows alone, with their true neighbours, as a data set in the cache."""
        directory = cache / f"data-{rows}x{self.base.shape[1]}"
        directory.mkdir(exist_ok=True)
        base = self.base[:rows]
        truth = numpy.argsort(-(self.queries @ base.T), axis=1, kind="stable")[:, :K]
        for name, values in (("base", base), ("queries", self.queries),
                             ("gt_ids", truth.astype(numpy.int32))):
            numpy.save(directory / f"{name}.npy", values)
        return Data(directory)


def at_recall(curve, recall, figure):
    """The figure where the curve, narrowest beam first, passes the recall."""
    for before, after in zip(curve, curve[1:]):
        if before["recall"] < recall <= after["recall"]:
            part = (recall - before["recall"]) / (after["recall"] - before["recall"])
            ends = math.log(before[figure]), math.log(after[figure])
            return math.exp(ends[0] + part * (ends[1] - ends[0]))
    return math.nan


def libraries(names, data):
    """Those of the libraries that are installed."""
    installed = {}
    for name in names:
        try:
            installed[name] = LIBRARIES[name](name, data)
        except ImportError as error:
            print(f"{name}: left out: {error}; pip install what the head of this file says")
    return installed


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("target/compare/graphs"))
    parser.add_argument("--command", default="cargo bench --quiet --bench walk --")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--build-threads", type=int, default=2, help="of the libraries' graphs")
    parser.add_argument("--build-only", action="store_true", help="how fast graphs are built")
    parser.add_argument("--rows", type=int, help="of the data set, from the first on")
    parser.add_argument("--widths", type=lambda text: [int(w) for w in text.split(",")],
                        default=WIDTHS)
    parser.add_argument("--engines", type=lambda text: text.split(","),
                        default=["kyrodb none", "kyrodb sq8", *LIBRARIES])
    return parser.parse_args()


def main():
    arguments = parse()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    data = Data(arguments.data)
    if arguments.rows:
        data = data.first(arguments.rows, arguments.cache)
    is_ours = {name: name.startswith("kyrodb ") for name in arguments.engines}
    installed = libraries([name for name, ours in is_ours.items() if not ours], data)
    if arguments.build_only:
        for library in installed.values():
            library.build_timed(arguments.build_threads)
        return
    engines = {}
    for name, ours in is_ours.items():
        if ours:
            engines[name] = Kyrodb(arguments.command, data, arguments.cache, name.split()[1])
        elif name in installed:
            installed[name].open(arguments.cache, arguments.build_threads)
            engines[name] = installed[name]
    compare(engines, arguments)


def compare(engines, arguments):
    """Runs the engines in turns, and prints what came of it."""
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
