//! The signed side of contents: what control vouches for, and who is told.

use floodway_api::HexBytes;
use floodway_api::manifest::{ManifestInfo, Phase};
use floodway_api::rest::Role;
use floodway_api::sync::PieceReport;
use floodway_proto::genesis::Genesis;
use floodway_proto::record::{
    EndReason, Head, Lease, LeaseId, PublicKey, RecordError, Signed, State,
};
use floodway_proto::{InfoHash, NodeId, Sid};

use super::Core;
use crate::db::{Change, ContentRow, ContentState, LeaseRow, RelayState};
use crate::tasks::growing::Growing;
use crate::tasks::records::{Records, is_end};

/// How long the records of an ended content stay, for relays that have not heard all of them.
const RECORDS_LINGER_MS: u64 = 60_000;

/// How far a content is, and its successor once that is known.
pub(super) fn phase(row: &ContentRow, records: &Records) -> Option<(Phase, Option<Sid>)> {
    let state = records.state()?;
    Some(match state {
        // Control knows that it will be replaced, but not yet by what.
        _ if row.state == ContentState::Superseded && !is_end(state) => (Phase::Superseded, None),
        State::Open => (Phase::Growing, None),
        State::Complete => (Phase::Complete, None),
        State::Final(_) => (Phase::Final, None),
        State::Aborted(_) => (Phase::Aborted, None),
        State::Superseded { successor, .. } => (Phase::Superseded, Some(*successor)),
    })
}

impl Core {
    /// After a start: takes up every content that grows, or whose end is not signed yet.
    pub(super) fn resume_manifests(&mut self) {
        self.growing.clear();
        let rows = self.model.contents.values();
        let open = rows.filter(|row| match row.state {
            ContentState::Relaying => true,
            // Its successor is still to come.
            ContentState::Superseded => self.is_replaced(row),
            ContentState::Final => false,
        });
        for sid in open.map(|row| row.sid).collect::<Vec<_>>() {
            self.begin_manifest(sid);
        }
    }

    /// True while a successor of a content is being looked for.
    fn is_replaced(&self, row: &ContentRow) -> bool {
        let task = self.model.relay_tasks.get(&row.relay_task);
        task.is_some_and(|task| task.state == RelayState::Open && task.sid.is_none())
    }

    /// Begins to sign records of a content. Each start of control is a new term, counted by the clock, so that even a
    /// database that was set back to an older state leads to no two records of one number.
    pub(super) fn begin_manifest(&mut self, sid: Sid) {
        let Some(row) = self.model.contents.get(&sid) else {
            return;
        };
        let records = self.model.records.get(&sid);
        if records.and_then(Records::state).is_some_and(is_end) {
            return;
        }
        let Ok(genesis) = Genesis::decode(row.genesis.bytes()) else {
            return;
        };
        let last = records.map_or(0, |records| records.head().term);
        let clock = u32::try_from(self.now.us / 1_000_000).unwrap_or_default();
        let term = last.saturating_add(1).max(clock);
        let known = self.model.pieces.get(&sid);
        let key = &self.config.signing_key;
        let length = row.length;
        if let Some(mut growing) = Growing::new(genesis, length, key, term, known, self.now.time) {
            for lease in self.held_leases(sid) {
                growing.resume_lease(LeaseId(lease.id), lease.first..lease.first + lease.count);
            }
            self.growing.insert(sid, growing);
        }
    }

    /// Takes what is newly known of a content's pieces; it is signed at the end of the turn, or soon.
    pub(super) fn seal_pieces(&mut self, sid: Sid, news: &[PieceReport]) {
        let now = self.now.time;
        let Some(growing) = self.growing.get_mut(&sid) else {
            return;
        };
        if let Err(error) = growing.note(now, news) {
            // Others still get the content once it is final.
            tracing::error!(%sid, %error, "pieces cannot be signed; the content grows unseen");
            self.growing.remove(&sid);
        }
    }

    /// Signs what is due.
    pub(super) fn sign_due(&mut self) {
        let now = self.now.time;
        let growing = self.growing.iter_mut();
        let due = growing.filter_map(|(sid, growing)| growing.is_due(now).then_some(*sid));
        for sid in due.collect::<Vec<_>>() {
            self.sign(sid, State::Open);
        }
    }

    fn sign(&mut self, sid: Sid, state: State) {
        let (now, ends) = (self.now, is_end(&state));
        let held = &self.held;
        let Some(growing) = self.growing.get_mut(&sid) else {
            return;
        };
        growing.keep_leases(|lease| held.contains_key(&lease.0));
        let records = growing.sign(now.time, now.us, state);
        self.publish_records(sid, records);
        if ends {
            self.growing.remove(&sid);
        }
    }

    fn publish_records(&mut self, sid: Sid, records: Result<Vec<Signed>, RecordError>) {
        match records {
            Ok(records) => {
                for signed in records {
                    self.change(Change::Record(signed));
                }
                self.wake_followers(sid);
            }
            Err(error) => {
                tracing::error!(%sid, %error, "a record cannot be signed; the content grows unseen");
                self.growing.remove(&sid);
            }
        }
    }

    /// Tells everybody that a relay may sign itself what it reads under a lease, if it has a key.
    pub(super) fn sign_lease(&mut self, lease: LeaseRow) {
        let (now, sid) = (self.now, lease.sid);
        let said = self.live.get(&lease.node).map(|live| &live.said);
        let key =
            said.and_then(|said| <[u8; 32]>::try_from(said.record_key.as_ref()?.0.as_slice()).ok());
        let (Some(key), Some(growing)) = (key, self.growing.get_mut(&sid)) else {
            return;
        };
        let Ok(relay) = PublicKey::new(&key) else {
            tracing::warn!(node = %lease.node, "a relay's key is none: what it reads is signed by control only");
            return;
        };
        let life = self.config.settings.advanced.lease.0.as_millis();
        let now_ms = now.us.max(0).cast_unsigned() / 1000;
        let lease = Lease {
            lease: LeaseId(lease.id),
            relay,
            first: lease.first,
            count: lease.count,
            expires_unix_ms: now_ms.saturating_add(u64::try_from(life).unwrap_or(u64::MAX)),
        };
        let records = growing.lease(now.time, now.us, lease);
        self.publish_records(sid, records);
    }

