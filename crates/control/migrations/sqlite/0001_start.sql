-- Times are microseconds since 1970, ids are BLOB (fixed length) or TEXT, lists and maps are JSON text.
-- Only SQL that PostgreSQL understands too, apart from the types' names.

CREATE TABLE join_token (
    id         TEXT   PRIMARY KEY,
    hash       BLOB   NOT NULL,
    role       TEXT,
    labels     TEXT   NOT NULL,
    revoked    BIGINT NOT NULL,
    created_us BIGINT NOT NULL
);

CREATE TABLE node (
    id          BLOB   PRIMARY KEY,
    name        TEXT   NOT NULL,
    role        TEXT   NOT NULL,
    labels      TEXT   NOT NULL,
    short_lived BIGINT NOT NULL,
    token_hash  BLOB   NOT NULL,
    created_us  BIGINT NOT NULL,
    seen_us     BIGINT NOT NULL
);

-- `sid` is the current content; earlier attempts stay in `content` as superseded.
CREATE TABLE relay_task (
    id         TEXT   PRIMARY KEY,
    url        TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    reason     TEXT,
    attempt    BIGINT NOT NULL,
    sid        BLOB,
    pinned     BIGINT NOT NULL,
    created_us BIGINT NOT NULL,
    ended_us   BIGINT NOT NULL
);

-- One failure per relay and process start: a restarted relay may try again.
CREATE TABLE relay_failure (
    relay_task TEXT   NOT NULL,
    node       BLOB   NOT NULL,
    boot       BIGINT NOT NULL,
    kind       TEXT   NOT NULL,
    message    TEXT   NOT NULL,
    PRIMARY KEY (relay_task, node)
);

CREATE TABLE content (
    sid           BLOB   PRIMARY KEY,
    relay_task    TEXT   NOT NULL,
    state         TEXT   NOT NULL,
    length        BIGINT NOT NULL,
    piece_length  BIGINT NOT NULL,
    name          TEXT   NOT NULL,
    etag          TEXT,
    last_modified TEXT,
    ranges        BIGINT NOT NULL,
    genesis       BLOB   NOT NULL,
    announce_key  TEXT   NOT NULL,
    info_hash     BLOB,
    root          BLOB,
    created_us    BIGINT NOT NULL
);

-- The raw info dict of a final content, apart from `content` because it is large and seldom read.
CREATE TABLE info (
    sid  BLOB PRIMARY KEY,
    info BLOB NOT NULL
);

-- Digests of a run of pieces that one relay reported in one sync: 52 bytes a piece (SHA-256 node, SHA-1).
CREATE TABLE fact (
    sid     BLOB   NOT NULL,
    first   BIGINT NOT NULL,
    relay   BLOB   NOT NULL,
    digests BLOB   NOT NULL,
    PRIMARY KEY (sid, first)
);

-- Every range lease ever dealt for a content that is not final yet: who may report what, also after a restart.
CREATE TABLE lease (
    id    BIGINT PRIMARY KEY,
    sid   BLOB   NOT NULL,
    node  BLOB   NOT NULL,
    boot  BIGINT NOT NULL,
    first BIGINT NOT NULL,
    count BIGINT NOT NULL
);

CREATE TABLE task (
    id         TEXT   PRIMARY KEY,
    relay_task TEXT   NOT NULL,
    target     TEXT   NOT NULL,
    cancelled  BIGINT NOT NULL,
    created_us BIGINT NOT NULL
);

CREATE TABLE task_agent (
    task           TEXT   NOT NULL,
    node           BLOB   NOT NULL,
    state          TEXT   NOT NULL,
    reason         TEXT,
    bytes          BIGINT NOT NULL,
    peer_bytes     BIGINT NOT NULL,
    relay_bytes    BIGINT NOT NULL,
    origin_bytes   BIGINT NOT NULL,
    resumed_bytes  BIGINT NOT NULL,
    PRIMARY KEY (task, node)
);

-- One row that a health check may rewrite to learn whether the database takes writes.
CREATE TABLE probe (
    id      BIGINT PRIMARY KEY,
    written BIGINT NOT NULL
);
