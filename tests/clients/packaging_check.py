#!/usr/bin/env python3
"""What lies in packaging/, against the real binary: the example configuration, the systemd unit, the Dockerfile; and the log.

    python packaging_check.py PATH_TO_TAGMILL

It builds no image and starts no unit. It does what they say by hand: the same words, variables and files, with paths in a
temporary folder and addresses on loopback. What this machine lacks (openssl, systemd-analyze, strace) it says SKIPPED for.
It ends only processes it started.
"""

import contextlib
import datetime
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib

import psycopg

from plant import UTC, WAIT_S, Authority, certify, check, equal, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
# As `systemd-analyze security` counts, from 0 (nothing to attack) to 10.
EXPOSURE_MOST = 1.5
# What the unit asks of systemd so that a server that was broken into can do little.
CLOSED = {
    "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes", "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "", "RestrictNamespaces": "yes", "MemoryDenyWriteExecute": "yes", "UMask": "0077",
    "SystemCallArchitectures": "native",
}


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    if not shutil.which("openssl"):
        print("packaging_check: SKIPPED, there is no openssl to make a certificate with")
        return
    with tempfile.TemporaryDirectory(prefix="tagmill-packaging-") as scratch:
        site = Site(binary, pathlib.Path(scratch))
        for case in [configuration, words, pages, unit, readiness, json_log, systemd, system_calls, image, build, healthy]:
            began = time.monotonic()
            said = case(site)
            print(f"packaging_check: {case.__name__}: {said or 'ok'} ({time.monotonic() - began:.1f} s)", flush=True)
    print("packaging_check: everything as it should be")


class Site:
    """A certificate, a token, and the files of packaging/ with this machine's paths in them."""

    def __init__(self, binary, scratch):
        self.binary, self.scratch = binary, scratch
        certify(scratch)
        self.data, self.backups = scratch / "data", scratch / "backups"
        self.data.mkdir()
        self.gateways = Authority(scratch / "gateways")
        self.token = self.tagmill("token", "create", "boss", "--role", "admin", "--data", self.data).strip()
        self.serve_words = self.words_of("serve")

    def tagmill(self, *words, **environment):
        return run([self.binary, *words], env={**without_tagmill(os.environ), **environment})

    def words_of(self, *command):
        """Words that a command takes, from its help."""
        return set(re.findall(r"^ {2,}(?:-\w, )?(--[a-z-]+)", self.tagmill(*command, "--help"), re.M))

    def here(self, text):
        """A text with this machine's paths in the place of those of a package, and three free ports."""
        for there, here in [("/var/lib/tagmill-backups", self.backups), ("/var/lib/tagmill", self.data),
                            ("/etc/tagmill/server.pem", self.scratch / "server.pem"),
                            ("/etc/tagmill/server.key", self.scratch / "server.key"),
                            ("/etc/tagmill/gateways-ca.pem", self.gateways.ca),
                            ("/etc/tagmill/gateways-crl.pem", self.gateways.crl),
                            ("/etc/tagmill/access.toml", self.data / "access.toml"),
                            ("/etc/tagmill/tagmill.toml", self.scratch / "tagmill.toml"),
                            ("/usr/bin/tagmill", self.binary)]:
            text = re.sub(re.escape(there) + r"(?![\w-])", str(here), text)
        return text

    @contextlib.contextmanager
    def running(self, command, port, stop_s=WAIT_S, stderr=subprocess.DEVNULL, **environment):
        """A server until it accepts at the last of its ports, then until SIGTERM: the end of its work."""
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stderr=stderr,
                                   env={**without_tagmill(os.environ), "TAGMILL_LOG": "warn", **environment})
        try:
            for _ in range(WAIT_S * 10):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port + 2), 1):
                    break
                check(process.poll() is None, "the server runs")
                time.sleep(0.1)
            yield process
            process.send_signal(signal.SIGTERM)
            equal(process.wait(stop_s), 0, "the exit code after SIGTERM")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def without_tagmill(environment):
    return {name: value for name, value in environment.items() if not name.startswith("TAGMILL_")}


