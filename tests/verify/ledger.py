#!/usr/bin/env python3
"""Verifies ledgers and proofs of octroi as docs/METERING.md says.

Written from that page alone, with record.py and ed25519.py beside it: it shares no code with
octroi and needs nothing but Python.
`ledger.py --keyring FILE [--against HEAD] [--proof FILE] LEDGER|PROOF…` prints a line for each file: what was
verified, or the first thing that is wrong. It exits with 0 when nothing is.
"""
import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import sqlite3
import sys

import ed25519
import record

COLUMNS = ("seq canonical leaf kind stream_seq tenant tenant_seq boot_id map_generation port_uid incarnation "
           "direction zone window_id window_start window_end flags packets l2_bytes l3_bytes").split()
ERASED = [0] * 4 + [b"", b"", b""] + [0] * 10
TABLES = {"record": COLUMNS, "head": ["number", "size", "note"], "seal": ["only", "note"],
          "about": ["key", "value"], "look": ["id", "at", "who", "what"], "owner": ["incarnation", "state"], "series": ["series", "of", "next"]}

class Wrong(Exception):
    """Something is not as it was signed."""

def need(holds, what):
    if not holds:
        raise Wrong(what)

def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

# Notes [M-14.2, M-14.3].
def decoded(text):
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text, "not base64")
    return data

def keyring(text):
    keys = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, key = line.split("+", 2)
            key = decoded(key)[1:]
            keys[name, sha(name.encode(), b"\n\x01", key)[:4]] = key
    return keys

def opened(note, keys, alone=True):
    """The text of a note, and the key that has signed it."""
    text, parted, signatures = note.rpartition("\n\n")
    need(parted and signatures.endswith("\n"), "no signed note")
    need(all(c >= " " or c == "\n" for c in note), "no signed note")
    text, found = text + "\n", None
    lines = signatures[:-1].split("\n")
    need(len(lines) == 1 or not alone, "no signed note, or not signed once")
    for line in lines:
        match = re.fullmatch("— ([^\\s+]+) (\\S+)", line)
        need(match, "no signed note")
        name, data = match[1], decoded(match[2])
        if (name, data[:4]) in keys:
            found = keys[name, data[:4]]
            need(ed25519.signed_by(found, text.encode(), data[4:]), "a wrong signature")
            need(text.split("\n")[0] == name, "signed under another name")
    need(found, "not signed by a known key")
    return text, found

def head(text):
    """Origin, size and root of a checkpoint's text [M-14.4]."""
    lines = text.split("\n")
    need(len(lines) == 4 and re.fullmatch("0|[1-9][0-9]*", lines[1]), "no checkpoint")
    root = decoded(lines[2])
    need(len(root) == 32, "no checkpoint")
    return lines[0], int(lines[1]), root

def origin(host, ledger_id):
    plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-"
    return "octroi/" + "".join(chr(b) if chr(b) in plain else f"%{b:02X}" for b in host.encode()) + f"/{ledger_id.hex()}"

# The tree [M-14.1].
def push(peaks, size, leaf):
    while size & 1:
        leaf, size = sha(b"\1", peaks.pop(), leaf), size >> 1
    peaks.append(leaf)

def root(peaks):
    total = None
    for peak in reversed(peaks):
        total = sha(b"\1", peak, total) if total else peak
    return total or sha()

def climb(at, last, here, proof, both=None):
    """RFC 9162 §2.1.3.2 and, with `both`, §2.1.4.2: the root, and the one of the older tree."""
    for sibling in proof:
        need(last > 0, "a proof that is too long")
        if at & 1 or at == last:
            here, both = sha(b"\1", sibling, here), both and sha(b"\1", sibling, both)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            here = sha(b"\1", here, sibling)
        at, last = at >> 1, last >> 1
    need(last == 0, "a proof that is too short")
    return here, both

class Text(bytes):
    """A column that is text."""

def digest(db):  # [M-14.6]
    total = hashlib.sha256()
    for table in "about", "look", "owner", "series":
        total.update(b"T")
        for row in db.execute(f"SELECT * FROM {table} ORDER BY 1, 2"):
            total.update(b"R")
            for value in row:
                if type(value) is int:
                    total.update(b"I" + value.to_bytes(8, "big", signed=True))
                else:
                    kind = {Text: b"S", bytes: b"B", type(None): b"N"}[type(value)]
                    total.update(kind + (len(value).to_bytes(8, "big") + value if value is not None else b""))
    return total.digest()

def columns(r):
    """What a row repeats of its record [M-14.5]."""
    signed = lambda value: value - 2**64 if value >= 2**63 else value
    counted = [end - start for start, end in zip(r.get("register_start", [0] * 3), r.get("register_end", [0] * 3))]
    first = [r.get(name, 0) for name in COLUMNS[3:7]] + [r["boot_id"], r["map_generation"], r.get("port_uid", "").encode()]
    rest = [r.get("zone", -1) if name == "zone" else r.get(name, 0) for name in COLUMNS[10:17]]
    return [value if type(value) is bytes else signed(value) for value in first + rest + counted]

