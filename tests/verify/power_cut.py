#!/usr/bin/env python3
"""Judges what a host that lost its power has in its ledger, against what was seen from outside.

`power_cut.py TRUTH.json DIRECTORY`: the directory is what was on the disk. Exits with 0 and a line that
says how much was looked at, or with 1 and the faults. Clauses of docs/METERING.md are in brackets. It
shares no code with octroi; records are read by record.py.
"""
import glob
import hashlib
import hmac
import json
import os
import sqlite3
import sys

import record

MERGED, PARTIAL, RESET = 1, 2, 4
# What may be unseen before a cut [issue 3]; and how far a counter on the way may lag behind a register.
# A cut has the time at which it began.
UNSEEN_NS, LAG_NS, CUT_NS = 10 * 10**9, 100 * 10**6, 500 * 10**6
# Tenant and direction, in the order of the witness's counters.
WITNESSED = {(1, 0): 0, (2, 0): 1, (2, 1): 2}


class Judge:
    def __init__(self, truth):
        self.committed = truth["committed"]
        self.boots = {boot["boot_id"]: boot for boot in truth["boots"]}
        self.faults, self.bracketed, self.bounded, self.unseen_ns = [], 0, 0, 0

    def need(self, holds, what):
        if not holds:
            self.faults.append(what)
        return holds

    def ledger(self, directory):
        path = os.path.join(directory, "ledger.db")
        aside = glob.glob(path + ".superseded*")
        self.need(not aside, f"a ledger that only lost its power was superseded: {aside}")
        if not os.path.exists(path):
            self.need(not self.committed, "the ledger is gone")
            return []
        db = sqlite3.connect(path)
        check = db.execute("PRAGMA integrity_check").fetchall()
        self.need(check == [("ok",)], f"integrity: {check[:3]}")
        about = dict(db.execute("SELECT key, CAST(value AS BLOB) FROM about"))
        rows = db.execute("SELECT seq, canonical, leaf FROM record ORDER BY seq").fetchall()
        records, series = [], {}
        for place, (seq, canonical, leaf) in enumerate(rows):
            if not self.need(seq == place, f"record {place} is missing"):
                break
            try:
                r = record.read(canonical)
            except record.Refused as refused:
                self.need(False, f"record {seq}: {refused}")
                continue
            salt = hmac.new(about["secret"], seq.to_bytes(8, "big"), hashlib.sha256).digest()[:16]
            self.need(hashlib.sha256(b"\0" + canonical).digest() == leaf, f"record {seq}: another leaf")
            self.need(r["seq"] == seq and r["salt"] == salt, f"record {seq}: another's number or salt")
            self.need(r["ledger_id"] == about["ledger_id"], f"record {seq} is another ledger's")
            numbers = [("stream", r["kind"], r["stream_seq"])]
            if r["kind"] != record.BEGIN:
                numbers.append(("tenant", r["tenant"], r["tenant_seq"]))
            for name, of, number in numbers:  # [M-8.8]
                due = series.get((name, of), 0)
                self.need(number == due, f"record {seq}: {name}_seq {number} instead of {due}")
                series[name, of] = number + 1
            records.append(r)
        for seq, leaf in self.committed.items():  # [M-12.6]
            seq = int(seq)
            there = seq < len(rows) and rows[seq][2].hex() == leaf
            self.need(there, f"record {seq} was committed, and is gone or changed")
        return records

    def continuity(self, records):
        """[M-8], and that each epoch but the last is closed [M-7.6]. Returns `*` records by owner."""
        owners, sums, epochs = {}, {}, []
        for r in records[1:]:
            where = f"record {r['seq']}"
            if not self.need(r["kind"] == record.METER, f"{where}: kind {r['kind']}: nothing was lost here"):
                continue
            epoch = (r["boot_id"], r["map_generation"])
            if epoch not in epochs:
                epochs.append(epoch)
            self.need(epoch == epochs[-1], f"{where} is of an epoch that was over")
            key = (*epoch, r["port_uid"], r["incarnation"], r["direction"])
            owner = owners.setdefault(key, {"ends": {}, "all": []})
            zone = r.get("zone")
            self.need(r["register_start"] == owner["ends"].get(zone, [0, 0, 0]), f"{where} does not continue")
            owner["ends"][zone] = r["register_end"]
            counted = [end - start for start, end in zip(r["register_start"], r["register_end"])]
            sign = 1 if zone is None else -1
            before = sums.get((key, r["window_id"]), [0, 0, 0])
            sums[key, r["window_id"]] = [b + sign * c for b, c in zip(before, counted)]
            if zone is not None:
                continue
            last = owner["all"][-1] if owner["all"] else None
            owner["all"].append(r)
            if last is None:
                continue
            first = r.get("window_first", r["window_id"])
            self.need(first == last["window_id"] + 1, f"{where}: a hole, or twice the same, before it")
            self.need(not last["flags"] & RESET, f"{where} follows a last record")
            self.need(r["cut_start_ns"] == last["cut_end_ns"], f"{where}: a hole in time before it")
            offset = last["utc_offset_ns"] + last["step_ns"]
            self.need(r["utc_offset_ns"] == offset, f"{where}: another clock than before it")
        for (key, window), rest in sums.items():
            self.need(rest == [0, 0, 0], f"window {window} of {key[2]}: zones and `*` differ by {rest}")
        for key, owner in owners.items():
            if key[:2] != epochs[-1]:
                self.closed(key, owner["all"][-1])
        return owners

    def closed(self, key, last):
        where = f"record {last['seq']}, the last one of {key[2]}"
        self.need(last["flags"] & (RESET | PARTIAL) == RESET | PARTIAL, f"{where}: not RESET and PARTIAL")
        boot = self.boots[key[0].hex()]
        if boot["seen"]:
            unseen_ns = boot["seen"][-1][0] - last["cut_end_ns"]
            self.unseen_ns = max(self.unseen_ns, unseen_ns)
            self.need(unseen_ns <= UNSEEN_NS, f"{where}: {unseen_ns} ns before the cut were not seen")

    def carried(self, key, stars):
        """Registers against the witness's counters, within what it cannot know."""
        at = WITNESSED.get((stars[0]["tenant"], key[4]))
        boot = self.boots[key[0].hex()]
        if at is None or not boot["before"]:
            return
        before, seen = boot["before"][at], boot["seen"]
        for r in stars:
            end, when, where = r["register_end"][1], r["cut_end_ns"], f"record {r['seq']} of {key[2]}"
            if at != 1:  # Bob's drops are not seen from outside.
                self.need(not r["drops"], f"{where}: below the ceiling, and dropped")
            least = max((line[2 + at] - before for line in seen if line[1] <= when - LAG_NS), default=0)
            self.need(end >= least, f"{where}: {end} bytes; {least} had been carried")
            later = [line[2 + at] for line in seen if line[0] >= when + CUT_NS]
            if later:
                self.need(end <= later[0], f"{where}: {end} bytes; only {later[0]} had been carried later")
                self.bracketed += 1
        last = stars[-1]
        if last["flags"] & RESET and boot["seen"] and not boot["end"]:
            where = f"record {last['seq']}, the last one of {key[2]}"
            carried = seen[-1][2 + at] - before - last["register_start"][1]
            # No maximum means that nothing bounds it: that would always be true, and say nothing.
            if self.need("bytes_max" in last, f"{where}: no bytes_max"):
                most = last["bytes_max"]
                self.need(carried <= most, f"{where}: at most {most} bytes, and {carried} were carried")
                self.bounded += 1
        if boot["end"]:
            end, total = last["register_end"][1], boot["end"][at]
            self.need(last["flags"] & RESET, f"record {last['seq']} of {key[2]}: octroi ended, and it is open")
            self.need(total - before <= end <= total, f"{key[2]}: {end} bytes in the end; {total} were carried")

    def judge(self, directory):
        records = self.ledger(directory)
        if records:
            self.need(records[0]["kind"] == record.BEGIN, "the first record is no BEGIN")
            self.need("supersedes" not in records[0], "it supersedes another ledger")
            owners = self.continuity(records)
            for key, owner in owners.items():
                self.carried(key, owner["all"])
            closed = sum(owner["all"][-1]["flags"] & RESET != 0 for owner in owners.values())
        else:
            closed = 0
        return (f"{len(records)} records, {len(self.committed)} of them known to be committed; {closed} last "
                f"ones; {self.bracketed} readings between two of the witness, {self.bounded} bounds; at most "
                f"{self.unseen_ns // 10**6} ms unseen")


def main(truth, directory):
    with open(truth, encoding="utf-8") as file:
        judge = Judge(json.load(file))
    summary = judge.judge(directory)
    print("\n".join(judge.faults[:20]) or summary)
    return len(judge.faults) > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
