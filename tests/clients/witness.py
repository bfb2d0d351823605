"""Who else is there while a server is attacked: a reader that goes on asking, a gateway that goes on sending, and an eye on
the process.

A case runs beside a witness. Afterwards the process is the same, its memory never passed a bound, and the witness was
answered rightly, by a connection that it had before, and by new ones; each batch of the gateway was acknowledged, and is
there once. How long they waited at most is told; only what took longer than ANSWER_S is wrong.
"""

import http.client
import json
import os
import pathlib
import ssl
import threading
import time

import grpc
import psycopg

from grpc_client import START_NS, channel_over_tls, messages, new
from plant import ROWS, check

# Of a server that runs with --query-memory 256MiB: that, 256 MiB for samples on their way, and what the rest takes.
RSS_MIB_MAX = 1_200
# A server that takes so much is ended, before it takes the machine.
RSS_MIB_DEADLY = 3_000
# An answer that does not come for so long will never come.
ANSWER_S = 45
QUESTION = "SELECT count(*) AS n FROM samples WHERE tag = 'plant/u1/T'"


def ask_http(plant, sql, user="reader", settings=None, timeout=ANSWER_S, path="/api/v1/sql"):
    """Status and body of a statement by HTTP."""
    body = json.dumps({"sql": sql, "settings": settings or {}})
    return post_http(plant, path, body.encode(), user, timeout, {"Content-Type": "application/json"})