def placed(r, what, seq, ledger_id, secret):
    need(r["seq"] == seq and r["ledger_id"] == ledger_id, f"{what}: another record")
    need((r["kind"] == record.BEGIN) == (seq == 0), f"{what}: BEGIN")
    salt = hmac.new(secret, seq.to_bytes(8, "big"), hashlib.sha256).digest()[:16]
    need(r["salt"] == salt, f"{what}: another salt")

def in_force(name, key):
    return {(name, sha(name.encode(), b"\n\x01", key)[:4]): key}

def rotated(r, key, name, what):  # [M-14.10]
    if "rotation" not in r:
        return key
    new, *signatures = r["rotation"]
    old, after = (base64.b64encode(one).decode() for one in (key, new))
    text = f"{name}\nkey\nseq {r['seq']}\n{old}\n{after}\n".encode()
    for one, signature in zip((key, new), signatures):
        need(ed25519.signed_by(one, text, signature), f"{what}: not signed by both keys")
    return new

def ledger(path, keys, against):
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    db.text_factory = Text
    db.execute("BEGIN")
    marks = [db.execute(f"PRAGMA {mark}").fetchone()[0] for mark in ("application_id", "user_version")]
    need(marks == [0x6F637472, 2], "no ledger, or one of another format")
    names = [name.decode() for name, in db.execute("SELECT name FROM sqlite_master WHERE type != 'index'")]
    need(sorted(names) == sorted(TABLES), "other tables")
    for name, known in TABLES.items():
        found = [row[1].decode() for row in db.execute(f"PRAGMA table_info({name})")]
        need(sorted(found) == sorted(known), f"other columns in {name}")
    need(db.execute("PRAGMA integrity_check").fetchall() == [(b"ok",)], "a damaged file")
    about = dict(db.execute("SELECT key, value FROM about"))
    ledger_id, secret = about[b"ledger_id"], about[b"secret"]
    heads = db.execute("SELECT number, size, note FROM head ORDER BY number").fetchall()
    need([number for number, _, _ in heads] == list(range(len(heads))) and heads, "a head is missing")
    peaks, size, streams, tenants, pruned, said, name, key, then = [], 0, {}, {}, set(), set(), None, None, None
    due = iter(heads)
    number, ends, note = next(due)
    for seq, data, leaf, *rest in db.execute(f"SELECT {', '.join(COLUMNS)} FROM record ORDER BY seq"):
        what = f"record {size}"
        need(seq == size, f"{what} is missing")
        need(type(leaf) is bytes and len(leaf) == 32, f"{what}: no leaf")
        r = None if data is None else record.read(data)
        need(data is None or type(data) is bytes and sha(b"\0", data) == leaf, f"{what}: bytes of another leaf")
        if r is None:  # [M-14.11]
            need(rest == ERASED and type(rest[6]) is Text and size, f"{what}: columns")
            pruned.add(size)
        else:
            placed(r, what, seq, ledger_id, secret)
            need(columns(r) == rest and type(rest[6]) is Text, f"{what}: columns")
            counters = [(streams, r["kind"], "stream_seq")] + [(tenants, r.get("tenant"), "tenant_seq")] * ("tenant" in r)
            for following, of, number_of in counters:
                need(0 <= r[number_of] - following.get(of, 0) <= len(pruned), f"{what}: {number_of}")
                following[of] = r[number_of] + 1
            said.update(*(range(first, last + 1) for first, last in r.get("erased", [])))
            name = name or origin(r["host"], ledger_id)
            key = rotated(r, key or opened(heads[0][2].decode(), keys)[1], name, what)
        push(peaks, size, leaf)
        size += 1
        if size == ends:
            signed = head(opened(note.decode(), in_force(name, key))[0])
            need(signed == (name, size, root(peaks)), f"{what}: head {number}")
            number, ends, note = next(due, (None, None, None))
        then = root(peaks) if against and against[1] == size else then
    need(ends is None, f"record {size} is missing")
    need(size == heads[-1][1], f"record {size - 1}: no head was signed over this")
    need(not against or against == (name, against[1], then), "not what the head that was kept was signed over")
    series = {(kind.decode(), of): after for kind, of, after in db.execute("SELECT series, of, next FROM series")}
    counted = {(kind, of): after for kind, all_of in (("stream", streams), ("tenant", tenants)) for of, after in all_of.items()}
    need(pruned == said, "other records are erased than an ERASURE says")
    gaps = {of: after - counted.get(of, 0) for of, after in series.items()}
    need(counted.keys() <= gaps.keys() and all(0 <= gap <= len(pruned) for gap in gaps.values()), "series")
    need(about[b"frontier"] == b"".join(peaks), "frontier")
    (only, note), = db.execute("SELECT only, note FROM seal")
    seal = f"{name}\nseal\nsize {size}\nheads {len(heads)}\n{base64.b64encode(digest(db)).decode()}\n"
    need(only == 0 and opened(note.decode(), in_force(name, key))[0] == seal, "the sealed tables")
    return size - len(pruned), len(pruned)

