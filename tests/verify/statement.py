#!/usr/bin/env python3
"""What a tenant's statement over ledgers of many hosts must say, from docs/METERING.md alone (M-5, M-16).

`statement.py TENANT FROM TO LEDGER...`: times in ns since 1970. Reads the ledgers with SQLite and shares no code with octroi:
records are read by record.py, sums and percentiles reckoned by usage.py. Prints one object of JSON.
"""
import json
import sqlite3
import sys

import record
import usage

KINDS = {1: "METER", 4: "CORRECTION", 5: "NODATA"}
FLAGS = {1: "MERGED", 2: "PARTIAL", 4: "RESET", 16: "LATE"}
# usage.py reckons in s; labels of real records have ns.
usage.SLOT, usage.HOUR = usage.SLOT * 10**9, usage.HOUR * 10**9


def row(r):
    """A record as usage.py has it."""
    added = r.get("correction", [None] * 6)
    read = list(zip(r.get("register_start", [0] * 3), r.get("register_end", [0] * 3)))
    one = {"kind": KINDS[r["kind"]], "host": r["host"], "port": r["port_uid"], "seq": r["seq"],
           "incarnation": (r["boot_id"], r["map_generation"], r["incarnation"]), "direction": r["direction"],
           "window": r["window_id"], "first": r.get("window_first", r["window_id"]), "zone": r.get("zone"),
           "label": (r["window_start"], r["window_end"]), "cause": r.get("cause"), "corrects": added[1],
           "flags": {name for bit, name in FLAGS.items() if r["flags"] & bit},
           "sum": list(added[2:5]) if r["kind"] == 4 else [end - start for start, end in read]}
    if "cut_end_ns" in r:
        one["read_until"] = r["cut_end_ns"] + r["utc_offset_ns"] + r["step_ns"]
    return one


def hosts(tenant, ledgers):
    found = {}
    for path in ledgers:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        chosen = "SELECT canonical FROM record WHERE tenant = ? AND kind IN (1, 4, 5) ORDER BY seq"
        for canonical, in db.execute(chosen, (tenant,)):
            one = row(record.read(canonical))
            found.setdefault(one["host"], []).append(one)
    return found


def main(tenant, start, end, *ledgers):
    rows = hosts(int(tenant), ledgers)
    query = {"bounds": [int(start), int(end)], "by": ["direction"]}
    reckoned = usage.Usage(rows, query, 0)
    ends, _ = reckoned.chains()
    over = min(reckoned.now, int(end))
    silent = {}  # [M-16.8] Hosts whose records end before the period does, or before the others'.
    for one in ends.values():
        if "RESET" not in one["flags"] and one["label"][1] < over:
            silent[one["host"]] = min(silent.get(one["host"], over), one["label"][1])
    p95, = reckoned.percentiles()
    print(json.dumps({
        "bytes": {str(one["direction"]): one["sum"][1] for one in reckoned.rows()},
        "packets": {str(one["direction"]): one["sum"][0] for one in reckoned.rows()},
        "slots": p95["slots"], "left_out": p95["left_out"],
        "p95": [p95["from"], p95["to"], p95["max_of_both"], p95["of_max"]],
        "missing": [[one["host"], one["from"], one["to"], one["why"]] for one in reckoned.missing()],
        "silent": silent,
        "records": sum(len(of_host) for of_host in rows.values()),
    }))


if __name__ == "__main__":
    main(*sys.argv[1:])
