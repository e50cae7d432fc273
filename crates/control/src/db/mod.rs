//! What control must not forget.
//!
//! Invariant: the database is the fold of every committed [`Change`], and so is [`Model`] in memory; `load` after any
//! commits equals applying the same changes to an empty model. Whatever a reply acknowledges was committed first.

mod genesis;
mod model;
mod sqlite;

use std::future::Future;
use std::ops::Range;

use floodway_proto::{Sha1, Sha256, Sid};

pub(crate) use genesis::KeptGenesis;
pub(crate) use model::{
    AuditRow, Change, ConfirmedRow, ContentRow, ContentState, DistrustRow, FactRow, JoinTokenRow,
    LeaseRow, Model, NodeRow, RelayFailureRow, RelayState, RelayTaskRow, TaskAgentRow, TaskRow,
};
pub(crate) use sqlite::Sqlite;

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database engine refused, or its file could not be used.
    #[error(
        "the database failed ({0}); see to free space and permissions in control's data folder"
    )]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error(
        "the database's schema could not be brought up to date ({0}); a newer version of control may have used this data folder"
    )]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row holds what control never writes.
    #[error(
        "the database's table `{table}` holds an unreadable {what}: the file was damaged or edited; restore a backup"
    )]
    Damaged {
        /// The table.
        table: &'static str,
        /// The column and what was wrong with it.
        what: String,
    },
}

/// A durable home of control's [`Model`]: SQLite now, others behind the same contract.
pub(crate) trait Store: Send + Sync + 'static {
    /// Reads everything back.
    fn load(&self) -> impl Future<Output = Result<Model, StoreError>> + Send;
    /// Makes the changes durable, in order, all or none.
    fn commit(&self, changes: &[Change]) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// The raw info dict of a final content.
    fn info(&self, sid: Sid) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send;
    /// The digests of these pieces of a content that is not superseded, in order, as far as they are known.
    fn digests(
        &self,
        sid: Sid,
        pieces: Range<u32>,
    ) -> impl Future<Output = Result<Vec<(Sha256, Sha1)>, StoreError>> + Send;
    /// Does a small write, to learn whether writes work.
    fn probe(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

#[cfg(test)]
mod tests;
