//! Asking relays, and control when none helps, over HTTP for a growing content's records and hashes.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use floodway_origin::{Bearer, OriginError, SourceUrl, SourceUrlError};
use floodway_proto::Sha256;
use floodway_proto::genesis::GENESIS_LIMIT;
use floodway_proto::record::{Head, RecordError, Signed};
use floodway_swarm::gossip::{GossipInput, HttpAnswer, HttpQuestion};
use tokio::task::AbortHandle;

use super::Packet;
use super::driver::Driver;
use super::growing::Growing;
use crate::session::Session;

/// Bytes of records in one answer: 100 GB in pieces of 4 MiB need 2 MB in all.
const RECORDS_MAX: usize = 8 << 20;
/// Pieces in a group.
const GROUP_PIECES: u32 = 512;
/// How long an answer may be waited for when there is nothing new, in seconds.
const WAIT_S: u32 = 25;

/// Where the signed side of a content is served over HTTP: `genesis`, `head` and `hashes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helper {
    /// `…/api/v1/s/SID/`, with the slash.
    pub base: SourceUrl,
    /// What opens it: a capability at a relay, a node token at control.
    pub bearer: Option<Bearer>,
    /// Control itself: asked for records only by a node that knows itself behind, so that what control sends does not grow with
    /// the number of nodes that find it quiet.
    pub is_control: bool,
}

/// Whom to ask, and the question under way.
#[derive(Default)]
pub(super) struct Help {
    helpers: Vec<Helper>,
    /// Those who sent what no honest node would.
    liars: HashSet<String>,
    /// Who is asked now or next.
    turn: usize,
    /// Who was asked last.
    asked: Option<SourceUrl>,
    /// The newest record that there is, as control said.
    newest: Head,
    task: Option<AbortHandle>,
}

/// What came of a question; an error also names what went wrong.
pub(crate) type Helped = Result<HttpAnswer, HelpError>;

