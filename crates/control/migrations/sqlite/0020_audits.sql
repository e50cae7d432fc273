-- Pieces that a relay other than their reporter was asked to read again. `digests` (SHA-256 node, SHA-1) when it found others.
CREATE TABLE audit (
    sid     BLOB   NOT NULL,
    piece   BIGINT NOT NULL,
    node    BLOB   NOT NULL,
    outcome TEXT   NOT NULL,
    digests BLOB,
    PRIMARY KEY (sid, piece, node)
);

-- Relays that proved wrong: nothing that they report counts.
CREATE TABLE distrust (
    node     BLOB   PRIMARY KEY,
    reason   TEXT   NOT NULL,
    since_us BIGINT NOT NULL
);
