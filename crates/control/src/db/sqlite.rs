//! The embedded database: one SQLite file in the data folder, nothing to install.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use floodway_api::rest::SourceBytes;
use floodway_api::sync::PIECES_PER_SYNC;
use floodway_proto::record::Signed;
use floodway_proto::{InfoHash, NodeId, Sha1, Sha256, Sid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row, SqliteConnection};

use super::{
    AuditRow, Change, ConfirmedRow, ContentRow, DistrustRow, FactRow, JoinTokenRow, KeptGenesis,
    LeaseRow, Model, NodeRow, RelayFailureRow, RelayTaskRow, Store, StoreError, TaskAgentRow,
    TaskRow,
};
use crate::tasks::pieces::{DIGESTS_LENGTH, pack, unpack};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// Announce keys lie in it in clear: it is for this user only. What SQLite makes beside it gets the file's mode.
fn make_private(file: &Path) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)?;
    // An earlier version let others read it.
    for end in ["", "-wal", "-shm"] {
        let mut path = file.as_os_str().to_owned();
        path.push(end);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
                fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Control's database in one SQLite file (write-ahead log; a commit is on disk before it returns).
#[derive(Clone, Debug)]
pub(crate) struct Sqlite {
    pool: SqlitePool,
}

impl Sqlite {
    /// Opens or creates the file and brings its schema up to date.
    pub(crate) async fn open(file: &Path) -> Result<Self, StoreError> {
        make_private(file).map_err(sqlx::Error::from)?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With FULL a commit also survives a power cut; turns batch the commits, so it stays cheap.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(2)
            .connect_with(options)
            .await?;
        MIGRATIONS.run(&pool).await?;
        Ok(Self { pool })
    }

    /// Checkpoints the log and closes the file.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    #[cfg(test)]
    pub(super) fn pool(&self) -> &SqlitePool {
        &self.pool
    }
}

impl Store for Sqlite {
    async fn load(&self) -> Result<Model, StoreError> {
        let mut model = Model::default();
        let mut read = async |sql: &'static str, table: &'static str, read: ReadRow| {
            for row in sqlx::query(sql).fetch_all(&self.pool).await? {
                model.apply(read(&Columns { row: &row, table })?);
            }
            Ok::<_, StoreError>(())
        };
        read("SELECT * FROM join_token", "join_token", join_token).await?;
        read("SELECT * FROM node", "node", node).await?;
        read(
            "SELECT * FROM relay_task ORDER BY created_us, id",
            "relay_task",
            relay_task,
        )
        .await?;
        read(
            "SELECT * FROM relay_failure",
            "relay_failure",
            relay_failure,
        )
        .await?;
        read("SELECT * FROM content", "content", content).await?;
        let facts = "SELECT fact.* FROM fact JOIN content ON content.sid = fact.sid \
                     WHERE content.state = 'relaying'";
        read(facts, "fact", fact).await?;
        read("SELECT * FROM audit", "audit", audit).await?;
        read("SELECT * FROM confirmed", "confirmed", confirmed).await?;
        read("SELECT * FROM distrust", "distrust", distrust).await?;
        read("SELECT * FROM record", "record", record).await?;
        read("SELECT * FROM lease ORDER BY id", "lease", lease).await?;
        read("SELECT * FROM task", "task", task).await?;
        read("SELECT * FROM task_agent", "task_agent", task_agent).await?;
        // Of final contents the digests stay in the database; who reported them is kept at hand.
        let reporters = "SELECT fact.sid, fact.relay, SUM(LENGTH(fact.digests)) AS bytes FROM fact \
                         JOIN content ON content.sid = fact.sid WHERE content.state <> 'relaying' \
                         GROUP BY fact.sid, fact.relay";
        for row in &sqlx::query(reporters).fetch_all(&self.pool).await? {
            let row = Columns { row, table: "fact" };
            let pieces = row.u64("bytes")? / DIGESTS_LENGTH as u64;
            let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
            model.reported(Sid(row.id("sid")?), NodeId(row.id("relay")?), pieces);
        }
        Ok(model)
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        for change in changes {
            write(&mut transaction, change).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn info(&self, sid: Sid) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query("SELECT info FROM info WHERE sid = $1")
            .bind(&sid.0[..])
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| row.try_get("info")).transpose()?)
    }

    async fn digests(
        &self,
        sid: Sid,
        pieces: Range<u32>,
    ) -> Result<Vec<(Sha256, Sha1)>, StoreError> {
        // A run that begins before the range may reach into it; none is longer than one sync's reports.
        let reach = u32::try_from(PIECES_PER_SYNC).unwrap_or(u32::MAX);
        let rows = sqlx::query(
            "SELECT * FROM fact WHERE sid = $1 AND first >= $2 AND first < $3 ORDER BY first",
        )
        .bind(&sid.0[..])
        .bind(i64::from(pieces.start.saturating_sub(reach)))
        .bind(i64::from(pieces.end))
        .fetch_all(&self.pool)
        .await?;
        let mut digests = Vec::with_capacity(pieces.len());
        for row in &rows {
            let row = Columns { row, table: "fact" };
            let (first, run) = (row.u32("first")?, row.bytes("digests")?);
            let within = (first..).zip(unpack(&run));
            let within = within.filter(|(piece, _)| pieces.contains(piece));
            digests.extend(within.map(|(_, digests)| digests));
        }
        Ok(digests)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO probe (id, written) VALUES (1, 1) \
             ON CONFLICT (id) DO UPDATE SET written = probe.written + 1",
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// In place of a content's length that is not known: -1 in the database.
const UNKNOWN_LENGTH: u64 = u64::MAX;

/// Numbers above `i64::MAX` are kept by their bits: the columns are signed.
fn int(value: u64) -> i64 {
    value.cast_signed()
}

/// An enum or a map as JSON; a plain word without its quotes.
fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(error) => unreachable!("plain data always serialises: {error}"),
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "one statement after another, a table each"
)]
async fn write(db: &mut SqliteConnection, change: &Change) -> Result<(), sqlx::Error> {
    let query = match change {
        Change::JoinToken(row) => sqlx::query(
            "INSERT INTO join_token (id, hash, role, labels, revoked, created_us) \
             VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (id) DO UPDATE SET hash = excluded.hash, revoked = excluded.revoked",
        )
        .bind(&row.id)
        .bind(&row.hash.0[..])
        .bind(row.role.as_ref().map(word))
        .bind(word(&row.labels))
        .bind(i64::from(row.revoked))
        .bind(row.created_us),
        Change::Node(row) => sqlx::query(
            "INSERT INTO node (id, name, role, labels, short_lived, token_hash, created_us, seen_us) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, labels = excluded.labels, \
             token_hash = excluded.token_hash, seen_us = excluded.seen_us",
        )
        .bind(&row.id.0[..])
        .bind(&row.name)
        .bind(word(&row.role))
        .bind(word(&row.labels))
        .bind(i64::from(row.short_lived))
        .bind(&row.token_hash.0[..])
        .bind(row.created_us)
        .bind(row.seen_us),
        Change::ForgetNode(node) => {
            sqlx::query("DELETE FROM node WHERE id = $1").bind(&node.0[..])
        }
        Change::RelayTask(row) => sqlx::query(
            "INSERT INTO relay_task (id, url, state, reason, attempt, sid, pinned, created_us, ended_us, files) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
             ON CONFLICT (id) DO UPDATE SET state = excluded.state, reason = excluded.reason, \
             attempt = excluded.attempt, sid = excluded.sid, pinned = excluded.pinned, \
             ended_us = excluded.ended_us",
        )
        .bind(&row.id)
        .bind(&row.url)
        .bind(word(&row.state))
        .bind(&row.reason)
        .bind(i64::from(row.attempt))
        .bind(row.sid.map(|sid| sid.0.to_vec()))
        .bind(i64::from(row.pinned))
        .bind(row.created_us)
        .bind(row.ended_us)
        .bind((!row.files.is_empty()).then(|| word(&*row.files))),
        Change::RelayFailure(row) => sqlx::query(
            "INSERT INTO relay_failure (relay_task, node, boot, kind, message) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (relay_task, node) DO UPDATE SET boot = excluded.boot, \
             kind = excluded.kind, message = excluded.message",
        )
        .bind(&row.relay_task)
        .bind(&row.node.0[..])
        .bind(int(row.boot))
        .bind(word(&row.kind))
        .bind(&row.message),
        Change::Content(row) => sqlx::query(
            "INSERT INTO content (sid, relay_task, state, length, piece_length, name, etag, \
             last_modified, ranges, genesis, announce_key, info_hash, root, created_us, false_fact) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
             ON CONFLICT (sid) DO UPDATE SET state = excluded.state, length = excluded.length, \
             false_fact = excluded.false_fact, info_hash = excluded.info_hash, root = excluded.root",
        )
        .bind(&row.sid.0[..])
        .bind(&row.relay_task)
        .bind(word(&row.state))
        .bind(int(row.length.unwrap_or(UNKNOWN_LENGTH)))
        .bind(i64::from(row.piece_length))
        .bind(&row.name)
        .bind(&row.etag)
        .bind(&row.last_modified)
        .bind(i64::from(row.ranges))
        .bind(&row.genesis.bytes()[..])
        .bind(&row.announce_key)
        .bind(row.info_hash.map(|hash| hash.0.to_vec()))
        .bind(row.root.map(|root| root.0.to_vec()))
        .bind(row.created_us)
        .bind(i64::from(row.false_fact)),
        Change::EndRelaying { sid, superseded } => {
            if *superseded {
                for sql in ["DELETE FROM fact WHERE sid = $1", "DELETE FROM audit WHERE sid = $1"] {
                    sqlx::query(sql).bind(&sid.0[..]).execute(&mut *db).await?;
                }
            }
            let confirmed = sqlx::query("DELETE FROM confirmed WHERE sid = $1").bind(&sid.0[..]);
            confirmed.execute(&mut *db).await?;
            sqlx::query("DELETE FROM lease WHERE sid = $1").bind(&sid.0[..])
        }
        Change::Info { sid, info } => sqlx::query(
            "INSERT INTO info (sid, info) VALUES ($1, $2) \
             ON CONFLICT (sid) DO UPDATE SET info = excluded.info",
        )
        .bind(&sid.0[..])
        .bind(&info[..]),
        Change::Fact(row) => sqlx::query(
            "INSERT INTO fact (sid, first, relay, digests) VALUES ($1, $2, $3, $4)",
        )
        .bind(&row.sid.0[..])
        .bind(i64::from(row.first))
        .bind(&row.relay.0[..])
        .bind(&row.digests[..]),
        Change::Record(signed) => {
            let record = signed.record();
            sqlx::query("INSERT INTO record (sid, term, seq, bytes) VALUES ($1, $2, $3, $4)")
                .bind(&record.sid.0[..])
                .bind(i64::from(record.head.term))
                .bind(int(record.head.seq))
                .bind(&signed.bytes()[..])
        }
        Change::DropRecords { sid, before } => sqlx::query(
            "DELETE FROM record WHERE sid = $1 AND (term < $2 OR (term = $2 AND seq < $3))",
        )
        .bind(&sid.0[..])
        .bind(i64::from(before.term))
        .bind(int(before.seq)),
        Change::Lease(row) => sqlx::query(
            "INSERT INTO lease (id, sid, node, boot, first, count) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(int(row.id))
        .bind(&row.sid.0[..])
        .bind(&row.node.0[..])
        .bind(int(row.boot))
        .bind(i64::from(row.first))
        .bind(i64::from(row.count)),
        Change::Audit(row) => sqlx::query(
            "INSERT INTO audit (sid, piece, node, outcome, digests) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (sid, piece, node) DO UPDATE SET outcome = excluded.outcome, \
             digests = excluded.digests",
        )
        .bind(&row.sid.0[..])
        .bind(i64::from(row.piece))
        .bind(&row.node.0[..])
        .bind(word(&row.outcome))
        .bind(row.digests.map(pack)),
        Change::Confirmed(row) => sqlx::query(
            "INSERT INTO confirmed (sid, first, count) VALUES ($1, $2, $3) \
             ON CONFLICT (sid, first) DO UPDATE SET count = MAX(confirmed.count, excluded.count)",
        )
        .bind(&row.sid.0[..])
        .bind(i64::from(row.first))
        .bind(i64::from(row.count)),
        Change::Distrust(row) => sqlx::query(
            "INSERT INTO distrust (node, reason, since_us) VALUES ($1, $2, $3) \
             ON CONFLICT (node) DO UPDATE SET reason = excluded.reason, since_us = excluded.since_us",
        )
        .bind(&row.node.0[..])
        .bind(&row.reason)
        .bind(row.since_us),
        Change::Trust(node) => {
            sqlx::query("DELETE FROM distrust WHERE node = $1").bind(&node.0[..])
        }
        Change::Task(row) => sqlx::query(
            "INSERT INTO task (id, relay_task, target, cancelled, created_us) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (id) DO UPDATE SET cancelled = excluded.cancelled",
        )
        .bind(&row.id)
        .bind(&row.relay_task)
        .bind(&row.target)
        .bind(i64::from(row.cancelled))
        .bind(row.created_us),
        Change::TaskAgent(row) => sqlx::query(
            "INSERT INTO task_agent (task, node, state, reason, bytes, peer_bytes, relay_bytes, \
             origin_bytes, resumed_bytes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             ON CONFLICT (task, node) DO UPDATE SET state = excluded.state, \
             reason = excluded.reason, bytes = excluded.bytes, peer_bytes = excluded.peer_bytes, \
             relay_bytes = excluded.relay_bytes, origin_bytes = excluded.origin_bytes, \
             resumed_bytes = excluded.resumed_bytes",
        )
        .bind(&row.task)
        .bind(&row.node.0[..])
        .bind(word(&row.state))
        .bind(&row.reason)
        .bind(int(row.bytes))
        .bind(int(row.sources.peer))
        .bind(int(row.sources.relay))
        .bind(int(row.sources.origin))
        .bind(int(row.sources.resumed)),
    };
    query.execute(&mut *db).await?;
    Ok(())
}

type ReadRow = fn(&Columns<'_>) -> Result<Change, StoreError>;

/// One row with checked access to its columns.
struct Columns<'a> {
    row: &'a SqliteRow,
    table: &'static str,
}

impl Columns<'_> {
    fn damaged(&self, column: &str, why: impl std::fmt::Display) -> StoreError {
        StoreError::Damaged {
            table: self.table,
            what: format!("`{column}` ({why})"),
        }
    }

    fn i64(&self, column: &str) -> Result<i64, StoreError> {
        Ok(self.row.try_get(column)?)
    }

    fn u64(&self, column: &str) -> Result<u64, StoreError> {
        self.i64(column).map(i64::cast_unsigned)
    }

    fn u32(&self, column: &str) -> Result<u32, StoreError> {
        u32::try_from(self.i64(column)?).map_err(|error| self.damaged(column, error))
    }

    fn bool(&self, column: &str) -> Result<bool, StoreError> {
        self.i64(column).map(|value| value != 0)
    }

    fn text(&self, column: &str) -> Result<String, StoreError> {
        Ok(self.row.try_get(column)?)
    }

    fn opt_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        Ok(self.row.try_get(column)?)
    }

    fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        Ok(self.row.try_get(column)?)
    }

    fn opt_id<const N: usize>(&self, column: &str) -> Result<Option<[u8; N]>, StoreError> {
        let Some(bytes) = self.row.try_get::<Option<Vec<u8>>, _>(column)? else {
            return Ok(None);
        };
        let id = <[u8; N]>::try_from(bytes.as_slice());
        id.map(Some).map_err(|error| self.damaged(column, error))
    }

    fn id<const N: usize>(&self, column: &str) -> Result<[u8; N], StoreError> {
        self.opt_id(column)?
            .ok_or_else(|| self.damaged(column, "empty"))
    }

    fn word<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        let word = serde_json::Value::String(self.text(column)?);
        serde_json::from_value(word).map_err(|error| self.damaged(column, error))
    }

    fn opt_json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let read =
            |text: String| serde_json::from_str(&text).map_err(|error| self.damaged(column, error));
        self.opt_text(column)?.map(read).transpose()
    }

    fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(|error| self.damaged(column, error))
    }
}