def free_ports(count):
    """Ports that are free in a row, as the server takes them: gRPC, PostgreSQL, HTTP."""
    for first in range(21_000, 60_000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("there are no free ports in a row")


def example():
    return (PACKAGING / "tagmill.toml").read_text()


def examples_in_it():
    """Lines that begin with `#` and would be keys."""
    return [line[1:] for line in example().splitlines() if re.match(r"#\w+ = ", line)]


def configuration(site):
    """The example is accepted as it is, and with every line that is switched off in it."""
    said = site.tagmill("config", "check", PACKAGING / "tagmill.toml")
    check("127.0.0.1:7410" in said and "nobody is asked" in said, f"on loopback alone: {said}")
    everything = example() + "\n" + "\n".join(examples_in_it())
    keys = set(tomllib.loads(everything))
    words = {"--" + key.replace("_", "-") for key in keys} | {"--config", "--confirm-clock", "--help"}
    equal(words, site.serve_words, "words of serve, from the example and from the help,")
    path = site.scratch / "all.toml"
    path.write_text(site.here(everything).replace('listen = "127.0.0.1:7410"', 'listen = "0.0.0.0:7410"'))
    said = site.tagmill("config", "check", path)
    for wanted in ["gRPC       0.0.0.0:7410", "TLS        on", "access.toml", "vibration: 30 days"]:
        check(wanted in said, f"all of it is understood, {wanted!r} too: {said}")
    path.write_text(everything + "\nlisten_to = 'nobody'\n")
    done = subprocess.run([site.binary, "config", "check", path], capture_output=True, text=True, timeout=60)
    check(done.returncode == 1 and "listen_to" in done.stderr, f"an unknown key is refused: {done.stderr}")


def settings():
    """The unit as (section, key) and values, in their order; an empty value stays."""
    found, section = {}, None
    for line in (PACKAGING / "tagmill.service").read_text().splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault((section, key), []).append(value)
    return found


def service(key):
    values = settings().get(("Service", key), [])
    equal(len(values), 1, f"lines of {key}")
    return values[0]


def words(site):
    """Each word that unit and image pass is one that the binary knows."""
    for key in ["ExecStartPre", "ExecStart"]:
        command = shlex.split(service(key))
        equal(command[0], "/usr/bin/tagmill", f"{key}: the program")
        path = [word for word in command[1:] if re.fullmatch(r"[a-z]+", word)]
        known = site.words_of(*path)
        for flag in [word for word in command if word.startswith("--")]:
            check(flag in known, f"{key}: {flag} is a word of {path}")
    for name in [*environment_of_image(), *[line.split("=")[0] for line in settings()[("Service", "Environment")]]]:
        is_known = "--" + name.removeprefix("TAGMILL_").lower().replace("_", "-") in site.serve_words
        check(is_known or name == "TAGMILL_LOG", f"the variable {name} stands for a word of serve")


def pages(site):
    """Every word of a command that the operations pages show is one that the command has."""
    count = 0
    for page in ["operations.md", "grafana/README.md", "security.md"]:
        text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
        blocks = "\n".join(re.findall(r"```(?:sh|console)\n(.*?)```", text, re.S))
        for line in re.findall(r"(?:^|[$;&|-] |tagmill )(tagmill [a-z].*)", blocks, re.M):
            command = re.split(r" [>#|]", line)[0]
            path = re.match(r"tagmill ((?:token|config|tags) [a-z]+|[a-z]+)", command)[1].split()
            flags = set(re.findall(r" (--[a-z-]+)", re.sub(r'"[^"]*"', "", command)))
            unknown = flags - site.words_of(*path) - {"--help"}
            check(not unknown, f"{page}: {command!r} has words of 'tagmill {' '.join(path)}'; it has not: {unknown}")
            count += 1
    check(count > 25, f"commands were found: {count}")
    return f"{count} commands"


def unit(site):
    """The unit's command, started and ended as systemd would; its folders are those of the configuration."""
    known = tomllib.loads(example())
    folders = ["/var/lib/" + name for name in service("StateDirectory").split()]
    equal(folders, [known["data"], known["backups"]], "folders of unit and configuration")
    for key, value in CLOSED.items():
        equal(service(key), value, key)
    equal(service("User"), re.search(r"^u (\w+) ", (PACKAGING / "tagmill.sysusers").read_text(), re.M)[1], "the user that is made")
    port = free_ports(3)
    (site.scratch / "tagmill.toml").write_text(site.here(example()).replace("127.0.0.1:7410", f"127.0.0.1:{port}"))
    site.tagmill(*shlex.split(site.here(service("ExecStartPre")))[1:])
    with site.running(shlex.split(site.here(service("ExecStart"))), port, int(service("TimeoutStopSec"))):
        ask = ["--connect", f"127.0.0.1:{port}"]
        site.tagmill("write", "a/tag", "now", "1", *ask, TAGMILL_TOKEN=site.token)
        site.tagmill("backup", "first", *ask, TAGMILL_TOKEN=site.token)
    check((site.backups / "first" / "BACKUP").exists(), "a backup in the unit's folder")
    done = subprocess.run([site.binary, "serve", "--no-such-word"], capture_output=True, timeout=60)
    equal(str(done.returncode), service("RestartPreventExitStatus"), "the exit code for words that are not understood")


def readiness(site):
    """The unit's type is what the server does: it may wait for a word of readiness only if the server says one."""
    path, port = site.scratch / "notify", free_ports(3)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(path))
        told.settimeout(1)
        command = [site.binary, "serve", "--data", site.data, "--listen", f"127.0.0.1:{port}"]
        with site.running(command, port, NOTIFY_SOCKET=str(path)):
            heard = b""
            with contextlib.suppress(TimeoutError):
                heard = told.recv(4_096)
    wanted = "notify" if b"READY=1" in heard else "exec"
    equal(service("Type"), wanted, f"Type= of packaging/tagmill.service, for a server that tells systemd {heard!r},")
    return f"Type={wanted}"


