-- Runs of pieces of contents that are being relayed whose SHA-1 a relay other than their reporter computed too.
CREATE TABLE confirmed (
    sid   BLOB   NOT NULL,
    first BIGINT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (sid, first)
);

-- Why a superseded content was given up: 1 if a relay had reported false pieces of it, 0 if the object changed.
ALTER TABLE content ADD COLUMN false_fact BIGINT NOT NULL DEFAULT 0;
