-- Signed records of a content (checkpoints of control): all while it grows, later the last snapshot.
-- Written in the transaction of the pieces they seal.
CREATE TABLE record (
    sid   BLOB   NOT NULL,
    term  BIGINT NOT NULL,
    seq   BIGINT NOT NULL,
    bytes BLOB   NOT NULL,
    PRIMARY KEY (sid, term, seq)
);
