//! A content that relays still fetch: how a job begins with it, and what it does about it while it runs.

use std::time::{Duration, Instant};

use floodway_api::manifest::Phase;
use floodway_proto::facts::Accept;
use floodway_proto::genesis::Genesis;
use floodway_proto::manifest::{Manifest, ManifestError};
use floodway_proto::{InfoHash, Sid};
use floodway_store::Hashes;

use super::orders::Orders;
use super::transfer::{Run, run};
use super::{Fetched, GetError, GetEvent, Job, Step, VerifiedBy};
use crate::manifest::{expand, records, unix_us, v2_name};
use crate::{ContentEvent, ContentSpec, Growth, Target};

/// How often it is told how much of a growing content can be verified.
const FACTS_EVERY: Duration = Duration::from_secs(1);
/// Without a byte for so long, and so long after control said that the content is final, what is lacking is not bytes but hashes:
/// neighbours did not pass them on, nor did relays give them over HTTP, which are asked after five seconds.
const STRANDED: Duration = Duration::from_secs(8);

/// Since when control says that the content is final, while it is not here.
#[derive(Debug, Default)]
pub(super) struct ToldFinal(Option<Instant>);

impl ToldFinal {
    /// True when the records that say what the last pieces hash to were lost on the way. `told`: whether control says now that it
    /// is final; `quiet`: how long no byte came. Who has long had every byte waits for the records all the same.
    pub(super) fn strands(&mut self, told: bool, quiet: Duration, now: Instant) -> bool {
        if !told {
            self.0 = None;
            return false;
        }
        let since = *self.0.get_or_insert(now);
        quiet.min(now.duration_since(since)) >= STRANDED
    }
}

/// Fetches a content of control while relays fetch it: each piece as soon as control has signed what it must hash to.
///
/// # Errors
/// Beside others [`GetError::Replaced`] and [`GetError::NoRelay`]: begin anew.
pub(super) async fn by_genesis(job: &mut Job, genesis: &Genesis) -> Result<Fetched, GetError> {
    let sid = genesis.sid();
    let unusable = |error: &dyn std::fmt::Display| {
        GetError::Refused(format!(
            "control's description of content {sid} cannot be used: {error}"
        ))
    };
    let growth = growth(job, genesis).map_err(|error| unusable(&error))?;
    let layout = growth.manifest.layout();
    let layout = layout.map_err(|error| unusable(&error))?;
    let length = layout.length();
    let path = job.rules.place.path(&genesis.name);
    let digest = job.wants_digest(&layout, &path)?;
    (job.listener)(GetEvent::Found {
        path: path.clone(),
        length,
    });
    let spec = ContentSpec {
        names: if job.rules.no_p2p {
            Vec::new()
        } else {
            vec![sid.truncated()]
        },
        info: None,
        sid: Some(sid),
        layout,
        hashes: Hashes::Facts(growth.nodes()),
        identity: sid.0,
        adopts: job.adopts(&path, sid),
        target: Target::File {
            path,
            overwrite: job.rules.overwrite && !genesis.is_folder(),
            rename_when_done: job.rules.sha256.is_none(),
        },
        prefer: job.rules.prefer,
        order: job.rules.order,
        foreground: job.rules.foreground,
        limits: job.rules.limits,
        linear_digest: digest,
        peers: job.rules.peers.clone(),
        trackers: Vec::new(),
        sources: Vec::new(),
        verifiable: false,
        growth: Some(growth),
    };
    run(job, spec, Vec::new(), VerifiedBy::Facts).await
}

/// What is known of the content by records, from earlier runs too.
pub(super) fn growth(job: &Job, genesis: &Genesis) -> Result<Growth, ManifestError> {
    let mut manifest = Manifest::new(genesis.clone(), Accept::Attested)?;
    if let Some(data) = job.data() {
        let mut kept = data.records(genesis.sid());
        kept.retain(|record| manifest.apply(record).is_ok());
        expand(&mut manifest, &data.hashes(genesis.sid()));
        let saved = data.save_genesis(genesis);
        // Without them a restart asks control again.
        if let Err(error) = saved.and_then(|()| data.save_records(genesis.sid(), &kept)) {
            tracing::warn!(%error, "what is known of a content could not be kept");
        }
    }
    Ok(Growth {
        manifest,
        is_relay: false,
        signer: None,
    })
}

