-- What octroi keeps in ClickHouse: version 1, the tables. Each statement may be run again: there is no transaction, and whoever
-- comes after one that was killed begins anew. Parts are made durable before an insert is acknowledged.

-- Records as METERING.md says: zones and what is not METER; a total beside its zones would be billed twice. What counts is below
-- the ledger's mark (view `ledger`): read `billed`, not this table. The same record, sent again, is one row to who reads
-- FINAL; of two with one number the elder stays. Counters are UInt64, as they were read; what a correction adds has a sign, and
-- columns of its own.
CREATE TABLE IF NOT EXISTS record (
    ledger_id FixedString(16),
    seq UInt64,
    leaf FixedString(32),
    kind UInt8,
    host LowCardinality(String),
    boot_id FixedString(16),
    map_generation FixedString(16),
    port_uid String,
    incarnation UInt64,
    tenant UInt32,
    direction UInt8,
    zone Int64,
    window_id UInt64,
    window_first UInt64,
    window_start DateTime64(9, 'UTC'),
    window_end DateTime64(9, 'UTC'),
    flags UInt32,
    packets UInt64,
    l2_bytes UInt64,
    l3_bytes UInt64,
    correct_packets Int64,
    correct_l2_bytes Int64,
    correct_l3_bytes Int64,
    canonical String CODEC(ZSTD(1)),
    elder UInt64 DEFAULT bitNot(toUInt64(toUnixTimestamp64Nano(now64(9)))),
    INDEX record_by_generation map_generation TYPE bloom_filter(0.001) GRANULARITY 1
) ENGINE = ReplacingMergeTree(elder)
PARTITION BY toYYYYMM(window_start)
ORDER BY (ledger_id, seq)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- How far each ledger is: a row each time it moves, of which merges keep the furthest.
CREATE TABLE IF NOT EXISTS mark (
    ledger_id FixedString(16),
    host String,
    next_seq UInt64,
    last_leaf FixedString(32),
    -- The newest signed head that came along: a C2SP checkpoint.
    head String,
    moved DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree(next_seq)
ORDER BY ledger_id
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- What was refused because something else has its name: an alarm a row, to who reads FINAL.
CREATE TABLE IF NOT EXISTS fork (
    ledger_id FixedString(16),
    host String,
    what String,
    seen DateTime64(3, 'UTC') DEFAULT now64(3),
    elder UInt64 DEFAULT bitNot(toUInt64(toUnixTimestamp64Nano(now64(9))))
) ENGINE = ReplacingMergeTree(elder)
ORDER BY (ledger_id, what)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
