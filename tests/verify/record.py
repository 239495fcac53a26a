#!/usr/bin/env python3
"""Reads records of octroi as docs/METERING.md says, and checks the golden vectors.
Written from that page alone: it shares no code with octroi. Clauses are in brackets.
`record.py VECTORS.json` exits with 0 when each vector is what it says.
"""
import hashlib
import hmac
import json
import sys
import unicodedata

class Refused(Exception):
    """The bytes are no record; the reason is a word of [M-11.4]."""

def need(holds, word):
    if not holds:
        raise Refused(word)

def item(data, at, depth=0):
    """One CBOR item as int, bytes, str, list or, for a map, dict; and where it ends [M-11.1, M-11.2]."""
    need(depth <= 3, "type")
    need(at < len(data), "truncated")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    need(major <= 5, "forbidden")
    value = info
    if info > 23:
        need(info != 31 or major < 2, "indefinite")
        need(info <= 27, "forbidden")
        width = 1 << (info - 24)
        need(at + width <= len(data), "truncated")
        value = int.from_bytes(data[at:at + width], "big")
        at += width
        need(value >= (24 if width == 1 else 1 << (4 * width)), "not_shortest")
    if major < 2:
        return (-1 - value if major == 1 else value), at
    if major in (2, 3):
        need(at + value <= len(data), "truncated")
        string, at = data[at:at + value], at + value
        if major == 3:  # What is not UTF-8 becomes a surrogate, which is of category Cs [M-5.4].
            string = string.decode(errors="surrogateescape")
            need(all(unicodedata.category(c) not in ("Cc", "Cs") for c in string), "text")
        return string, at
    if major == 4:
        values = []
        for _ in range(value):
            one, at = item(data, at, depth + 1)
            values.append(one)
        return values, at
    pairs = {}
    for _ in range(value):
        key, at = item(data, at, depth + 1)
        need(type(key) is int and key >= 0, "type")
        need(key not in pairs, "duplicate")
        need(key > max(pairs, default=-1), "order")
        need(key in FIELDS, "unknown_key")
        pairs[key], at = item(data, at, depth + 1)
    return pairs, at

# Types of fields [M-5.5]: each gives a function that refuses a value.
def number(least, most):
    return lambda value: (need(type(value) is int and (least < 0 or value >= 0), "type"),
                          need(least <= value <= most, "range"))

def string(kind, least, most):
    return lambda value: (need(type(value) is kind, "type"),
                          need(least <= len(value.encode() if kind is str else value) <= most, "range"))

def row(*types):
    return lambda value: (need(type(value) is list, "type"), need(len(value) == len(types), "range"),
                          [of(one) for one, of in zip(value, types)])

def drops(value):
    need(type(value) is list, "type")
    for one in value:
        row(number(1, 31), number(1, 2**64 - 1), U64)(one)
    reasons = [reason for reason, _, _ in value]
    need(len(set(reasons)) == len(reasons), "duplicate")
    need(sorted(reasons) == reasons, "order")

def evidence(value):
    if type(value) is not list:  # NOT_CLASSIFIED
        return number(0, 0)(value)
    need(1 <= len(value) <= 8, "range")
    for one in value:
        row(number(0, 7), number(1, 2**64 - 1), U64)(one)
    classes = [one for one, _, _ in value]
    need(len(set(classes)) == len(classes), "duplicate")
    need(sorted(classes) == classes, "order")

def ranges(value):
    need(type(value) is list, "type")
    need(1 <= len(value) <= 64, "range")
    for (first, last), (_, before) in zip([row(U64, U64)(one) and one for one in value], [[0, -1]] + value):
        need(first <= last, "backwards")
        need(first > before + 1, "order")