/// The name of the content's v2 torrent, if control's records that are known from it or from disk say it.
pub(super) fn signed_v2_name(job: &Job, sid: Sid) -> Option<InfoHash> {
    let genesis = job.genesis(sid).ok().flatten()?;
    let mut manifest = Manifest::new(genesis, Accept::Sealed).ok()?;
    let kept = job.data().map(|data| data.records(sid)).unwrap_or_default();
    let orders = job.orders.borrow();
    let told = orders.info.as_ref().filter(|info| info.sid == sid);
    let told = records(told.and_then(|info| info.manifest.as_ref()));
    for record in kept.iter().chain(&told) {
        if let Err(refusal) = manifest.apply(record) {
            tracing::debug!(%refusal, "a record does not count");
        }
    }
    v2_name(&manifest)
}

impl Run<'_> {
    /// What control says of the signed side of a content, and whether the content goes on.
    pub(super) fn follow(&self, orders: &Orders) -> Result<(), GetError> {
        let info = orders
            .info
            .as_ref()
            .filter(|info| Some(info.sid) == self.sid);
        let manifest = info.and_then(|info| info.manifest.as_ref());
        self.content.add_records(records(manifest));
        if !self.is_growing {
            return Ok(());
        }
        let is_over = manifest
            .is_some_and(|manifest| matches!(manifest.phase, Phase::Aborted | Phase::Superseded));
        let is_other = orders.sid.is_some() && orders.sid != self.sid;
        if is_over || is_other {
            return Err(GetError::Replaced);
        }
        Ok(())
    }

    /// Says when the transfer took a step.
    pub(super) fn step(&mut self, event: &ContentEvent) {
        let step = match event {
            ContentEvent::FirstByte => Step::FirstByte,
            ContentEvent::PieceDone { .. } if self.verifies && !self.has_piece => {
                self.has_piece = true;
                Step::FirstVerifiedPiece
            }
            ContentEvent::Facts { verifiable } => {
                let layout = self.content.layout();
                let pieces = layout.length().map(|_| layout.piece_count());
                let is_due = self.facts_at.is_none_or(|at| at.elapsed() >= FACTS_EVERY);
                if !is_due && pieces.is_none_or(|pieces| *verifiable < pieces) {
                    return;
                }
                self.facts_at = Some(Instant::now());
                Step::Facts {
                    verifiable: *verifiable,
                    pieces,
                }
            }
            _ => return,
        };
        (self.job.listener)(GetEvent::Step(step, unix_us()));
    }

    /// Notes that the content is final, and keeps what a restart needs of it.
    pub(super) fn growth_event(&mut self, event: &ContentEvent) {
        if let ContentEvent::Final { .. } = event {
            self.is_final = true;
            let orders = self.job.orders.borrow().clone();
            self.set_sources(&orders);
        }
        keep(self.job, self.sid, event);
    }
}

/// Keeps what a restart needs of the signed side of a content.
pub(super) fn keep(job: &Job, sid: Option<Sid>, event: &ContentEvent) {
    let Some((data, sid)) = job.data().zip(sid) else {
        return;
    };
    let kept = match event {
        ContentEvent::Record(record) => data.add_record(sid, record),
        ContentEvent::Final {
            torrent: Some(torrent),
            ..
        } => data.save_torrent(sid, &torrent.encode()),
        ContentEvent::AllHashes { hashes, .. } => data.save_hashes(sid, hashes),
        _ => return,
    };
    if let Err(error) = kept {
        tracing::warn!(%error, "what is known of a content could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_long_had_every_byte_is_given_time_to_hear_that_it_is_final() {
        let (long, start) = (STRANDED * 10, Instant::now());
        let mut told = ToldFinal::default();
        assert!(!told.strands(false, long, start));
        let begun = start + Duration::from_secs(1);
        assert!(!told.strands(true, long, begun), "it was said just now");
        assert!(told.strands(true, long, begun + STRANDED));
        assert!(
            !told.strands(true, Duration::ZERO, begun + STRANDED),
            "bytes come"
        );
        // Control may take it back: then it begins anew.
        assert!(!told.strands(false, long, begun + STRANDED));
        assert!(!told.strands(true, long, begun + STRANDED * 2));
    }
}
