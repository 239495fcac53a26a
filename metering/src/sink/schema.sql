-- What octroi keeps in PostgreSQL: version 3. Run as a whole, in one transaction, by whoever comes first.
CREATE SCHEMA IF NOT EXISTS octroi;

CREATE TABLE octroi.about (version integer NOT NULL, made timestamptz NOT NULL DEFAULT now());
INSERT INTO octroi.about (version) VALUES (3);

-- A ledger, and how far it is here: every record below next_seq, and no other.
CREATE TABLE octroi.ledger (
    ledger_id bytea PRIMARY KEY CHECK (octet_length(ledger_id) = 16),
    host text NOT NULL,
    next_seq bigint NOT NULL CHECK (next_seq >= 0),
    last_leaf bytea NOT NULL CHECK (octet_length(last_leaf) = 32),
    -- The newest signed head that came along: a C2SP checkpoint.
    head text,
    -- Of the records below this one no totals are here: whoever sent them did not send those, or they were deleted here.
    totals_from bigint NOT NULL DEFAULT 0 CHECK (totals_from >= 0),
    moved timestamptz NOT NULL DEFAULT now()
);

-- Records as METERING.md says: zones and what is not METER; a total beside its zones would be billed twice.
-- Sums are of the record's window; those of a correction are signed.
CREATE TABLE octroi.record (
    ledger_id bytea NOT NULL REFERENCES octroi.ledger,
    seq bigint NOT NULL,
    leaf bytea NOT NULL CHECK (octet_length(leaf) = 32),
    kind smallint NOT NULL,
    host text NOT NULL,
    boot_id bytea NOT NULL,
    map_generation bytea NOT NULL,
    port_uid text NOT NULL,
    incarnation numeric(20) NOT NULL,
    tenant bigint NOT NULL,
    direction smallint NOT NULL,
    zone bigint NOT NULL,
    window_id numeric(20) NOT NULL,
    window_start bigint NOT NULL,
    window_end bigint NOT NULL,
    flags bigint NOT NULL,
    packets numeric(20) NOT NULL,
    l2_bytes numeric(20) NOT NULL,
    l3_bytes numeric(20) NOT NULL,
    canonical bytea NOT NULL,
    PRIMARY KEY (ledger_id, seq)
);

-- M-3.6, without the ledger and with the host: a ledger that was copied cannot bill twice.
CREATE UNIQUE INDEX record_once ON octroi.record
    (host, boot_id, map_generation, port_uid, incarnation, direction, zone, window_id, kind)
    WHERE kind IN (1, 5);
CREATE UNIQUE INDEX correction_once ON octroi.record
    (host, boot_id, map_generation, port_uid, incarnation, direction, zone, window_id, seq)
    WHERE kind = 4;
CREATE INDEX record_by_tenant ON octroi.record (tenant, window_start);

-- The records of one tenant in one ledger, in their order: what a statement reads.
CREATE INDEX record_by_ledger ON octroi.record (tenant, ledger_id, seq);

-- The `*` record of every port, direction and window: the same bytes as its zones together, so that it is in a table of its
-- own and in no sum. A window without one is missing; a 0 in it was measured. Drops and evidence are in `canonical`.
CREATE TABLE octroi.total (
    ledger_id bytea NOT NULL REFERENCES octroi.ledger,
    seq bigint NOT NULL,
    leaf bytea NOT NULL CHECK (octet_length(leaf) = 32),
    host text NOT NULL,
    boot_id bytea NOT NULL,
    map_generation bytea NOT NULL,
    incarnation numeric(20) NOT NULL,
    tenant bigint NOT NULL,
    direction smallint NOT NULL,
    window_id numeric(20) NOT NULL,
    window_start bigint NOT NULL,
    window_end bigint NOT NULL,
    flags bigint NOT NULL,
    canonical bytea NOT NULL,
    PRIMARY KEY (ledger_id, seq)
);

-- M-3.6 as above; an incarnation has one port.
CREATE UNIQUE INDEX total_once ON octroi.total
    (host, boot_id, map_generation, incarnation, direction, window_id);
CREATE INDEX total_by_ledger ON octroi.total (tenant, ledger_id, seq);

-- Hosts that have ports of a tenant, where somebody says so: a statement names those that have sent nothing of it. Octroi
-- reads this and never writes it.
CREATE TABLE octroi.expected (
    tenant bigint NOT NULL,
    host text NOT NULL,
    PRIMARY KEY (tenant, host)
);

-- What was refused because something else has its name: an alarm a row.
CREATE TABLE octroi.fork (
    ledger_id bytea NOT NULL,
    host text NOT NULL,
    what text NOT NULL,
    seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (ledger_id, what)
);

-- What a bill adds up: bytes by tenant, port, direction, zone and window. Times: UTC, ns since 1970.
CREATE VIEW octroi.billed AS
    SELECT ledger_id, seq, host, tenant, port_uid, direction, zone, window_start, window_end,
           flags, packets, l2_bytes, l3_bytes
    FROM octroi.record WHERE kind IN (1, 4);