fn join_token(row: &Columns<'_>) -> Result<Change, StoreError> {
    Ok(Change::JoinToken(JoinTokenRow {
        id: row.text("id")?,
        hash: Sha256(row.id("hash")?),
        role: match row.opt_text("role")? {
            Some(_) => Some(row.word("role")?),
            None => None,
        },
        labels: row.json("labels")?,
        revoked: row.bool("revoked")?,
        created_us: row.i64("created_us")?,
    }))
}

fn node(row: &Columns<'_>) -> Result<Change, StoreError> {
    Ok(Change::Node(NodeRow {
        id: NodeId(row.id("id")?),
        name: row.text("name")?,
        role: row.word("role")?,
        labels: row.json("labels")?,
        short_lived: row.bool("short_lived")?,
        token_hash: Sha256(row.id("token_hash")?),
        created_us: row.i64("created_us")?,
        seen_us: row.i64("seen_us")?,
    }))
}

fn relay_task(row: &Columns<'_>) -> Result<Change, StoreError> {
    Ok(Change::RelayTask(RelayTaskRow {
        id: row.text("id")?,
        url: row.text("url")?,
        files: Arc::new(row.opt_json("files")?.unwrap_or_default()),
        state: row.word("state")?,
        reason: row.opt_text("reason")?,
        attempt: row.u32("attempt")?,
        sid: row.opt_id("sid")?.map(Sid),
        pinned: row.bool("pinned")?,
        created_us: row.i64("created_us")?,
        ended_us: row.i64("ended_us")?,
    }))
}