def json_log(site):
    """--log-format json: every event is one object a line, whatever strangers put into it."""
    path, file, port, user = site.scratch / "log", site.scratch / "one.csv", free_ports(3), 'eve"}\n{"level":"ERROR'
    file.write_text("tag,ts,value\nlog/T,2026-03-01T00:00:00Z,1\n")
    command = [site.binary, "serve", "--data", site.data, "--listen", f"127.0.0.1:{port}", "--log-format", "json"]
    began = datetime.datetime.now(UTC)
    with path.open("w") as log, site.running(command, port, stderr=log, TAGMILL_LOG="info"):
        ask = ["--connect", f"127.0.0.1:{port}"]
        site.tagmill("import", file, "--map", "tag=tag,time=ts,value=value", "--id", "one", *ask, TAGMILL_TOKEN=site.token)
        with contextlib.suppress(psycopg.Error):
            psycopg.connect(host="127.0.0.1", port=port + 1, user=user, password=site.token, dbname="tagmill").close()
            raise AssertionError("does not hold: a stranger is refused")
    text = path.read_text()
    events = [json.loads(line) for line in text.splitlines()]
    for event in events:
        check(began < datetime.datetime.fromisoformat(event["timestamp"]) < datetime.datetime.now(UTC), f"when: {event}")
    for wanted in [
        {"level": "INFO", "target": "tagmill_server::ingest::stream", "message": "connected", "gateway": "import/one", "epoch": 1},
        {"level": "WARN", "target": "tagmill_server::access", "message": "a login was refused", "door": "postgres", "user": user},
    ]:
        found = [event for event in events if wanted.items() <= event.items()]
        equal(len(found), 1, f"events {wanted} of {events}")
    check("127.0.0.1:" in found[0]["peer"] and site.token not in text, f"from where, and no token: {text}")
    return f"{len(events)} events"


