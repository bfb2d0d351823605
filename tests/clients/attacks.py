#!/usr/bin/env python3
"""Attacks over the real doors, against the real binary over TLS with tokens.

    python attacks.py PATH_TO_TAGMILL [CASE ...]

Each case is an attack that must be refused or bounded, and beside each a witness asks small questions that must be
answered (witness.py): the process is the same afterwards, and its memory stays below a bound. With names only these cases
run. What this machine lacks (openssl) it says SKIPPED for. Nothing leaves this machine; it ends only processes it started.
"""

import concurrent.futures
import contextlib
import pathlib
import shutil
import sys
import tempfile

from attack_access import ACCESS_CASES, APART_CASES, GATEWAY, failed_logins
from attack_gateways import GATEWAY_CASES, PATIENT_GATEWAYS
from attack_network import NETWORK_CASES, PATIENT_CASES
from attack_sql import HUNGRY_CASES, SQL_CASES
from grpc_client import generate
from plant import Plant, run_cases
from witness import beside_a_witness


def main():
    binary, wanted = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    if not shutil.which("openssl"):
        print("attacks: SKIPPED, there is no openssl to make a certificate with")
        return
    # Failed logins make the address of all these cases wait: they come last.
    waiting = [*PATIENT_CASES, *PATIENT_GATEWAYS]
    cases = [*HUNGRY_CASES, *ACCESS_CASES, *SQL_CASES, *NETWORK_CASES, *GATEWAY_CASES, *waiting, failed_logins]
    names = [case.__name__ for case in [*cases, *APART_CASES]]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        sys.exit(f"attacks: there is no case {', '.join(unknown)}: there are {', '.join(names)}")
    with tempfile.TemporaryDirectory(prefix="tagmill-attacks-") as scratch, concurrent.futures.ThreadPoolExecutor() as beside:
        scratch = pathlib.Path(scratch)
        generate(scratch / "stubs")
        chosen = [case for case in cases if not wanted or case.__name__ in wanted]
        # These wait for minutes and do little: they have a server of their own, beside the others.
        patient = [case for case in chosen if case in waiting]
        patient = patient and beside.submit(besieged, plant_in(binary, scratch / "patient"), patient)
        plant = plant_in(binary, scratch / "plant")
        failed = besieged(plant, [case for case in chosen if case in HUNGRY_CASES])
        failed += besieged(plant, [case for case in chosen if case not in [*HUNGRY_CASES, *waiting]])
        # Each of these has a server of its own.
        apart = [case for case in APART_CASES if not wanted or case.__name__ in wanted]
        failed += run_cases("attacks", plant, apart, goes_on=True)
        failed += patient.result() if patient else []
    if failed:
        sys.exit(f"attacks: failed: {', '.join(failed)}")
    print("attacks: everything as it should be")


def plant_in(binary, scratch):
    scratch.mkdir()
    plant = Plant(binary, scratch)
    # Warnings tell of each attack.
    plant.log = "error"
    admit(plant)
    (scratch / "backups").mkdir()
    return plant


def besieged(plant, cases):
    """Runs cases against one server; after one that failed the next ones get a new one, which has nothing left of it."""
    left, failed = list(cases), []
    while left:
        with contextlib.suppress(AssertionError), plant.serve("--query-memory", "256MiB", "--backups", plant.scratch / "backups"):
            while left:
                found = run_cases("attacks", plant, [beside_a_witness(left.pop(0))], goes_on=True)
                failed += found
                if found:
                    break
    return failed


def admit(plant):
    plant.token("witness")
    plant.token("honest", "--scope", "honest", role="writer")
    plant.token("line", "--scope", "plant/u1", role="writer")
    plant.token("operator_of_u1", "--role", "reader", "--scope", "plant/u1", role="operator")
    plant.token("few", "--new-tags", "5", role="writer")
    plant.token("few_more", "--new-tags", "5", role="writer")
    plant.token("g1", "--scope", "gw", "--certificate", GATEWAY, role="writer")


if __name__ == "__main__":
    main()