fn relay_failure(row: &Columns<'_>) -> Result<Change, StoreError> {
    Ok(Change::RelayFailure(RelayFailureRow {
        relay_task: row.text("relay_task")?,
        node: NodeId(row.id("node")?),
        boot: row.u64("boot")?,
        kind: row.word("kind")?,
        message: row.text("message")?,
    }))
}

fn content(row: &Columns<'_>) -> Result<Change, StoreError> {
    Ok(Change::Content(ContentRow {
        sid: Sid(row.id("sid")?),
        relay_task: row.text("relay_task")?,
        state: row.word("state")?,
        false_fact: row.bool("false_fact")?,
        length: Some(row.u64("length")?).filter(|length| *length != UNKNOWN_LENGTH),
        piece_length: row.u32("piece_length")?,
        name: row.text("name")?,
        etag: row.opt_text("etag")?,
        last_modified: row.opt_text("last_modified")?,
        ranges: row.bool("ranges")?,
        genesis: KeptGenesis::new(row.bytes("genesis")?),
        announce_key: row.text("announce_key")?,
        info_hash: row.opt_id("info_hash")?.map(InfoHash),
        root: row.opt_id("root")?.map(Sha256),
        created_us: row.i64("created_us")?,
    }))
}

fn fact(row: &Columns<'_>) -> Result<Change, StoreError> {
    Ok(Change::Fact(FactRow {
        sid: Sid(row.id("sid")?),
        first: row.u32("first")?,
        relay: NodeId(row.id("relay")?),
        digests: row.bytes("digests")?,
    }))
}