def systemd(site):
    """What systemd itself says of the unit."""
    if not shutil.which("systemd-analyze"):
        return "SKIPPED, there is no systemd-analyze"
    path = site.scratch / "tagmill.service"
    path.write_text((PACKAGING / "tagmill.service").read_text().replace("/usr/bin/tagmill", str(site.binary)))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, timeout=60)
    lines = [line for line in done.stderr.splitlines() if "tagmill.service" in line]
    check(done.returncode == 0 and not lines, f"systemd-analyze verify finds nothing: {done.stderr}")
    said = run(["systemd-analyze", "security", "--offline=true", "--no-pager", path])
    level = float(re.search(r"exposure level for \S+: ([\d.]+)", said)[1])
    check(level <= EXPOSURE_MOST, f"the exposure is at most {EXPOSURE_MOST}: {said}")
    return f"exposure {level}"


def resolved(names):
    """Names of system calls, from names of them and of systemd's sets."""
    found = {name for name in names if not name.startswith("@")}
    open_sets = [name for name in names if name.startswith("@")]
    while open_sets:
        name = open_sets.pop()
        said = run(["systemd-analyze", "syscall-filter", "--no-pager", name])
        inner = [line.strip() for line in said.splitlines()[1:] if line.startswith("    ") and "#" not in line]
        open_sets += [one for one in inner if one.startswith("@")]
        found |= {one for one in inner if not one.startswith("@")}
    return found


def system_calls(site):
    """A server at work makes no call that the unit's filter forbids."""
    missing = [name for name in ["strace", "systemd-analyze"] if not shutil.which(name)]
    if missing:
        return f"SKIPPED, there is no {' and no '.join(missing)}"
    if subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, timeout=60).returncode:
        return "SKIPPED, strace may not trace here"
    allowed = resolved(["@default"])
    for line in settings()[("Service", "SystemCallFilter")]:
        sets = resolved(line.removeprefix("~").split())
        allowed = allowed - sets if line.startswith("~") else allowed | sets
    check("fdatasync" in allowed and "reboot" not in allowed and "mount" not in allowed, "the filter is read as it should be")
    log, port = site.scratch / "calls", free_ports(3)
    command = ["strace", "-f", "-qq", "-o", log, site.binary, "serve", "--data", site.data, "--listen", f"127.0.0.1:{port}",
               "--backups", site.backups, "--tls-cert", site.scratch / "server.pem", "--tls-key", site.scratch / "server.key"]
    with site.running(command, port) as traced:
        words = {"TAGMILL_TOKEN": site.token, "TAGMILL_CA": str(site.scratch / "ca.pem")}
        ask = ["--connect", f"https://localhost:{port}"]
        site.tagmill("write", "a/tag", "now", "2", *ask, **words)
        site.tagmill("sql", *ask, "-c", "SELECT count(*), avg(value) FROM samples", **words)
        site.tagmill("backup", "first", *ask, **words)
        site.tagmill("verify", *ask, **words)
        # strace passes no signal on: the server itself is told, by its number.
        [server] = pathlib.Path(f"/proc/{traced.pid}/task/{traced.pid}/children").read_text().split()
        os.kill(int(server), signal.SIGTERM)
        traced.wait(WAIT_S)
    text = log.read_text(errors="replace")
    calls = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", text, re.M))
    check({"fdatasync", "accept4", "flock"} <= calls, f"the calls of a server at work: {calls}")
    equal(calls - allowed, set(), "calls that the filter forbids")
    return f"{len(calls)} different calls"


