-- Version 2: what is read. All of these are views that read FINAL below the mark when they are asked: a materialised view that is
-- filled by inserts would add up what is sent again.

-- A ledger, and how far it is here: every record below next_seq that a sink gets, and no other counts.
CREATE OR REPLACE VIEW ledger AS
SELECT ledger_id, argMax(mark.host, mark.next_seq) AS host, argMax(mark.last_leaf, mark.next_seq) AS last_leaf,
       argMax(mark.head, mark.next_seq) AS head, max(mark.moved) AS moved, max(mark.next_seq) AS next_seq
FROM mark GROUP BY ledger_id;

-- What a bill adds up: METER by zone, and CORRECTION with its sign. Int128: a sum of UInt64 wraps without a word.
CREATE OR REPLACE VIEW billed AS
SELECT record.ledger_id AS ledger_id, record.seq AS seq, record.kind AS kind, record.host AS host,
       record.tenant AS tenant, record.port_uid AS port_uid, record.direction AS direction, record.zone AS zone,
       record.window_start AS window_start, record.window_end AS window_end, record.flags AS flags,
       toInt128(record.packets) + record.correct_packets AS packets,
       toInt128(record.l2_bytes) + record.correct_l2_bytes AS l2_bytes,
       toInt128(record.l3_bytes) + record.correct_l3_bytes AS l3_bytes
FROM record FINAL
INNER JOIN (SELECT ledger_id, max(next_seq) AS next_seq FROM mark GROUP BY ledger_id) AS known
ON record.ledger_id = known.ledger_id
WHERE record.seq < known.next_seq AND record.kind IN (1, 4);

-- Usage by five minutes, UTC. What covers several slots is spread evenly, and every part adds up to the whole (M-16.6); a
-- correction is where the window begins that it corrects (M-16.5).
CREATE OR REPLACE VIEW slot AS
SELECT tenant, port_uid, direction, zone, fromUnixTimestamp64Nano(place * 300000000000, 'UTC') AS slot_start,
       sum(part.1) AS packets, sum(part.2) AS l2_bytes, sum(part.3) AS l3_bytes
FROM (
    SELECT tenant, port_uid, direction, zone,
           toUnixTimestamp64Nano(window_start) AS begins,
           if(kind = 4, begins, toUnixTimestamp64Nano(window_end)) AS ends,
           arrayJoin(range(intDiv(begins, 300000000000), intDiv(greatest(ends - 1, begins), 300000000000) + 1)) AS place,
           toInt128(greatest(place * 300000000000, begins) - begins) AS before,
           toInt128(least((place + 1) * 300000000000, ends) - begins) AS past,
           toInt128(ends - begins) AS whole,
           arrayMap(sum -> if(whole = 0, sum, intDiv(sum * past, whole) - intDiv(sum * before, whole)),
                    [packets, l2_bytes, l3_bytes]) AS parts,
           (parts[1], parts[2], parts[3]) AS part
    FROM billed
)
GROUP BY tenant, port_uid, direction, zone, place;

-- The same by hour and by day, UTC.
CREATE OR REPLACE VIEW usage_hour AS
SELECT tenant, port_uid, direction, zone, toStartOfHour(slot_start) AS hour,
       sum(slot.packets) AS packets, sum(slot.l2_bytes) AS l2_bytes, sum(slot.l3_bytes) AS l3_bytes
FROM slot GROUP BY tenant, port_uid, direction, zone, hour;

CREATE OR REPLACE VIEW usage_day AS
SELECT tenant, port_uid, direction, zone, toDate(slot_start) AS day,
       sum(slot.packets) AS packets, sum(slot.l2_bytes) AS l2_bytes, sum(slot.l3_bytes) AS l3_bytes
FROM slot GROUP BY tenant, port_uid, direction, zone, day;