fn record(row: &Columns<'_>) -> Result<Change, StoreError> {
    let signed = Signed::decode(row.bytes("bytes")?.into());
    let signed = signed.map_err(|error| row.damaged("bytes", error))?;
    let (sid, head) = (signed.record().sid, signed.record().head);
    if sid.0 != row.id("sid")? || (head.term, head.seq) != (row.u32("term")?, row.u64("seq")?) {
        return Err(row.damaged("bytes", "a record of another content or place"));
    }
    Ok(Change::Record(signed))
}

fn lease(row: &Columns<'_>) -> Result<Change, StoreError> {
    Ok(Change::Lease(LeaseRow {
        id: row.u64("id")?,
        sid: Sid(row.id("sid")?),
        node: NodeId(row.id("node")?),
        boot: row.u64("boot")?,
        first: row.u32("first")?,
        count: row.u32("count")?,
    }))
}

fn audit(row: &Columns<'_>) -> Result<Change, StoreError> {
    let digests = row.opt_id::<DIGESTS_LENGTH>("digests")?;
    Ok(Change::Audit(AuditRow {
        sid: Sid(row.id("sid")?),
        piece: row.u32("piece")?,
        node: NodeId(row.id("node")?),
        outcome: row.word("outcome")?,
        digests: digests.and_then(|bytes| unpack(&bytes).next()),
    }))
}

