"""What Grafana's PostgreSQL data source makes of a panel's SQL before it sends it: variables, intervals, macros.

It follows versions 11 and 12: the browser replaces variables, then the server replaces the interval, then the macros. What it
would send as it stands, such as an unknown macro or a variable that no dashboard has, is an error here.
"""

import dataclasses
import datetime
import re

UTC = datetime.timezone.utc
MACRO = re.compile(r"\$([_a-zA-Z0-9]+)\(([^\)]*)\)")
VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)(?::(\w+))?\}")
UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "y": 31_536_000}


@dataclasses.dataclass
class Asked:
    """The time range of a dashboard, the interval that fits its width, and whether `timescaledb` is switched on."""

    since: datetime.datetime
    until: datetime.datetime
    interval_s: float = 60
    timescaledb: bool = True


def instant(at):
    """RFC 3339 without zeros at the end of the fraction."""
    text = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return f"{text}Z"


def interval_text(seconds):
    """`90` is `1m`: the greatest unit that goes into it, and no rest."""
    for unit in ["y", "d", "h", "m", "s"]:
        if seconds >= UNITS_S[unit]:
            return f"{int(seconds // UNITS_S[unit])}{unit}"
    return f"{max(1, int(seconds * 1000))}ms"


def interval_seconds(text):
    found = re.fullmatch(r"(\d+)(ms|[smhdwy])", text)
    if not found:
        raise AssertionError(f"no interval that Grafana reads: {text!r}")
    return int(found[1]) * UNITS_S[found[2]]


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def interpolated(value, variable, form):
    """What stands for a variable: a list for one with several values, else a text."""
    values = value if isinstance(value, list) else [value]
    if form == "raw":
        return ",".join(values)
    if form:
        raise AssertionError(f"the form {form!r} of a variable is not known here")
    if isinstance(value, list) or variable.get("multi") or variable.get("includeAll"):
        return ",".join(quoted(one) for one in values)
    return value.replace("'", "''")


def with_variables(sql, variables, values):
    """Replaces variables. Macros and what the server replaces stay."""
    known = {variable["name"]: variable for variable in variables}

    def one(found):
        name = found[1] or found[2]
        if name.startswith("__"):
            return found[0]
        if name not in values:
            raise AssertionError(f"no variable {name!r} for {sql!r}")
        return interpolated(values[name], known[name], found[3])

    return VARIABLE.sub(one, sql)


def expand(sql, asked, variables=(), values=None):
    """The statement as it is sent."""
    sql = with_variables(sql, variables, values or {})
    sql = sql.replace("$__interval_ms", str(int(asked.interval_s * 1000))).replace("$__interval", interval_text(asked.interval_s))

    def one(found):
        name = found[1]
        # An old way to write it: with a comma behind, the group is the time.
        if name == "__timeGroup" and sql[sql.index(found[0]) + len(found[0]):][:1] == ",":
            name = "__timeGroupAlias"
        return macro(name, [word.strip(" ") for word in found[2].split(",")], asked)

    sql = MACRO.sub(one, sql)
    rest = re.search(r"\$[_a-zA-Z]\w*|\$\{", sql)
    if rest:
        raise AssertionError(f"Grafana leaves {rest[0]!r} as it is in {sql!r}")
    return sql


def macro(name, words, asked):
    since, until = quoted(instant(asked.since)), quoted(instant(asked.until))
    if name == "__timeFilter":
        return f"{words[0]} BETWEEN {since} AND {until}"
    if name == "__timeFrom":
        return since
    if name == "__timeTo":
        return until
    if name == "__time":
        return f'{words[0]} AS "time"'
    if name == "__timeEpoch":
        return f'extract(epoch from {words[0]}) as "time"'
    if name in ["__timeGroup", "__timeGroupAlias"]:
        seconds = interval_seconds(words[1].strip("'"))
        number = f"{seconds:.3f}".rstrip("0").rstrip(".")
        group = (f"time_bucket('{seconds:.3f}s',{words[0]})" if asked.timescaledb
                 else f"floor(extract(epoch from {words[0]})/{number})*{number}")
        return group + (' AS "time"' if name == "__timeGroupAlias" else "")
    raise AssertionError(f"no macro of Grafana: {name}")
