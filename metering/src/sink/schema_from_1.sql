-- Version 2 of version 1: a copied ledger cannot correct twice either (M-3.6).
CREATE UNIQUE INDEX correction_once ON octroi.record
    (host, boot_id, map_generation, port_uid, incarnation, direction, zone, window_id, seq)
    WHERE kind = 4;
INSERT INTO octroi.about (version) VALUES (2);
