//! The signed side of a content that grows.

use floodway_proto::facts::{Accept, FactStore, PieceSpace};
use floodway_proto::genesis::Genesis;
use floodway_proto::manifest::{Manifest, Sealer, Status};
use floodway_proto::merkle::{piece_layer, piece_node};
use floodway_proto::record::{Fact, LeaseId, Signed, State};
use floodway_proto::{PieceIndex, Sha256};

use super::*;
use crate::Growth;
use crate::testing::{control_key, genesis};

const PIECE: usize = 1 << 18;

/// A relay's site, and the test as its control.
struct Growing {
    site: Site,
    sid: Sid,
    genesis: Genesis,
    facts: FactStore,
    sealer: Sealer,
    content: Content,
}

impl Growing {
    async fn new() -> Self {
        Self::of_length(Some(LENGTH as u64)).await
    }

    async fn of_length(length: Option<u64>) -> Self {
        let site = site().await;
        let piece_length = u32::try_from(PIECE).unwrap();
        let genesis = genesis("disk.img", length, piece_length, "\"v1\"");
        let name = genesis.name.clone();
        let sid = genesis.sid();
        let manifest = Manifest::new(genesis.clone(), Accept::Sealed).unwrap();
        let growth = Growth {
            manifest,
            is_relay: true,
            signer: None,
        };
        let target = Target::File {
            path: site.folder.path().join("growing"),
            overwrite: false,
            rename_when_done: true,
        };
        let layout = genesis.layout().unwrap();
        let spec = ContentSpec {
            sid: Some(sid),
            hashes: Hashes::Facts(growth.nodes()),
            identity: sid.0,
            verifiable: false,
            growth: Some(growth),
            ..content(layout, &site.bytes, target)
        };
        let content = site.session.add(spec).await.unwrap();
        // Until it was looked at nothing of it is served (503).
        let mut progress = content.progress();
        let opened = progress.wait_for(|now| now.state != ContentState::Checking);
        opened.await.unwrap();
        site.serving.insert(sid, content.clone(), name);
        Self {
            sid,
            facts: FactStore::new(PieceSpace::of(&genesis).unwrap(), Accept::Sealed),
            sealer: Sealer::new(sid, control_key(), 0, 1),
            genesis,
            site,
            content,
        }
    }

    fn node(&self, piece: usize) -> Sha256 {
        let bytes = &self.site.bytes[piece * PIECE..LENGTH.min((piece + 1) * PIECE)];
        let index = PieceIndex(u32::try_from(piece).unwrap());
        piece_node(bytes, self.content.layout(), index).unwrap()
    }

    fn seal(&mut self, pieces: Range<usize>) -> Vec<Signed> {
        let layer = piece_layer(self.content.layout()).unwrap();
        let fact = |piece| Fact {
            file: 0,
            layer,
            index: u32::try_from(piece).unwrap(),
            hash: self.node(piece),
        };
        let fresh: Vec<Fact> = pieces.map(fact).collect();
        for fact in &fresh {
            self.facts.seal(fact).unwrap();
        }
        let status = Status {
            length: Some(LENGTH as u64),
            sealed: self.facts.proven_pieces(),
            state: State::Open,
            lease_floor: LeaseId(0),
            revoked: Vec::new(),
            time_unix_ms: 0,
        };
        let records = self.sealer.checkpoint(&self.facts, &fresh, &status);
        records.unwrap()
    }

    /// The relay hears of it, and knows it.
    async fn tell(&self, records: Vec<Signed>) {
        let mut heads = self.content.heads().unwrap();
        let newest = self.sealer.head();
        self.content.add_records(records);
        let known = heads.wait_for(|head| *head == newest);
        let known = tokio::time::timeout(Duration::from_mins(1), known).await;
        known.expect("in time").unwrap();
    }

    async fn ask(&self, path: &str, headers: &[(HeaderName, &str)]) -> Reply {
        let token = format!("Bearer {}", KEY.issue(self.sid, None));
        let mut all = vec![(header::AUTHORIZATION, token.as_str())];
        all.extend_from_slice(headers);
        let path = format!("/api/v1/s/{}/{path}", self.sid);
        self.site.ask(Method::GET, &path, &all).await
    }
}

