#!/usr/bin/env python3
"""Verifies a directory that `octroi privacy export` made, as docs/METERING.md says [M-13.17].

Written from that page alone, with ledger.py, record.py and flow.py beside it. `export.py [--keyring FILE] DIR`: every
record leads to the signed head, and the flow rows of a record are those that its root stands for. It exits with 0
when nothing is wrong.
"""
import argparse
import json
import os
import sys

import flow
import ledger
import record


def roots(path):
    """Rows and root of each record with flow detail [M-13.7]."""
    with open(path, encoding="utf-8") as file:
        next(file)
        records = [record.read(ledger.decoded(json.loads(line)["canonical"])) for line in file]
    return {r["seq"]: r["flows"] for r in records if "flows" in r}


def trees(path):
    """The rows of each record, in their order [M-13.6]."""
    rows = {}
    with open(path, encoding="utf-8") as file:
        for line in map(json.loads, file):
            data = bytes.fromhex(line["canonical"])
            ledger.need(flow.read(data)["zone"] == line["zone"], "a row that is shown as another")
            rows.setdefault(int(line["seq"]), []).append(flow.leaf(data))
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--keyring")
    parser.add_argument("folder")
    given = parser.parse_args()
    at = lambda name: os.path.join(given.folder, name)
    with open(given.keyring or at("ledger.pub"), encoding="utf-8") as file:
        keys = ledger.keyring(file.read())
    try:
        verified, pruned = ledger.proof(at("records.proof"), keys, None, None)
        known, rows = roots(at("records.proof")), trees(at("flows.jsonl"))
        for seq, leaves in rows.items():
            ledger.need(seq in known, f"record {seq} has no flow detail")
            ledger.need([len(leaves), flow.root(leaves)] == known[seq], f"record {seq}: other rows than its root's")
        count = sum(map(len, rows.values()))
        print(f"{verified} records verified, {pruned} pruned; {count} flow rows of {len(rows)} records verified")
        return 0
    except (ledger.Wrong, record.Refused, flow.Refused, KeyError, TypeError, ValueError) as wrong:
        print(ascii(f"WRONG: {wrong}")[1:-1])
        return 1


if __name__ == "__main__":
    sys.exit(main())