    /// While a content grows all of its records are kept (2 MB for 100 GB): a relay that lags behind would lack the hashes of
    /// single pieces, which snapshots leave out. Some time after its end the last snapshot says all there is to say.
    pub(super) fn drop_ended_records(&mut self) {
        let now_ms = self.now.us.max(0).cast_unsigned() / 1000;
        let ended = self.model.records.iter().filter_map(|(sid, records)| {
            let snapshot = records.snapshots().next()?;
            let is_over = records.ended_at_ms()? + RECORDS_LINGER_MS <= now_ms;
            (is_over && records.first()? < snapshot).then_some((*sid, snapshot))
        });
        for (sid, before) in ended.collect::<Vec<_>>() {
            self.change(Change::DropRecords { sid, before });
        }
    }

    /// The content has ended in `state`: signed at once, and the last that is said of it.
    pub(super) fn end_manifest(&mut self, sid: Sid, state: State) {
        self.sign(sid, state);
        self.wake_swarm(sid);
    }

    /// All pieces are known, and the v1 torrent is made: the content gets its names.
    pub(super) fn sign_final(&mut self, sid: Sid, v1: InfoHash) {
        let (Some(growing), Some(table)) = (self.growing.get(&sid), self.model.pieces.get(&sid))
        else {
            return;
        };
        let sha1s: Vec<_> = table.digests().iter().map(|(_, sha1)| *sha1).collect();
        match growing.names(v1, &sha1s) {
            Ok(names) => self.end_manifest(sid, State::Final(Box::new(names))),
            Err(error) => {
                tracing::error!(%sid, %error, "the names cannot be signed; the content is final for v1 only");
                self.growing.remove(&sid);
            }
        }
    }

    /// The content will never be complete.
    pub(super) fn abort_manifest(&mut self, sid: Sid, reason: EndReason) {
        self.end_manifest(sid, State::Aborted(reason));
    }

    /// Contents of this relay task that were given up now have a successor.
    pub(super) fn supersede(&mut self, relay_task: &str, successor: Sid) {
        for sid in self.given_up(relay_task) {
            let row = self.model.contents.get(&sid);
            let reason = if row.is_some_and(|row| row.false_fact) {
                EndReason::FalseFact
            } else {
                EndReason::OriginChanged
            };
            self.end_manifest(sid, State::Superseded { reason, successor });
        }
    }

    /// Contents of this relay task that were given up will have no successor.
    pub(super) fn abort_given_up(&mut self, relay_task: &str) {
        for sid in self.given_up(relay_task) {
            self.abort_manifest(sid, EndReason::OriginUnstable);
        }
    }

    fn given_up(&self, relay_task: &str) -> Vec<Sid> {
        let sids = self.growing.keys().copied();
        let rows = sids.filter_map(|sid| self.model.contents.get(&sid));
        rows.filter(|row| row.relay_task == relay_task && row.state == ContentState::Superseded)
            .map(|row| row.sid)
            .collect()
    }

    /// Looks at the parked syncs of the relays that follow a content again.
    fn wake_followers(&mut self, sid: Sid) {
        let relays = self.live_relays().filter(|node| {
            let said = self.live.get(node).map(|live| &live.said);
            said.is_some_and(|said| said.streaming)
        });
        let relays: Vec<NodeId> = relays.collect();
        let concerned = relays
            .into_iter()
            .filter(|node| self.reported(*node, sid).is_some());
        let concerned: Vec<NodeId> = concerned.collect();
        self.dirty.extend(concerned);
    }

    /// Up to where a node knows a content's records, if it said that it follows them.
    pub(super) fn reported(&self, node: NodeId, sid: Sid) -> Option<Head> {
        let said = &self.live.get(&node)?.said.contents;
        said.iter().find(|content| content.sid == sid)?.manifest
    }

    /// What a streaming node is told of the signed side of a content.
    pub(super) fn manifest_info(&self, node: NodeId, row: &ContentRow) -> Option<ManifestInfo> {
        let said = &self.live.get(&node)?.said;
        let records = self.model.records.get(&row.sid)?;
        if !said.streaming {
            return None;
        }
        let report = said.contents.iter().find(|content| content.sid == row.sid);
        let known = match report {
            None => Head::default(),
            Some(report) => report.manifest?,
        };
        let (phase, successor) = phase(row, records)?;
        let joins = known == Head::default();
        let follows = joins || self.role_of(node) == Some(Role::Relay);
        let genesis = joins.then(|| row.genesis.for_messages());
        let hex = |signed: &Signed| HexBytes(signed.bytes().to_vec());
        let told: Vec<HexBytes> = if follows {
            records.after(known).map(hex).collect()
        } else {
            // Others tell it the rest. The record may be known although some before it are not.
            let knows_end = report.is_some_and(|report| report.final_ok);
            let end = records
                .end()
                .filter(|end| known < end.record().head && !knows_end);
            end.map(hex).into_iter().collect()
        };
        Some(ManifestInfo {
            phase,
            successor,
            head: records.head(),
            sealed: records.sealed(),
            genesis_apart: genesis.as_ref().is_some_and(Option::is_none),
            genesis: genesis.flatten(),
            records: told,
        })
    }
}
