#!/usr/bin/env python3
"""Reads rows of flow detail as docs/METERING.md, M-13, says, and checks the golden vectors.

Written from that page alone: it shares no code with octroi. Clauses are in brackets.
`flow.py VECTORS.json` exits with 0 when each vector is what the file says.
"""
import hashlib
import json
import sys


class Refused(Exception):
    """The bytes are no row; the reason is a word of [M-11.4]."""


def need(holds, word):
    if not holds:
        raise Refused(word)


def head(data, at):
    """Major type and value of the head at `at`, and where it ends [M-11.1, M-11.2]."""
    need(at < len(data), "truncated")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    need(major <= 5, "forbidden")
    if info < 24:
        return major, info, at
    need(info != 31 or major < 2, "indefinite")
    need(info <= 27, "forbidden")
    width = 1 << (info - 24)
    need(at + width <= len(data), "truncated")
    value = int.from_bytes(data[at:at + width], "big")
    need(value >= (24 if width == 1 else 1 << (4 * width)), "not_shortest")
    return major, value, at + width


def number(data, at, least, most):
    major, value, at = head(data, at)
    need(major == 0, "type")
    need(least <= value <= most, "range")
    return value, at


def string(data, at, length):
    major, value, at = head(data, at)
    need(major == 2, "type")
    need(value == length, "range")
    need(at + value <= len(data), "truncated")
    return data[at:at + value], at + value


def row(data, at, mosts):
    major, value, at = head(data, at)
    need(major == 4, "type")
    need(value == len(mosts), "range")
    values = []
    for most in mosts:
        one, at = number(data, at, 0, most)
        values.append(one)
    return values, at


U16, U32, U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1
NAMES = ("version kind salt detail zone ethertype protocol remote port flows counts tcp_flags drops vlan "
         "local local_port first_ns last_ns evidence").split()
RANGES = {"detail": (1, 2), "zone": (0, U32), "ethertype": (0, U16), "protocol": (0, 255), "port": (0, U16),
          "flows": (1, U64), "tcp_flags": (0, 255), "vlan": (1, 4095), "local_port": (0, U16),
          "first_ns": (0, U64), "last_ns": (0, U64)}
ROWS = {"counts": [U64] * 3, "drops": [U32, U64], "evidence": [255, U16, U16]}


def width(r):
    """Bytes of an address [M-13.5]; None: there is none."""
    need("detail" in r and "ethertype" in r, "missing")
    return {(0x0800, 2): 4, (0x0800, 1): 3, (0x86DD, 2): 16, (0x86DD, 1): 6}.get((r["ethertype"], r["detail"]))


def read(data):
    """The fields of a row by name; raises Refused."""
    major, pairs, at = head(data, 0)
    need(major == 5, "type")
    r = {}
    for _ in range(pairs):
        key, at = number(data, at, 0, U64)
        need(key < len(NAMES), "unknown_key")
        name = NAMES[key]
        need(name not in r, "duplicate")
        need(all(NAMES.index(other) < key for other in r), "order")
        if name in ("version", "kind"):
            r[name], at = number(data, at, 0, U64)
            need(r[name] in {"version": (1, 2), "kind": (16,)}[name], name)
        elif name == "salt":
            r[name], at = string(data, at, 16)
        elif name in ("remote", "local"):
            need(width(r) is not None, "not_allowed")
            r[name], at = string(data, at, width(r))
        elif name in ROWS:
            r[name], at = row(data, at, ROWS[name])
            need(r[name] != [0, 0] and (name != "evidence" or r[name][0]), "range")
        else:
            r[name], at = number(data, at, *RANGES[name])
    need(at == len(data), "trailing")
    full = r.get("detail") == 2
    must = set(NAMES[:12]) - {"remote"} | ({"local_port", "first_ns", "last_ns"} if full else set())
    must |= {"evidence"} if r.get("version") == 2 else set()
    need(must <= r.keys(), "missing")
    if width(r):
        must |= {"remote", "local"} if full else {"remote"}
    need(must <= r.keys(), "missing")
    need(r.keys() <= must | ({"drops", "vlan"} if full else {"drops"}), "not_allowed")
    need(not full or r["first_ns"] <= r["last_ns"], "backwards")
    return r


def leaf(data):
    return hashlib.sha256(b"\0" + data).digest()


def root(leaves):
    """RFC 9162, 2.1.1 [M-13.6]."""
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(leaves[:left]) + root(leaves[left:])).digest()


def shown(value):
    if type(value) is list:
        return [shown(one) for one in value]
    return value.hex() if type(value) is bytes else str(value)


def wrong(vector):
    """What is wrong with a vector, or None."""
    data = bytes.fromhex(vector["hex"])
    try:
        r = {name: shown(value) for name, value in read(data).items()}
    except Refused as refused:
        return None if vector.get("error") == str(refused) else f"refused: {refused}"
    if r != vector.get("fields"):
        return f"read as {r}"
    return None if leaf(data).hex() == vector["leaf"] else "another leaf"


def main(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    rows, trees = vectors["accepted"] + vectors["refused"], vectors["trees"]
    faults = [f"{v['name']}: {fault}\n" for v in rows if (fault := wrong(v))]
    for tree in trees:
        if root([leaf(bytes.fromhex(one)) for one in tree["rows"]]).hex() != tree["root"]:
            faults.append(f"{len(tree['rows'])} rows: another root\n")
    sys.stderr.write("".join(faults))
    print(f"{len(vectors['accepted'])} accepted, {len(vectors['refused'])} refused, {len(trees)} trees")
    return len(faults) > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
