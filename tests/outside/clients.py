#!/usr/bin/env python3
"""Drives a server with grpcio, the C core that most languages' clients are made of: it writes a DATA frame a
message, keeps its own windows, pings and deadlines. Usage: clients.py PATH_OF_kyrodb_server

`.ci/run` makes a virtual environment for it from requirements.txt.
"""

import importlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIMENSION = 8
LOADED = 60_000
SEARCHED = 10_000
PATIENCE_SECONDS = 60
# What a check may add to the server's memory beside the bytes in flight: documents, and what the allocator keeps.
BESIDE_BYTES = 96 << 20
SETTINGS = {
    "KYRODB__HNSW__DISTANCE": "euclidean",
    "KYRODB__HNSW__M": "8",
    "KYRODB__HNSW__EF_CONSTRUCTION": "50",
    "KYRODB__RUNTIME__SHARDS": "1",
    # The least account of bytes in flight: 128 MiB.
    "KYRODB__MEMORY__MAX_BYTES": str(1 << 30),
    # A machine may be slow; nothing here is about how fast searches are.
    "KYRODB__TIMEOUTS__COLD_TIER_MS": "30000",
    "KYRODB__SERVER__CONNECTION_TIMEOUT_SECS": "20",
}


def messages(directory):
    """The messages and stubs of the proto."""
    asked = ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={directory}", f"--grpc_python_out={directory}"]
    code = protoc.main([*asked, str(ROOT / "proto/kyrodb/v1/kyrodb.proto")])
    assert code == 0, "the proto is not understood"
    sys.path.insert(0, directory)
    return (
        importlib.import_module("kyrodb.v1.kyrodb_pb2"),
        importlib.import_module("kyrodb.v1.kyrodb_pb2_grpc"),
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def vector(seed):
    numbers = random.Random(seed)
    return [numbers.uniform(-1, 1) for _ in range(DIMENSION)]


def code_of(call):
    """What a call that has to fail fails with."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    raise AssertionError("the call has not failed")


class Run:
    def __init__(self, binary, directory):
        self.pb, self.grpc = messages(directory)
        self.port, self.http = free_port(), free_port()
        self.data = pathlib.Path(directory) / "data"
        self.binary = binary
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options)
        self.stub = self.grpc.KyroDBServiceStub(self.channel)
        self.server = None

    def start(self):
        environment = {**os.environ, **SETTINGS, "KYRODB__SERVER__HTTP_PORT": str(self.http)}
        asked = [self.binary, "--data-dir", str(self.data), "--port", str(self.port)]
        self.server = subprocess.Popen(asked, env=environment, stdout=subprocess.DEVNULL)

    def document(self, doc_id):
        return self.pb.InsertRequest(doc_id=doc_id, embedding=vector(doc_id))

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=10) as page:
            return page.read().decode()

    def metric(self, name):
        """The sum of a metric over its labels."""
        lines = [line.rsplit(" ", 1) for line in self.metrics().splitlines()]
        found = [float(line[1]) for line in lines if line[0].partition("{")[0] == name]
        assert found, name
        return sum(found)

    def memory(self):
        """Resident memory of the server in bytes: now, and the most since it was last asked."""
        process = pathlib.Path(f"/proc/{self.server.pid}")
        lines = [line.split() for line in (process / "status").read_text().splitlines()]
        sizes = {words[0]: int(words[1]) << 10 for words in lines if words[-1] == "kB"}
        (process / "clear_refs").write_text("5")
        return sizes["VmRSS:"], sizes["VmHWM:"]

    def keeps_to_its_account(self, check):
        """Runs a check. Memory beside it grows by no more than the accounts of requests and answers allow."""
        before, _ = self.memory()
        check(self)
        _, most = self.memory()
        allowed = self.metric("kyrodb_in_flight_bytes_max") + BESIDE_BYTES
        assert most - before <= allowed, f"{check.__name__}: {most - before} bytes, {allowed} allowed"
        return most - before

    # Each of these is a check, in this order.

    def waits_for_a_server_that_is_not_there_yet(self):
        assert code_of(lambda: self.stub.Health(self.pb.HealthRequest(), timeout=5)) == (
            grpc.StatusCode.UNAVAILABLE
        )
        waiting = self.stub.Health.future(
            self.pb.HealthRequest(), timeout=PATIENCE_SECONDS, wait_for_ready=True
        )
        self.start()
        assert waiting.result().version
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.stub.Insert(self.document(1), timeout=PATIENCE_SECONDS, wait_for_ready=True)
                return
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                assert time.monotonic() < deadline, error
                time.sleep(0.05)

    def inserts_and_finds(self):
        for doc_id in range(1, 101):
            assert self.stub.Insert(self.document(doc_id)).success
        found = self.stub.Search(self.pb.SearchRequest(query_embedding=vector(7), k=3))
        assert found.results[0].doc_id == 7, found

    def inserts_in_bulk(self):
        answer = self.stub.BulkInsert(self.document(doc_id) for doc_id in range(1, 3_001))
        assert (answer.total_inserted, answer.total_failed) == (3_000, 0), answer

    def loads_small_documents(self):
        # Made before, so that the client is ahead of the server.
        documents = [self.document(doc_id) for doc_id in range(1, LOADED + 1)]
        answer = self.stub.BulkLoadHnsw(iter(documents), timeout=PATIENCE_SECONDS * 4)
        assert (answer.total_loaded, answer.total_failed) == (LOADED, 0), answer

    def searches_in_streams_by_id(self):
        """Two streams on one connection, and calls beside them."""

        def stream(results):
            results.append(sum(1 for _ in self.stub.BulkSearch(iter(requests))))

        results = []
        requests = [
            self.pb.SearchRequest(query_doc_id=n % LOADED + 1, k=10) for n in range(SEARCHED)
        ]
        threads = [threading.Thread(target=stream, args=(results,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        beside = 0
        while any(thread.is_alive() for thread in threads):
            assert self.stub.Query(self.pb.QueryRequest(doc_id=beside % LOADED + 1)).found
            beside += 1
        assert results == [SEARCHED] * 2, results
        assert beside > 0

    def reads_in_bulk(self):
        ids = [n % 100 + 1 for n in range(10_000)]
        answer = self.stub.BulkQuery(
            self.pb.BulkQueryRequest(doc_ids=ids, include_embeddings=True)
        )
        assert answer.total_found == 10_000
        assert [result.doc_id for result in answer.results] == ids
        assert all(len(result.embedding) == DIMENSION for result in answer.results)

    def takes_answers_late(self):
        """A stream whose answers wait in the windows; what it took so far is right, and the rest comes."""
        requests = (self.pb.SearchRequest(query_doc_id=n + 1, k=100) for n in range(3_000))
        answers = self.stub.BulkSearch(requests)
        assert next(answers).results[0].doc_id == 1
        for _ in range(20):
            self.stub.Query(self.pb.QueryRequest(doc_id=1))
            time.sleep(0.05)
        first = [answer.results[0].doc_id for answer in answers]
        assert first == list(range(2, 3_001))

    def keeps_deadlines(self):
        stop = threading.Event()

        def slow():
            yield self.document(1)
            stop.wait(PATIENCE_SECONDS)

        begun = time.monotonic()
        assert code_of(lambda: self.stub.BulkInsert(slow(), timeout=1)) == (
            grpc.StatusCode.DEADLINE_EXCEEDED
        )
        stop.set()
        assert time.monotonic() - begun < PATIENCE_SECONDS / 2

    def cancels(self):
        """Many at once, in every state; the connection goes on."""
        request = self.pb.SearchRequest(query_embedding=vector(1), k=1_000)
        for _ in range(5):
            calls = [self.stub.Search.future(request) for _ in range(300)]
            for call in calls:
                call.cancel()
            streams = [
                self.stub.BulkSearch(iter([request] * 50)) for _ in range(20)
            ]
            for stream in streams:
                next(stream)
                stream.cancel()
            assert self.stub.Query(self.pb.QueryRequest(doc_id=1)).found

    def no_connection_was_ended(self):
        ended = [
            line
            for line in self.metrics().splitlines()
            if line.startswith(("kyrodb_connections_ended_total", "kyrodb_panics_total"))
        ]
        assert len(ended) > 1, ended
        assert all(line.endswith(" 0") for line in ended), ended

    def stops(self):
        self.channel.close()
        self.server.send_signal(signal.SIGTERM)
        assert self.server.wait(PATIENCE_SECONDS) == 0


CHECKS = [
    Run.waits_for_a_server_that_is_not_there_yet,
    Run.inserts_and_finds,
    Run.inserts_in_bulk,
    Run.loads_small_documents,
    Run.searches_in_streams_by_id,
    Run.reads_in_bulk,
    Run.takes_answers_late,
    Run.keeps_deadlines,
    Run.cancels,
    Run.no_connection_was_ended,
    Run.stops,
]


def main():
    binary = os.path.abspath(sys.argv[1])
    # Beside the program: its files have to be where O_DIRECT works.
    with tempfile.TemporaryDirectory(dir=os.path.dirname(binary)) as directory:
        run = Run(binary, directory)
        try:
            for check in CHECKS:
                begun = time.monotonic()
                if check in (CHECKS[0], CHECKS[-1]):
                    check(run)
                    more = ""
                else:
                    more = f", at most {run.keeps_to_its_account(check) >> 20} MiB more"
                took = time.monotonic() - begun
                print(f"grpcio {check.__name__}: ok, {took:.1f} s{more}", flush=True)
        finally:
            if run.server and run.server.poll() is None:
                run.server.kill()


if __name__ == "__main__":
    main()