/// Why an answer is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelpError {
    #[error(transparent)]
    Url(#[from] SourceUrlError),
    #[error(transparent)]
    Http(#[from] OriginError),
    #[error("it sent a record that is none: {0}")]
    Record(#[from] RecordError),
    #[error("it sent {found} bytes of hashes, not {expected}")]
    Hashes { expected: usize, found: usize },
}

impl Help {
    fn current(&self) -> Option<&Helper> {
        self.helpers.get(self.turn)
    }

    /// Gives the turn to the first from the present one on who may be asked. False when nobody may.
    fn choose(&mut self, question: &HttpQuestion, have: Head) -> bool {
        let is_record = matches!(question, HttpQuestion::Records { .. });
        let spares_control = is_record && self.newest <= have;
        for _ in 0..self.helpers.len() {
            if self
                .current()
                .is_some_and(|one| !(one.is_control && spares_control))
            {
                return true;
            }
            self.pass_on();
        }
        false
    }

    /// The next one has its turn. The last is followed by the first.
    fn pass_on(&mut self) {
        self.turn = (self.turn + 1) % self.helpers.len().max(1);
    }

    fn replace(&mut self, mut helpers: Vec<Helper>) {
        helpers.retain(|helper| !self.liars.contains(helper.base.as_str()));
        let current = self.current().map(|helper| helper.base.clone());
        let place = helpers
            .iter()
            .position(|one| Some(&one.base) == current.as_ref());
        self.turn = place.unwrap_or(0);
        self.helpers = helpers;
    }

    /// Whoever was asked last is not asked again.
    fn drop_liar(&mut self) {
        if let Some(liar) = self.asked.take() {
            tracing::warn!(at = %liar, "it sent records or hashes that are forged or wrong; it is not asked again");
            self.liars.insert(liar.as_str().to_owned());
            let rest = self.helpers.clone();
            self.replace(rest);
        }
    }
}

impl Drop for Help {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Driver {
    /// These can be asked from now on, the first of them first; `newest` is the newest record as control said.
    pub(super) fn set_helpers(&mut self, helpers: Vec<Helper>, newest: Head) {
        let known = &self.help.helpers;
        let is_new = |one: &Helper| !one.is_control && known.iter().all(|old| old.base != one.base);
        let is_more = helpers.iter().any(is_new) || newest > self.shared.head();
        self.help.replace(helpers);
        self.help.newest = newest;
        self.offer_help();
        if is_more {
            self.gossip(GossipInput::MoreMayBeKnown);
        }
    }

    /// Tells the gossip whether there is somebody to ask, and anything to ask for.
    pub(super) fn offer_help(&mut self) {
        let is_lacking = self.growing.as_ref().is_some_and(Growing::lacks_hashes);
        let is_there = is_lacking && !self.help.helpers.is_empty();
        self.gossip(GossipInput::Help(is_there));
    }

    pub(super) fn ask_for_help(&mut self, question: HttpQuestion) {
        let is_somebody = self.help.choose(&question, self.shared.head());
        let helper = self.help.current().filter(|_| is_somebody).cloned();
        let Some(helper) = helper else {
            // Nobody but control could be asked, and control has nothing new.
            let answer = HttpAnswer::Records(Vec::new());
            return self.gossip(GossipInput::Answered(answer));
        };
        tracing::debug!(?question, at = %helper.base, "asking over HTTP");
        self.help.asked = Some(helper.base.clone());
        let (session, content) = (self.session.clone(), Arc::clone(&self.shared));
        let task = tokio::spawn(async move {
            let helped = helper.ask(&session, question).await;
            // A driver that is gone does not care.
            let _ = content.packets.send(Packet::Helped(helped)).await;
        });
        self.help.task = Some(task.abort_handle());
    }

    pub(super) fn helped(&mut self, helped: Helped) {
        self.help.task = None;
        let answer = match helped {
            Ok(answer) => answer,
            Err(error) => {
                self.session.metrics().http_failures.add(1);
                let at = self.help.current().map(|helper| helper.base.to_string());
                tracing::debug!(%error, at, "no help over HTTP");
                HttpAnswer::Failed
            }
        };
        let is_nothing = match &answer {
            HttpAnswer::Records(records) => records.is_empty(),
            HttpAnswer::Hashes { .. } => false,
            HttpAnswer::Failed => true,
        };
        if is_nothing || self.help.current().is_some_and(|one| one.is_control) {
            // Somebody else may know more; and control is only asked when others do not help.
            self.help.pass_on();
        }
        self.gossip(GossipInput::Answered(answer));
    }

    pub(super) fn helper_lied(&mut self) {
        self.help.drop_liar();
        self.offer_help();
    }
}

impl Helper {
    async fn ask(&self, session: &Session, question: HttpQuestion) -> Helped {
        match question {
            HttpQuestion::Records { have, wait } => {
                let wait = if wait { WAIT_S } else { 0 };
                let path = format!("head?after={have}&wait={wait}");
                let found = self.document(session, &path, RECORDS_MAX).await?;
                let mut bytes = Bytes::from(found.unwrap_or_default());
                let mut records = Vec::new();
                while !bytes.is_empty() {
                    records.push(Signed::take(&mut bytes)?);
                }
                Ok(HttpAnswer::Records(records))
            }
            HttpQuestion::Hashes { pieces } => {
                let (mut hashes, mut first) = (Vec::new(), pieces.start);
                while first < pieces.end {
                    let group = first / GROUP_PIECES;
                    let end = (group + 1).saturating_mul(GROUP_PIECES).min(pieces.end);
                    hashes.extend(self.group(session, group, first..end).await?);
                    first = end;
                }
                let first = pieces.start;
                Ok(HttpAnswer::Hashes { first, hashes })
            }
        }
    }

    /// The hashes of some pieces of a group.
    async fn group(
        &self,
        session: &Session,
        group: u32,
        pieces: Range<u32>,
    ) -> Result<Vec<Sha256>, HelpError> {
        let (first, count) = (pieces.start, pieces.len());
        let expected = count * 32;
        let path = format!("hashes/{group}?first={first}&count={count}");
        let found = self.document(session, &path, expected).await?;
        let bytes = found.unwrap_or_default();
        let (hashes, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() || bytes.len() != expected {
            let found = bytes.len();
            return Err(HelpError::Hashes { expected, found });
        }
        Ok(hashes.iter().copied().map(Sha256).collect())
    }

    /// The content's genesis, which the asker compares with the sid.
    pub(crate) async fn genesis(&self, session: &Session) -> Result<Vec<u8>, HelpError> {
        let found = self.document(session, "genesis", GENESIS_LIMIT).await?;
        Ok(found.unwrap_or_default())
    }

    async fn document(
        &self,
        session: &Session,
        path: &str,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, HelpError> {
        let url: SourceUrl = format!("{}{path}", self.base.as_str()).parse()?;
        let (bearer, guard) = (self.bearer.as_ref(), session.manifest_guard());
        let read = session.origin().document(&url, bearer, limit, guard);
        Ok(read.await?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn helper(host: &str) -> Helper {
        Helper {
            base: format!("http://{host}/api/v1/s/x/").parse().unwrap(),
            bearer: None,
            is_control: host == "control",
        }
    }

    #[test]
    fn a_quiet_content_is_no_stall() {
        // The reply's head comes when there is news or the wait is over, so no limit but that of the head is at work meanwhile.
        let limits = floodway_origin::Settings::default();
        assert!(Duration::from_secs(WAIT_S.into()) < limits.first_byte_timeout);
    }

    #[test]
    fn helpers_take_turns_and_liars_have_none() {
        let mut help = Help::default();
        let host = |help: &Help| Some(help.current()?.base.as_url().host_str()?.to_owned());
        help.pass_on();
        assert_eq!(host(&help), None);
        let all = || vec![helper("a"), helper("b"), helper("control")];
        help.replace(all());
        assert_eq!(host(&help).as_deref(), Some("a"));
        help.pass_on();
        // A list that comes anew changes nothing about whose turn it is.
        help.replace(vec![helper("c"), helper("a"), helper("b")]);
        assert_eq!(host(&help).as_deref(), Some("b"));
        help.asked = help.current().map(|helper| helper.base.clone());
        help.drop_liar();
        help.replace(all());
        for expected in ["a", "control", "a"] {
            assert_eq!(host(&help).as_deref(), Some(expected));
            help.pass_on();
        }
    }

    #[test]
    fn control_is_asked_for_records_only_by_who_is_behind() {
        let mut help = Help::default();
        let have = Head { term: 1, seq: 7 };
        let records = HttpQuestion::Records { have, wait: false };
        let hashes = HttpQuestion::Hashes { pieces: 0..9 };
        assert!(!help.choose(&hashes, have), "nobody");
        help.replace(vec![helper("control")]);
        help.newest = have;
        assert!(!help.choose(&records, have));
        assert!(help.choose(&hashes, have));
        help.newest.seq += 1;
        assert!(help.choose(&records, have));
        help.replace(vec![helper("relay"), helper("control")]);
        help.turn = 1;
        assert!(help.choose(&records, have) && help.turn == 1, "behind");
        help.newest = have;
        assert!(
            help.choose(&records, have) && help.turn == 0,
            "it has its turn again"
        );
    }
}
