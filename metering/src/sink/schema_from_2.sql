-- Version 3 of version 2: totals in a table of their own, from the next record on. Those of records that are here already
-- were not sent, and are not asked for.
ALTER TABLE octroi.ledger ADD COLUMN totals_from bigint NOT NULL DEFAULT 0 CHECK (totals_from >= 0);
UPDATE octroi.ledger SET totals_from = next_seq;

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

INSERT INTO octroi.about (version) VALUES (3);