fn records(mut body: Bytes) -> Vec<Signed> {
    let mut records = Vec::new();
    while !body.is_empty() {
        records.push(Signed::take(&mut body).unwrap());
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_served_and_waited_for() {
    let mut growing = Growing::new().await;
    let genesis = growing.ask("genesis", &[]).await;
    assert_eq!(
        (genesis.status, genesis.body),
        (200, growing.genesis.encode())
    );
    let none = growing.ask("head?wait=0", &[]).await;
    assert_eq!((none.status, none.body.len()), (200, 0));

    let mut told = growing.seal(0..0);
    told.extend(growing.seal(0..2));
    growing.tell(told.clone()).await;
    let head = growing.ask("head", &[]).await;
    let etag = head.header(header::ETAG).to_owned();
    assert_eq!(etag, format!("\"{}\"", growing.sealer.head()));
    assert_eq!(records(head.body.into()), told);
    let again = growing.ask("head", &[(header::IF_NONE_MATCH, &etag)]).await;
    assert_eq!((again.status, again.body.len()), (304, 0));

    // Whoever knows all of that waits for more.
    let path = format!("head?after={}&wait=25", growing.sealer.head());
    let more = growing.seal(2..3);
    let waiting = growing.ask(&path, &[]);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
    assert!(early.is_err(), "there is nothing new yet");
    growing.tell(more.clone()).await;
    assert_eq!(records(waiting.await.body.into()), more);
    let path = format!("head?after={}&wait=1", growing.sealer.head());
    assert_eq!(growing.ask(&path, &[]).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_are_served_once_a_group_is_known() {
    let mut growing = Growing::new().await;
    let sealed = growing.seal(0..0);
    growing.tell(sealed).await;
    let early = growing.ask("hashes/0", &[]).await;
    assert_eq!((early.status, early.code().as_str()), (404, "not_known"));
    assert_eq!(early.header(header::RETRY_AFTER), "2");
    let pieces = LENGTH.div_ceil(PIECE);
    // A part of it sooner: who comes while it grows gets no more by records than what these fold to.
    let sealed = growing.seal(0..2);
    growing.tell(sealed).await;
    let part = growing.ask("hashes/0?first=1&count=1", &[]).await;
    assert_eq!((part.status, part.body), (200, growing.node(1).0.to_vec()));
    for path in ["hashes/0?first=1&count=2", "hashes/0?first=2", "hashes/0"] {
        assert_eq!(growing.ask(path, &[]).await.code(), "not_known", "{path}");
    }
    let sealed = growing.seal(2..pieces);
    growing.tell(sealed).await;
    let hashes = growing.ask("hashes/0", &[]).await;
    let expected: Vec<u8> = (0..pieces)
        .flat_map(|piece| growing.node(piece).0)
        .collect();
    assert_eq!((hashes.status, hashes.body), (200, expected));
    for (path, status, code) in [
        ("hashes/0?alg=sha1", 404, "not_known"),
        ("hashes/1", 404, "not_found"),
        ("hashes/4294967295", 404, "not_found"),
        ("hashes/x", 400, "bad_request"),
        ("hashes/0?alg=md5", 400, "bad_request"),
        ("hashes/0?first=99999&count=1", 404, "not_found"),
        ("hashes/0?count=x", 400, "bad_request"),
        ("head?after=x", 400, "bad_request"),
    ] {
        let reply = growing.ask(path, &[]).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signed_side_is_for_holders_of_a_capability() {
    let growing = Growing::new().await;
    let token = |sid| format!("Bearer {}", KEY.issue(sid, None));
    let (own, other) = (token(growing.sid), token(SID));
    for path in ["genesis", "head", "hashes/0"] {
        let of = |sid: Sid| format!("/api/v1/s/{sid}/{path}");
        for (token, path, status, code) in [
            (None, of(growing.sid), 401, "no_capability"),
            (Some(&other), of(growing.sid), 403, "other_content"),
            (Some(&own), of(SID), 403, "other_content"),
            // Its torrent is all there is.
            (Some(&other), of(SID), 404, "not_signed"),
        ] {
            let headers: Vec<_> = token
                .iter()
                .map(|token| (header::AUTHORIZATION, token.as_str()))
                .collect();
            let reply = growing.site.ask(Method::GET, &path, &headers).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (status, code),
                "{path}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_unknown_length_nothing_is_served_beyond_where_it_may_end() {
    let growing = Growing::of_length(None).await;
    let limit = growing.content.layout().limit();
    let token = format!("Bearer {}", KEY.issue(growing.sid, None));
    let path = format!("/api/v1/s/{}/data", growing.sid);
    for range in [
        format!("bytes={limit}-{limit}"),
        format!("bytes={}-{},-0", limit + 5, limit + 9),
    ] {
        let headers = [
            (header::AUTHORIZATION, token.as_str()),
            (header::RANGE, range.as_str()),
        ];
        let reply = growing.site.ask(Method::GET, &path, &headers).await;
        assert_eq!(reply.status, 416, "{range}");
        assert_eq!(reply.header(header::CONTENT_RANGE), "", "nobody knows it");
    }
    assert_eq!(
        possible(vec![0..1, limit - 1..limit + 1], limit),
        Wanted::Parts(vec![0..1, limit - 1..limit])
    );
    let beyond = limit..limit + 1;
    assert!(!growing.content.has(beyond.clone()));
    let waited = growing.content.available(beyond.clone()).await;
    assert!(matches!(waited, Err(crate::ReadError::NotHeld(_))));
    let read = growing.content.read(beyond).await;
    assert!(matches!(read, Err(crate::ReadError::NotHeld(_))));
}