def instructions():
    """The Dockerfile as (word, rest), lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (PACKAGING / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def instruction(word):
    """The last of a kind, which is the one that counts."""
    return [rest for found, rest in instructions() if found == word][-1]


def environment_of_image():
    return dict(pair.split("=", 1) for word, rest in instructions() if word == "ENV" for pair in shlex.split(rest))


def image(site):
    """The image as its text says it is: nobody's rights, no secrets, closed by default, the ports that the server takes."""
    stages = [rest for word, rest in instructions() if word == "FROM"]
    equal(len(stages), 2, "stages")
    wanted = re.search(r'^rust-version = "(\d+)\.(\d+)"', (ROOT / "Cargo.toml").read_text(), re.M)
    has = re.match(r"rust:(\d+)\.(\d+)-(\w+) AS build", stages[0])
    check(has and (int(has[1]), int(has[2])) >= (int(wanted[1]), int(wanted[2])), f"a compiler that is new enough: {stages[0]}")
    check(stages[1].startswith(f"debian:{has[3]}"), f"the same libraries where it was built and where it runs: {stages}")
    user = instruction("USER")
    check(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"a user by number, not root: {user}")
    check(f"--uid {user.split(':')[0]} " in instruction("RUN"), "the user is made")
    environment = environment_of_image()
    for word, rest in instructions():
        check(word != "ARG" and not re.search(r"(?i)token|password|secret|tgm_", rest), f"no secret in {word} {rest}")
    equal(json.loads(instruction("VOLUME")), [environment["TAGMILL_DATA"], environment["TAGMILL_BACKUPS"]], "volumes")
    port = int(environment["TAGMILL_LISTEN"].rsplit(":", 1)[1])
    equal([int(one) for one in instruction("EXPOSE").split()], [port, port + 1, port + 2], "ports")
    equal(json.loads(instruction("ENTRYPOINT")) + json.loads(instruction("CMD")), ["/usr/bin/tagmill", "serve"], "the command")
    here = {name: site.here(value) for name, value in environment.items()}
    said = site.tagmill("config", "check", **here)
    check(f"0.0.0.0:{port + 2}" in said and "TLS        on" in said, f"what the image would do: {said}")
    for lack, variable, value in [("token", "TAGMILL_DATA", site.scratch / "nothing"),
                                  ("server.pem", "TAGMILL_TLS_CERT", "/no/server.pem")]:
        done = subprocess.run([site.binary, "config", "check"], capture_output=True, text=True, timeout=60,
                              env={**without_tagmill(os.environ), **here, variable: str(value)})
        check(done.returncode == 1 and lack in done.stderr, f"without {lack} it does not start: {done.stderr}")


def build(_site):
    """What the build reads is in the tree, and not left out of the context."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    def is_ignored(path):
        return any(path == one or path.startswith(one + "/") for one in ignored)

    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    sources = ["Cargo.toml", "Cargo.lock", *[f"{member}/Cargo.toml" for member in manifest["workspace"]["members"]]]
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from") and rest.split()[0] != ".":
            sources.append(rest.split()[0])
    for path in sources:
        check((ROOT / path).exists() and not is_ignored(path), f"{path} is there for the build")
    command = [rest for word, rest in instructions() if word == "RUN"][0]
    package, name = re.search(r"--package (\S+)", command)[1], re.search(r"--bin (\S+)", command)[1]
    built = tomllib.loads((ROOT / "server" / "Cargo.toml").read_text())
    equal((package, name, "--locked" in command), (built["package"]["name"], "tagmill", True), "what is built")
    for path in [".git", "target", "tagmill-demo"]:
        check(any(one in [path, f"**/{path}"] for one in ignored), f"{path} is left out of the context")


def healthy(site):
    """The image's health check says yes while the server is there, and no when it is gone."""
    command = json.loads(instruction("HEALTHCHECK").split("CMD", 1)[1])
    port = free_ports(3)
    environment = {name: site.here(value) for name, value in environment_of_image().items()}
    environment["TAGMILL_LISTEN"] = f"127.0.0.1:{port}"
    check("7410" in command[-1] and shutil.which(command[0]), f"a command that is there and asks at the port: {command}")
    command[-1] = command[-1].replace("7410", str(port))
    with site.running([site.binary, "serve"], port, **environment):
        equal(subprocess.run(command, timeout=60).returncode, 0, "the health of a server")
        words = {"TAGMILL_TOKEN": site.token, "TAGMILL_CA": str(site.scratch / "ca.pem")}
        site.tagmill("sql", "--connect", f"https://localhost:{port}", "-c", "SELECT 1", **words)
    done = subprocess.run(command, timeout=60, capture_output=True)
    check(done.returncode != 0, "the health of no server")


if __name__ == "__main__":
    main()
