#!/usr/bin/env python3
"""Reckons usage as docs/METERING.md, M-16, says, and checks the vectors that were reckoned by hand.

Written from that page alone: it shares no code with octroi. Clauses are in brackets.
`usage.py VECTORS.json` exits with 0 when every number is what the file says.
"""
import json
import sys

SLOT, HOUR = 300, 3600


def rank(count):
    """[M-16.12] The place of the percentile among so many values."""
    return -(-95 * count // 100)


def before(n, s, e, t):
    """[M-16.6] How much of n, carried from s to e, comes before t."""
    if s == e:
        return n if t > s else 0
    return n * (min(max(t, s), e) - s) // (e - s)


def share(n, span, start, end):
    return before(n, *span, end) - before(n, *span, start)


def touches(span, start, end):
    s, e = span
    return start <= s < end if s == e else s < end and e > start


def slots(span):
    s, e = span
    return range(s // SLOT, s // SLOT + 1 if s == e else (e - 1) // SLOT + 1)


def records(case):
    """The records of a case, by host, in the order of seq; times in s since 1970."""
    origin, hosts = int(case["origin"]), {}
    for item in case["records"]:
        repeat = item.get("repeat", {"every": 0, "times": 1})
        seq = item["seq"]
        for time in range(repeat["times"]):
            label = tuple(origin + at + time * repeat["every"] for at in item["at"])
            host = item.get("host", "h1")
            rows = hosts.setdefault(host, [])
            one = {"kind": item.get("kind", "METER"), "host": host, "port": item.get("port"),
                   "incarnation": item.get("incarnation", 1), "direction": item.get("direction", 0),
                   "window": item.get("window", 0) + time, "flags": set(item.get("flags", [])),
                   "cause": item.get("cause"), "zone": None, "label": label, "sum": [0, 0, 0]}
            one["first"] = item.get("first", one["window"])
            if "corrects" in item:
                of = next(row for row in rows if row["seq"] == item["corrects"])
                one = dict(of, kind="CORRECTION", label=label, sum=item["add"], flags=set())
                one["corrects"] = item["corrects"]
            if "read_until" in item:
                one["read_until"] = origin + item["read_until"]
            zones = sorted((int(zone), sums) for zone, sums in item.get("zones", {}).items())
            group = [dict(one, zone=zone, sum=[int(n) for n in sums]) for zone, sums in zones]
            if one["kind"] == "METER":
                one["sum"] = [sum(row["sum"][i] for row in group) for i in range(3)]
            for row in [one] + group:
                rows.append(dict(row, seq=seq))
                seq += 1
    return hosts


def carried(row):
    """[M-16.4]"""
    s, e = row["label"]
    if row["kind"] == "METER" and {"PARTIAL", "RESET"} <= row["flags"]:
        e = min(max(row.get("read_until", e), s), e)
    return s, e


def place(hosts):
    """Says of each record when it was carried and when it is billed [M-16.5]; returns where the labels end."""
    now = None
    for rows in hosts.values():
        end = None
        for row in rows:
            row["carried"] = row["billed"] = carried(row)
            if row["kind"] == "CORRECTION":
                row["billed"] = (row["label"][0],) * 2
            elif "LATE" in row["flags"]:
                row["billed"] = (end, end) if end is not None else row["carried"]
            else:
                end = row["label"][1]
        now = end if now is None else max(now, end)
    return now


def chain_key(row):
    return row["host"], row["port"], row["incarnation"], row["direction"]


class Usage:
    def __init__(self, hosts, query, origin):
        self.hosts, self.query = hosts, query
        self.bounds = [origin + bound for bound in query["bounds"]]
        self.start, self.end = self.bounds[0], self.bounds[-1]
        self.by, self.only = query["by"], query.get("zone")
        self.zoned = "zone" in self.by or self.only is not None
        self.origin, self.now = origin, place(hosts)
        self.all = [row for rows in hosts.values() for row in rows]

    def group(self, row):
        parts = {"host": row["host"], "port": row["port"], "direction": row["direction"],
                 "zone": "-" if row["zone"] is None else str(row["zone"])}
        return tuple((name, parts[name]) for name in ("host", "port", "direction", "zone")
                     if name in self.by)

    def wanted(self, row):
        return self.only is None or row["zone"] == int(self.only)

    def rows(self):
        """[M-16.2, M-16.6]"""
        table = {}
        for row in self.all:
            if row["kind"] == "NODATA" or not self.wanted(row) and row["zone"] is not None:
                continue
            total = row["kind"] == "METER" and row["zone"] is None
            if total and self.zoned or row["kind"] == "CORRECTION" and not self.wanted(row):
                continue
            for start, end in zip(self.bounds, self.bounds[1:]):
                if not touches(row["billed"], start, end):
                    continue
                kept = table.setdefault((start, end, self.group(row)), [0] * 6)
                if total:  # A measured zero is a row; its bytes are its zones'.
                    continue
                parts = [share(n, row["billed"], start, end) if n >= 0 else n for n in row["sum"]]
                late = row["kind"] == "METER" and "LATE" in row["flags"]
                spread = row["kind"] == "METER" and len(slots(row["carried"])) > 1
                more = [late, row["kind"] == "CORRECTION", spread]
                for i, n in enumerate(parts + [parts[1] if yes else 0 for yes in more]):
                    kept[i] += n
        shown = []
        for (start, end, group), kept in sorted(table.items(), key=lambda item: self.order(item[0])):
            row = dict(group, **{"from": start - self.origin, "to": end - self.origin,
                                 "sum": [str(n) for n in kept[:3]], "settled": self.settled(start, end)})
            row.update({name: str(n) for name, n in zip(("late", "corrected", "spread"), kept[3:]) if n})
            shown.append(row)
        return shown

    @staticmethod
    def order(key):
        start, end, group = key
        return start, [(-1 if value == "-" else int(value)) if name == "zone" else value
                       for name, value in group]

    def chains(self):
        """Windows of each port and direction, and where one is missing [M-16.7]."""
        ends, holes = {}, []
        for row in self.all:
            if row["zone"] is not None or row["kind"] == "CORRECTION":
                continue
            known = ends.get(chain_key(row))
            if "LATE" in row["flags"]:  # Its label ends nothing.
                if known and row["first"] == known["window"] + 1:
                    gone = known["flags"] | row["flags"] & {"RESET"}
                    ends[chain_key(row)] = dict(known, window=row["window"], flags=gone)
                continue
            if known and row["first"] != known["window"] + 1:
                holes.append((row["host"], known["label"][1], row["label"][0]))
            ends[chain_key(row)] = row
        return ends, holes

    def settled(self, start, end):
        ends, holes = self.chains()
        last = -(-end // HOUR) * HOUR
        over = min([self.now] + [row["label"][1] for row in ends.values() if "RESET" not in row["flags"]])
        absent = set(self.query.get("hosts", [])) - set(self.hosts)
        first = start // HOUR * HOUR
        return last <= over and not absent and not any(
            touches((begun, until), first, last) for _, begun, until in holes)

    def missing(self):
        """[M-16.8]"""
        ends, holes = self.chains()
        found = [(row["host"], *row["label"], row["cause"]) for row in self.all
                 if row["kind"] == "NODATA" and touches(row["label"], self.start, self.end)]
        found += [(*hole, "a window has no record") for hole in holes]
        found += [(host, self.start, self.end, "no ledger of this host was given")
                  for host in self.query.get("hosts", []) if host not in self.hosts]
        return [{"host": host, "from": start - self.origin, "to": end - self.origin, "why": why}
                for host, start, end, why in found]

    def values(self):
        """Slots' values by group and direction, and what is in none of them [M-16.9 to M-16.11]."""
        table, unknown, no_slot = {}, {}, []
        met = {(row["host"], row["seq"]): row for row in self.all}
        inside = lambda row: touches(row["billed"], self.start, self.end)
        keys = lambda row: (row["port"] if "port" in self.by else None, row["zone"] if self.zoned else None)
        for row in self.all:
            if row["kind"] == "NODATA":
                unknown.setdefault((keys(row)[0], row["direction"]), set()).update(slots(row["label"]))
            if row["kind"] == "CORRECTION" and inside(row) and self.wanted(row):
                of = met[row["host"], row["corrects"]]
                if not inside(of) or self.zoned and of["zone"] is None:
                    no_slot.append(row["seq"])
            if row["kind"] != "METER" or (row["zone"] is not None) != self.zoned or not inside(row):
                continue
            if self.zoned and not self.wanted(row):
                continue
            same = lambda of: chain_key(of) == chain_key(row) and of["window"] == row["window"]
            n = row["sum"][1] + sum(
                c["sum"][1] for c in self.all
                if c["kind"] == "CORRECTION" and inside(c) and same(c)
                and (not self.zoned or c["zone"] == row["zone"]))
            if "LATE" in row["flags"] and not touches(row["carried"], self.start, self.end):
                no_slot.append(row["seq"])
            ways = table.setdefault(keys(row), ({}, {}))
            for slot in slots(row["carried"]):
                if self.start <= slot * SLOT < self.end:
                    part = share(n, row["carried"], slot * SLOT, (slot + 1) * SLOT)
                    way = ways[row["direction"]]
                    way[slot] = way.get(slot, 0) + part
        return table, unknown, sorted(no_slot)

    def percentiles(self):
        """[M-16.12]"""
        table, unknown, _ = self.values()
        until = min(self.now // SLOT * SLOT, self.end)
        over = range(self.start // SLOT, until // SLOT)
        shown = []
        for (port, zone), ways in sorted(table.items(), key=str):
            out = [unknown.get((port, way), set()) for way in (0, 1)]
            lists = [[ways[way].get(slot, 0) for slot in over if slot not in out[way]] for way in (0, 1)]
            lists.append([max(ways[0].get(slot, 0), ways[1].get(slot, 0))
                          for slot in over if slot not in out[0] | out[1]])
            p95 = [sorted(values)[rank(len(values)) - 1] if values else None for values in lists]
            digits = lambda n: None if n is None else str(n)
            one = {"slots": str(len(over)), "left_out": [str(len(over) - len(values)) for values in lists],
                   "from": digits(p95[0]), "to": digits(p95[1]), "of_max": digits(p95[2]),
                   "max_of_both": digits(None if None in p95[:2] else max(p95[:2]))}
            for name, way in (("bytes_from", 0), ("bytes_to", 1)):
                one[name] = {str(slot - self.start // SLOT): str(n) for slot, n in ways[way].items() if n}
            if port is not None:
                one["port"] = port
            if zone is not None:
                one["zone"] = str(zone)
            shown.append(one)
        return shown

    def spread(self):
        return [row["seq"] for row in self.all
                if row["kind"] == "METER" and row["zone"] is None and row["sum"][1]
                and len(slots(row["carried"])) > 1 and touches(row["billed"], self.start, self.end)]


def main(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    faults, queries = [], 0
    for one in vectors["ranks"]:
        if rank(int(one["count"])) != int(one["rank"]):
            faults.append(f"rank of {one['count']}")
    for one in vectors["spreads"]:
        span, n = tuple(one["at"]), int(one["bytes"])
        found = {str(k): str(share(n, span, k * SLOT, (k + 1) * SLOT)) for k in slots(span)}
        if found != one["slots"]:
            faults.append(f"spread of {one['at']}: {found}")
    for case in vectors["cases"]:
        for query in case["queries"]:
            usage = Usage(records(case), query, int(case["origin"]))
            p95 = usage.percentiles()
            for found, hand in zip(p95, query["p95"]):
                for name in ("bytes_from", "bytes_to"):
                    if name not in hand:
                        del found[name]
            for name, found in (("rows", usage.rows()), ("p95", p95), ("spread", usage.spread()),
                                ("in_no_slot", usage.values()[2]), ("missing", usage.missing())):
                if found != query.get(name, []):
                    faults.append(f"{case['name']}: {query['bounds']}: {name}: {found}")
            queries += 1
    sys.stderr.write("".join(fault + "\n" for fault in faults))
    print(f"{len(vectors['ranks'])} ranks, {len(vectors['spreads'])} spreads, {queries} queries")
    return len(faults) > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