METER, CHECKPOINT, BEGIN, CORRECTION, NODATA, KEY, ERASURE, _, STATEMENT = range(1, 10)
MERGED, PARTIAL, CORRECTS, UNMETERED, NO_DATA = 1, 2, 32, 64, 128
U64, U32, I64 = number(0, 2**64 - 1), number(0, 2**32 - 1), number(-2**63, 2**63 - 1)
ID, COUNTS, SKBS, REASON = string(bytes, 16, 16), row(U64, U64, U64), row(*[U64] * 4), string(str, 1, 256)
CLOCK = row(number(-2**31, 2**31 - 1), U64, U64, number(0, 1))
FIELDS = dict(enumerate([
    ("version", U64), ("kind", U64), ("ledger_id", ID), ("seq", U64), ("stream_seq", U64),
    ("tenant_seq", U64), ("salt", ID), ("host", string(str, 1, 253)), ("flags", U32), ("boot_id", ID),
    ("map_generation", ID), ("port_uid", string(str, 0, 64)), ("incarnation", U64), ("tenant", U32),
    ("direction", number(0, 1)), ("zone", U32), ("window_id", U64), ("window_first", U64),
    ("window_start", I64), ("window_end", I64), ("cut_start_ns", U64), ("cut_end_ns", U64),
    ("elapsed_ns", U64), ("utc_offset_ns", I64), ("step_ns", I64), ("revision_first", U32),
    ("revision_last", U32), ("register_start", COUNTS), ("register_end", COUNTS),
    ("program_tag", string(bytes, 8, 8)), ("skbs_start", SKBS), ("skbs_end", SKBS), ("drops", drops),
    ("unattributed", COUNTS), ("clock", CLOCK), ("evidence", evidence), ("post_meter_drops", U64),
    ("bytes_min", U64), ("bytes_max", U64), ("cause", REASON),
    ("correction", row(ID, U64, I64, I64, I64, REASON)), ("supersedes", row(ID, U64)),
    ("flows", row(number(1, 2**64 - 1), string(bytes, 32, 32))),
]))
FIELDS |= {43: ("rotation", row(string(bytes, 32, 32), *[string(bytes, 64, 64)] * 2)), 44: ("erased", ranges),
           45: ("erased_flows", row(U32, number(1, 2**64 - 1), U64))}
FIELDS[48] = ("statement", row(U64, U64, I64, U64, I64, I64, I64, string(bytes, 32, 32)))
HEAD, SUBJECT = set(range(11)), {11, 12, 13, 14, 16, 18, 19}
NO_PORT = {BEGIN: (set(), {39, 41}), KEY: ({43}, {39}), ERASURE: ({39, 44}, set()), STATEMENT: ({13, 48}, set())}
READING, TOTAL = set(range(20, 29)), set(range(30, 36))

def belonging(r):
    """Fields that the kind must have, and may have [M-5.2]."""
    if r["kind"] in NO_PORT:
        must, may = NO_PORT[r["kind"]]
        if "erased_flows" in r and r["kind"] == ERASURE:
            must, may = must - {44}, {44, 45}
        return HEAD | {18, 19} | must, may
    if r["kind"] == CORRECTION:
        return HEAD | SUBJECT | {40}, {15, 17}
    if r["kind"] == NODATA:
        reading = any(FIELDS[key][0] in r for key in READING | {29})
        return HEAD | SUBJECT | {37, 39} | (READING if reading else set()), {17, 29, 38}
    if "zone" in r:
        return HEAD | SUBJECT | READING | {15}, {17, 29}
    must = HEAD | SUBJECT | READING | TOTAL
    if r["flags"] & (PARTIAL | UNMETERED):
        return must | {37, 39}, {17, 29, 36, 38, 42}
    return must, {17, 29, 36, 39, 42}