def post_http(plant, path, body, user="reader", timeout=ANSWER_S, headers=None):
    context = ssl.create_default_context(cafile=str(plant.ca))
    connection = http.client.HTTPSConnection("localhost", plant.http, timeout=timeout, context=context)
    try:
        token = {"Authorization": f"Bearer {plant.tokens[user]}"} if user else {}
        try:
            connection.request("POST", path, body, {**token, **(headers or {})})
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
            # It was refused while it was still being sent.
            return 0, repr(error).encode()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class HonestGateway:
    """A stream over TLS that makes a small batch each 100 ms, whatever it hears, until it is told to stop. What the server
    is too busy for it sends again. A wait runs from the instant that the batch was due to the acknowledgement that it is on
    disk."""

    TAG, SAMPLES, EVERY_S, PAUSE_S = "honest/T", 10, 0.1, 0.5

    def __init__(self, plant, stop, wrong):
        self.plant, self.stop, self.wrong = plant, stop, wrong
        # Batches that were made, the first of them that is to be sent, and when; batches on disk.
        self.made, self.next, self.resumes, self.acknowledged = 0, 0, 0.0, 0
        self.accepted, self.refused, self.slowest_s, self.ended = 0, 0, 0.0, False
        self.mark, self.knows_mark, self.lock = None, threading.Event(), threading.Lock()
        self.channel = channel_over_tls(plant, plant.tokens["honest"])
        self.answers = messages["IngestStub"](self.channel).Stream(self.sends())
        self.thread = threading.Thread(target=self.hear)
        self.thread.start()

    def sends(self):
        yield new("ClientMessage", hello=new("Hello", gateway="honest", epoch=1))
        tag = new("TagDefinition", alias=1, name=self.TAG, type=messages["ValueType"].Value("VALUE_TYPE_F64"))
        yield new("ClientMessage", define_tags=new("DefineTags", id=1, tags=[tag]))
        self.knows_mark.wait()
        while not self.ended:
            now = time.monotonic()
            with self.lock:
                if not self.stop.is_set() and now >= self.due(self.made):
                    self.made += 1
                number = self.next if self.next < self.made and now >= self.resumes else None
                self.next += number is not None
            if number is not None:
                yield self.batch(self.mark + 1 + number)
            elif self.stop.is_set() and self.acknowledged == self.made:
                return
            else:
                time.sleep(0.01)

    def due(self, number):
        return self.began + number * self.EVERY_S

    def batch(self, seq):
        """Samples are numbered, and their times follow from their numbers."""
        values = range(seq * self.SAMPLES, (seq + 1) * self.SAMPLES)
        times = dict(base_ns=START_NS + values[0] * 10**6, step_ns=10**6)
        column = new("TagColumn", alias=1, count=self.SAMPLES, f64=values, **times)
        return new("ClientMessage", batch=new("Batch", seq=seq, columns=[column]))

    def hear(self):
        try:
            for answer in self.answers:
                kind = answer.WhichOneof("message")
                if kind == "welcome":
                    self.mark, self.began = answer.welcome.mark, time.monotonic()
                    self.knows_mark.set()
                elif kind == "ack":
                    self.take(answer.ack)
                elif kind == "nack" and answer.nack.retriable:
                    with self.lock:
                        self.next, self.resumes = answer.nack.seq - self.mark - 1, time.monotonic() + self.PAUSE_S
                    self.refused += 1
                elif kind not in ("defined", "credit"):
                    self.wrong.append(f"to a gateway: {answer}")
        except grpc.RpcError as error:
            self.wrong.append(f"to a gateway: {error.code().name} {error.details()}")
        self.ended = True
        self.knows_mark.set()

    def take(self, ack):
        self.accepted += ack.accepted_samples
        while self.mark + self.acknowledged < ack.durable_seq:
            waited = time.monotonic() - self.due(self.acknowledged)
            self.acknowledged += 1
            self.slowest_s = max(self.slowest_s, waited)
            if waited > ANSWER_S:
                self.wrong.append(f"batch {self.acknowledged} of a gateway was acknowledged after {waited:.1f} s")

    def end(self):
        """Once it was told to stop: the last acknowledgements."""
        self.thread.join(ANSWER_S)
        self.channel.close()
        self.thread.join()
        left = self.made - self.acknowledged
        if left or not self.made:
            self.wrong.append(f"of {self.made} batches of a gateway {left} are not acknowledged within {ANSWER_S} s")

    def said(self):
        again = f", {self.refused} times told to wait" if self.refused else ""
        return f"{self.acknowledged} batches of a gateway on disk, the slowest after {self.slowest_s:.1f} s{again}"

    def judge(self):
        samples = self.acknowledged * self.SAMPLES
        check(self.accepted == samples, f"{samples} samples of a gateway are taken once: {self.accepted}")
        first = (self.mark + 1) * self.SAMPLES
        sql = "SELECT value, ts FROM samples WHERE tag = %s AND value >= %s ORDER BY ts"
        with psycopg.connect(**self.plant.words("witness")) as connection:
            found = [(value, round(ts.timestamp() * 1000)) for value, ts in connection.execute(sql, [self.TAG, first])]
        wanted = [(number, START_NS // 10**6 + number) for number in range(first, first + samples)]
        odd = sorted(set(found) ^ set(wanted))
        check(found == wanted, f"{samples} acknowledged samples are there, once; found {len(found)}, first differences {odd[:3]}")


class Witness:
    """Asks all the time, until it is told to stop."""

    def __init__(self, plant):
        self.plant, self.stop = plant, threading.Event()
        self.answers, self.slowest_s, self.most_mib, self.wrong = {"kept": 0, "new": 0, "http": 0}, 0.0, 0.0, []
        self.threads = [threading.Thread(target=work) for work in (self.ask, self.watch)]

    def __enter__(self):
        self.pid = self.plant.process.pid
        self.gateway = HonestGateway(self.plant, self.stop, self.wrong)
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind, *_):
        # It is heard at least once by each way, however short the case was.
        deadline = time.monotonic() + 2 * ANSWER_S
        while min(self.gateway.acknowledged, *self.answers.values()) == 0 and not self.wrong and time.monotonic() < deadline:
            time.sleep(0.05)
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.gateway.end()
        if kind is None:
            self.judge()

    def judge(self):
        check(self.most_mib < RSS_MIB_MAX, f"the server takes less than {RSS_MIB_MAX} MiB; it took {self.most_mib:.0f}")
        check(self.plant.process.poll() is None and self.plant.process.pid == self.pid, "the process is the same")
        check(pathlib.Path(f"/proc/{self.pid}/status").exists(), "the process is there")
        check(self.rests(), "what was refused or ended is not worked on any more: the process comes to rest")
        check(not self.wrong, f"another client is served meanwhile: {self.wrong[:2]}")
        check(min(self.answers.values()) > 0, f"another client is served meanwhile: {self.answers}")
        self.gateway.judge()

    def rests(self):
        """Whether the process stops working once nobody asks for anything."""
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            before = self.cpu_s()
            time.sleep(1)
            if self.cpu_s() - before < 0.5:
                return True
        return False

    def cpu_s(self):
        """Time of processors that the process has used."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def said(self):
        asked = sum(self.answers.values())
        told = f"{asked} answers to others, the slowest after {self.slowest_s:.1f} s"
        return f"{told}; {self.gateway.said()}; at most {self.most_mib:.0f} MiB"

    def watch(self):
        while not self.stop.is_set():
            try:
                now = self.plant.rss_mib()
                self.most_mib = max(self.most_mib, now)
                if now > RSS_MIB_DEADLY:
                    self.wrong.append(f"the server took {now:.0f} MiB, and was killed for it")
                    self.plant.process.kill()
            except (OSError, TypeError):
                return
            time.sleep(0.02)

    def ask(self):
        try:
            with self.connect() as kept:
                while not self.stop.is_set():
                    self.once("kept", lambda: kept.execute(QUESTION).fetchone()[0])
                    self.once("new", self.by_new)
                    self.once("http", self.by_http)
                    time.sleep(0.1)
        except Exception as error:
            self.wrong.append(repr(error))

    def connect(self):
        return psycopg.connect(**self.plant.words("witness", connect_timeout=ANSWER_S), autocommit=True)

    def by_new(self):
        with self.connect() as connection:
            return connection.execute(QUESTION).fetchone()[0]

    def by_http(self):
        status, body = ask_http(self.plant, QUESTION, "witness")
        return json.loads(body)[0]["n"] if status == 200 else f"{status} {body[:200]}"

    def once(self, way, question):
        began = time.monotonic()
        try:
            found = question()
        except Exception as error:
            found = repr(error)
        waited = time.monotonic() - began
        self.slowest_s = max(self.slowest_s, waited)
        self.answers[way] += 1
        if found != ROWS or waited > ANSWER_S:
            self.wrong.append(f"{way}, after {waited:.1f} s: {found}")


def beside_a_witness(case):
    """The case, with a witness beside it."""
    def run(plant):
        with Witness(plant) as witness:
            said = case(plant)
        return "; ".join(filter(None, [said, witness.said()]))

    run.__name__ = case.__name__
    return run


def open_files(plant):
    """Files and sockets that the server holds."""
    return len(os.listdir(f"/proc/{plant.process.pid}/fd"))
