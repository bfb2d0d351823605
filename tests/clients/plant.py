"""A small plant for clients of other makers: a database, a certificate, tokens, and `tagmill serve` with all its doors.

It needs openssl for the certificate, and ends only processes it started.
"""

import contextlib
import csv
import datetime
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import traceback

WAIT_S = 60
UTC = datetime.timezone.utc
START = datetime.datetime(2026, 3, 1, tzinfo=UTC)
ROWS = 3_000
# Doubles that a careless protocol changes.
ODD = [0.0, -0.0, 0.1, 1e300, 5e-324, 1e15, 123456.789]


def run(command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **more)
    check(done.returncode == 0, f"{command[:3]} ends well: {done.stdout}{done.stderr}")
    return done.stdout


NEW = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def certify(folder):
    """An authority, and a certificate of it for this machine."""
    run(["openssl", "req", "-x509", *NEW, "-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-days", "2",
         "-subj", "/CN=An authority"])
    run(["openssl", "req", *NEW, "-keyout", folder / "server.key", "-out", folder / "server.csr", "-subj", "/CN=localhost"])
    (folder / "server.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    run(["openssl", "x509", "-req", "-in", folder / "server.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
         "-CAcreateserial", "-out", folder / "server.pem", "-days", "2", "-extfile", folder / "server.ext"])


class Authority:
    """An authority of gateways, with a list of what it has revoked."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        (folder / "index.txt").write_text("")
        (folder / "crlnumber").write_text("01\n")
        (folder / "ca.cnf").write_text(
            f"[ca]\ndefault_ca = d\n[d]\ndatabase = {folder}/index.txt\ncrlnumber = {folder}/crlnumber\ndefault_md = sha256\ndefault_crl_days = 2\n")
        self.ca, self.key, self.crl = folder / "ca.pem", folder / "ca.key", folder / "crl.pem"
        run(["openssl", "req", "-x509", *NEW, "-keyout", self.key, "-out", self.ca, "-days", "2", "-subj", f"/CN={folder.name}",
             "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-addext", "basicConstraints=critical,CA:TRUE"])
        self.list_revoked()

    def issue(self, name, uri):
        """A certificate and its key."""
        cert, key, extra = self.folder / f"{name}.pem", self.folder / f"{name}.key", self.folder / f"{name}.ext"
        extra.write_text(f"subjectAltName=URI:{uri}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n")
        run(["openssl", "req", *NEW, "-keyout", key, "-out", self.folder / f"{name}.csr", "-subj", f"/CN={name}"])
        run(["openssl", "x509", "-req", "-in", self.folder / f"{name}.csr", "-CA", self.ca, "-CAkey", self.key, "-CAcreateserial", "-out", cert, "-days", "2", "-extfile", extra])
        return cert, key

    def list_revoked(self, *certificates):
        for cert, _ in certificates:
            run(["openssl", "ca", "-config", self.folder / "ca.cnf", "-revoke", cert, "-keyfile", self.key, "-cert", self.ca])
        part = self.folder / "crl.part"
        run(["openssl", "ca", "-config", self.folder / "ca.cnf", "-gencrl", "-keyfile", self.key, "-cert", self.ca, "-out", part])
        os.replace(part, self.crl)


def check(holds, claim):
    if not holds:
        raise AssertionError(f"does not hold: {claim}")


def equal(found, wanted, what):
    check(found == wanted, f"{what} is {wanted!r}; found {found!r}")


def run_cases(name, plant, cases, goes_on=False):
    """Runs every case, or those that the command line names, whatever came of those before, and says what each found. Gives
    those that failed if more is to follow; otherwise they end the program."""
    failed, wanted = [], sys.argv[2:]
    for case in [case for case in cases if not wanted or case.__name__ in wanted]:
        began = time.monotonic()
        try:
            said = case(plant) or "ok"
        except Exception as error:
            traceback.print_exc(limit=-4, file=sys.stdout)
            said = f"FAILED: {error}"
            failed.append(case.__name__)
        print(f"{name}: {case.__name__}: {said} ({time.monotonic() - began:.1f} s)", flush=True)
    if goes_on:
        return failed
    if failed:
        sys.exit(f"{name}: failed: {', '.join(failed)}")
    print(f"{name}: everything as it should be")


class Plant:
    """A database of two units, its certificate, its tokens, and a server."""

    # What the server tells of itself on standard error.
    log = "warn"

    def __init__(self, binary, scratch):
        self.binary, self.data, self.scratch = binary, scratch / "data", scratch
        self.ca, self.cert, self.key = scratch / "ca.pem", scratch / "server.pem", scratch / "server.key"
        certify(scratch)
        rows = scratch / "rows.csv"
        with rows.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["tag", "ts", "value"])
            for number in range(ROWS):
                at = START + datetime.timedelta(seconds=number)
                for unit in [1, 10]:
                    writer.writerow([f"plant/u{unit}/T", at.isoformat(), unit * 1000 + number / 8])
        self.tagmill("import", rows, "--map", "tag=tag,time=ts,value=value", "--data", self.data)
        odd = scratch / "odd.csv"
        with odd.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["tag", "ts", "value"])
            for number, value in enumerate(ODD):
                writer.writerow(["plant/odd", f"2026-03-02T00:00:{number:02}.123456789Z", repr(value)])
        self.tagmill("import", odd, "--map", "tag=tag,time=ts,value=value", "--data", self.data)
        create = ["token", "create", "--data", self.data, "--role"]
        self.tokens = {
            "boss": self.tagmill(*create, "admin", "boss").strip(),
            "reader": self.tagmill(*create, "reader", "reader").strip(),
            "unit1": self.tagmill(*create, "reader", "--scope", "plant/u1", "unit1").strip(),
            "gateway": self.tagmill(*create, "writer", "gateway").strip(),
            "leaver": self.tagmill(*create, "reader", "leaver").strip(),
        }

    def tagmill(self, *arguments, **environment):
        return run([self.binary, *arguments], env={**os.environ, **environment})

    def token(self, name, *words, role="reader"):
        """A new token. A server that runs knows it within a second or two."""
        self.tokens[name] = self.tagmill("token", "create", "--data", self.data, "--role", role, *words, name).strip()
        return self.tokens[name]

    def rss_mib(self):
        """Memory of the server that lies in RAM now."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024

    @contextlib.contextmanager
    def serve(self, *words, own_figures="off", stderr=None):
        ports = []
        for _ in range(3):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        self.grpc, self.port, self.http = ports
        process = self.process = subprocess.Popen(
            [self.binary, "serve", "--data", self.data, "--listen", f"127.0.0.1:{self.grpc}",
             "--postgres", f"127.0.0.1:{self.port}", "--http", f"127.0.0.1:{self.http}", "--tls-cert", self.cert, "--tls-key", self.key,
             "--own-figures", own_figures, *[str(word) for word in words]],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "TAGMILL_LOG": self.log},
        )
        try:
            # HTTP is the last of the doors to open.
            for _ in range(WAIT_S * 10):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.http), 1):
                    break
                check(process.poll() is None, "the server runs")
                time.sleep(0.1)
            yield
            check(process.poll() is None, "the server still runs")
        finally:
            process.terminate()
            try:
                process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def words(self, user="reader", **more):
        """What libpq needs to connect."""
        words = {"host": "localhost", "port": self.port, "dbname": "tagmill", "user": user,
                 "password": self.tokens.get(user, "none"), "sslmode": "verify-full", "sslrootcert": str(self.ca),
                 "connect_timeout": 10}
        return {**words, **more}