def read(data):
    """The fields of a record by name; raises Refused."""
    pairs, end = item(data, 0)
    need(type(pairs) is dict, "type")
    need(end == len(data), "trailing")
    for key, value in pairs.items():
        FIELDS[key][1](value)
    need({0, 1, 8} <= pairs.keys(), "missing")
    r = {FIELDS[key][0]: value for key, value in pairs.items()}
    need(r["version"] in (1, 2), "version")
    need(METER <= r["kind"] <= ERASURE or r["kind"] == STATEMENT, "kind")
    must, may = belonging(r)
    need(must <= pairs.keys(), "missing")
    need(pairs.keys() <= must | may, "not_allowed")
    need(r["version"] == (2 if type(r.get("evidence")) is list else 1), "version")
    kind, flags = r["kind"], r["flags"]
    need(flags < 512 and bool(flags & CORRECTS) == (kind == CORRECTION), "flags")
    need(bool(flags & NO_DATA) == (kind == NODATA) and not (kind in NO_PORT and flags), "flags")
    need("window_first" not in r or flags & MERGED, "flags")
    need("window_first" not in r or r["window_first"] < r["window_id"], "range")
    for start, end in (("window_start", "window_end"), ("cut_start_ns", "cut_end_ns"),
                       ("revision_first", "revision_last"), ("bytes_min", "bytes_max")):
        need(end not in r or r[start] <= r[end], "backwards")
    counted = [end - start for start, end in zip(r.get("register_start", []), r.get("register_end", []))]
    skbs = [end - start for start, end in zip(r.get("skbs_start", []), r.get("skbs_end", []))]
    need(min(counted + skbs, default=0) >= 0, "backwards")
    if kind in (BEGIN, CHECKPOINT, KEY, ERASURE):  # [M-5.7 to M-5.9]
        need(r["tenant_seq"] == 0 and (kind > BEGIN or r["seq"] == r["stream_seq"] == 0), "range")
        need(kind != CHECKPOINT or r["salt"] == bytes(16), "range")
        need(kind == CHECKPOINT or r["window_start"] == r["window_end"], "sum")
    need("erased_flows" not in r or r["erased_flows"][1] <= r["erased_flows"][2], "range")
    need("erased" not in r or r["erased"][-1][1] < r["seq"], "range")
    need("elapsed_ns" not in r or r["elapsed_ns"] <= r["cut_end_ns"] - r["cut_start_ns"], "sum")
    need(all(part <= whole for part, whole in zip(r.get("unattributed", []), counted)), "sum")
    if r["version"] == 2:
        need(all(sum(one[at + 1] for one in r["evidence"]) <= counted[at] for at in (0, 1)), "sum")
    need("bytes_min" not in r or r["bytes_min"] == (0 if kind == NODATA else counted[1]), "sum")
    if kind == CORRECTION:  # [M-10.1]
        need(r["correction"][0] != r["ledger_id"] or r["correction"][1] < r["seq"], "range")
    if kind == STATEMENT:  # [M-17.6]
        need(min(r["statement"][:2]) >= 1 and r["statement"][3] <= r["seq"], "range")
    need("supersedes" not in r or r["supersedes"][0] != r["ledger_id"], "range")
    return r

def shown(value):
    """A value as the vectors have it [M-11.7]."""
    if type(value) is list:
        return [shown(one) for one in value]
    return str(value) if type(value) is int else value.hex() if type(value) is bytes else value

def wrong(vector, secret):
    """What is wrong with a vector, or None."""
    data = bytes.fromhex(vector["hex"])
    try:
        record = read(data)
    except Refused as refused:
        return None if vector.get("error") == str(refused) else f"refused: {refused}"
    salt = hmac.new(secret, record["seq"].to_bytes(8, "big"), hashlib.sha256).digest()[:16]
    if {name: shown(value) for name, value in record.items()} != vector.get("fields"):
        return f"read as {record}"
    if hashlib.sha256(b"\0" + data).hexdigest() != vector["leaf"]:
        return "another leaf"
    return None if record["kind"] == CHECKPOINT or record["salt"] == salt else "another salt"

def main(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    secret, everything = bytes.fromhex(vectors["secret"]), vectors["accepted"] + vectors["refused"]
    faults = [f"{v['name']}: {fault}\n" for v in everything if (fault := wrong(v, secret))]
    sys.stderr.write("".join(faults))
    print(f"{len(vectors['accepted'])} accepted, {len(vectors['refused'])} refused")
    return len(faults) > 0

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