fn confirmed(row: &Columns<'_>) -> Result<Change, StoreError> {
    Ok(Change::Confirmed(ConfirmedRow {
        sid: Sid(row.id("sid")?),
        first: row.u32("first")?,
        count: row.u32("count")?,
    }))
}

fn distrust(row: &Columns<'_>) -> Result<Change, StoreError> {
    Ok(Change::Distrust(DistrustRow {
        node: NodeId(row.id("node")?),
        reason: row.text("reason")?,
        since_us: row.i64("since_us")?,
    }))
}

fn task(row: &Columns<'_>) -> Result<Change, StoreError> {
    Ok(Change::Task(TaskRow {
        id: row.text("id")?,
        relay_task: row.text("relay_task")?,
        target: row.text("target")?,
        cancelled: row.bool("cancelled")?,
        created_us: row.i64("created_us")?,
    }))
}

fn task_agent(row: &Columns<'_>) -> Result<Change, StoreError> {
    Ok(Change::TaskAgent(TaskAgentRow {
        task: row.text("task")?,
        node: NodeId(row.id("node")?),
        state: row.word("state")?,
        reason: row.opt_text("reason")?,
        bytes: row.u64("bytes")?,
        sources: SourceBytes {
            peer: row.u64("peer_bytes")?,
            relay: row.u64("relay_bytes")?,
            origin: row.u64("origin_bytes")?,
            resumed: row.u64("resumed_bytes")?,
        },
    }))
}