# Proofs [M-15].
def line_of(text, *keys):
    line = json.loads(text)
    need(type(line) is dict and tuple(line) == keys, "another line")
    need(json.dumps(line, separators=(",", ":"), ensure_ascii=False) == text, "not as it is written")
    need(all(type(line[key]) is (list if key == "proof" else str) for key in keys), "another line")
    return line

def hashes(proof):
    need(all(type(one) is str for one in proof), "no hash")
    proof = [decoded(one) for one in proof]
    need(all(len(one) == 32 for one in proof), "no hash")
    return proof

def consistency(path, keys):
    with open(path, encoding="utf-8", newline="") as file:
        line = line_of(file.read().removesuffix("\n"), "octroi", "old", "new", "proof")
    old, new = (head(opened(line[key], keys, key == "new")[0]) for key in ("old", "new"))
    proof = hashes(line["proof"])
    need(line["octroi"] == "consistency 1" and old[0] == new[0] and 0 < old[1] <= new[1], "heads of other trees")
    if old[1] == new[1]:
        need(old == new and not proof, "another history")
        return old, new
    whole = (old[1] & -old[1]).bit_length() - 1
    proof = proof if old[1] & (old[1] - 1) else [old[2]] + proof
    need(proof, "an empty proof")
    now, before = climb(old[1] - 1 >> whole, new[1] - 1 >> whole, proof[0], proof[1:], proof[0])
    need((before, now) == (old[2], new[2]), "another history")
    return old, new

def proof(path, keys, against, continuation):
    with open(path, "rb") as file:
        text = file.read()
    first, *lines = text.decode().split("\n")
    need(lines and lines.pop() == "", "the last line is cut off")
    first = line_of(first, "octroi", "checkpoint", "claim")
    signed = head(opened(first["checkpoint"], keys)[0])
    claim = opened(first["claim"], keys)[0]
    numbers = "(0|[1-9][0-9]*)"
    match = re.fullmatch(f"(.*)\nproof of tenant {numbers}\nsize {numbers}\ntenant_seq {numbers} {numbers}\n"
                         f"records {numbers}\n", claim)
    need(first["octroi"] == "proof 1" and match and (match[1], int(match[3])) == signed[:2], "another claim")
    tenant, _, tenant_seq, last, count = map(int, match.groups()[1:])
    claimed, after = last - tenant_seq, -1
    need(len(lines) == count <= max(claimed, 0), "not as many records as are claimed")
    for number, text in enumerate(lines, 2):
        what = f"line {number}"
        line = line_of(text, "canonical", "proof")
        data = decoded(line["canonical"])
        r = record.read(data)
        need(r["seq"] < signed[1], f"{what}: not in the tree")
        found, _ = climb(r["seq"], signed[1] - 1, sha(b"\0", data), hashes(line["proof"]))
        need(found == signed[2], f"{what}: not in the tree")
        need(r["kind"] in (record.METER, record.CORRECTION, record.NODATA, record.STATEMENT) and r["tenant"] == tenant, f"{what}: another's")
        need(r["seq"] > after and tenant_seq <= r["tenant_seq"] < last, f"{what}: not in order")
        after, tenant_seq = r["seq"], r["tenant_seq"] + 1
    if against and against != signed:
        need(continuation, "a proof of consistency is needed")
        need(continuation in ((against, signed), (signed, against)), "a proof between other heads")
    return count, claimed - count

def main():
    parser = argparse.ArgumentParser()
    for option in "--keyring", "--against", "--proof":
        parser.add_argument(option, required=option == "--keyring")
    parser.add_argument("files", nargs="+")
    given, status = parser.parse_args(), 0
    with open(given.keyring, encoding="utf-8") as file:
        keys = keyring(file.read())
    for path in given.files:
        try:
            against = None
            if given.against:
                with open(given.against, encoding="utf-8", newline="") as file:
                    against = head(opened(file.read(), keys, False)[0])
            with open(path, "rb") as file:
                is_ledger = file.read(16) == b"SQLite format 3\0"
            continuation = given.proof and consistency(given.proof, keys)
            verified, pruned = ledger(path, keys, against) if is_ledger else proof(path, keys, against, continuation)
            print(f"{os.path.basename(path)}: {verified} verified, {pruned} pruned")
        except (Wrong, record.Refused, KeyError, TypeError, ValueError, sqlite3.Error) as wrong:
            status = 1
            print(ascii(f"{os.path.basename(path)}: WRONG: {wrong}")[1:-1])
    return status

if __name__ == "__main__":
    sys.exit(main())
