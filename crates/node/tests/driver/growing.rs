//! A content whose hashes become known while a relay fetches it; the test is control.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use floodway_node::{Content, ContentEvent, ContentSpec, Growth, Session};
use floodway_origin::Access;
use floodway_proto::digest::{sha1, sha256};
use floodway_proto::facts::{Accept, FactStore, PieceSpace};
use floodway_proto::genesis::Genesis;
use floodway_proto::manifest::{Manifest, Sealer, Status};
use floodway_proto::merkle::{piece_layer, piece_node};
use floodway_proto::record::{
    Fact, FinalNames, Lease, LeaseId, OriginDigest, SecretKey, Signed, State,
};
use floodway_proto::torrents::Contents;
use floodway_proto::{ByteRate, InfoHash, PieceIndex, Sha256, Sid};
use floodway_store::Hashes;
use floodway_swarm::Limits;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::genesis::{control_key, genesis};
use crate::http::honest;
use crate::kit::{Kit, PATIENCE, session, until};

/// What relays sign with here.
pub(crate) fn relay_key() -> SecretKey {
    SecretKey::from_seed(&[4; 32])
}

/// What control does about one content.
pub(crate) struct Control {
    genesis: Genesis,
    facts: FactStore,
    sealer: Sealer,
    layer: u8,
    lease_floor: LeaseId,
}

impl Control {
    pub(crate) fn new(kit: &Kit) -> Self {
        Self::with_nonce(kit, [7; 16])
    }

    pub(crate) fn with_nonce(kit: &Kit, nonce: [u8; 16]) -> Self {
        let (length, piece_length) = (kit.layout.length(), kit.layout.piece_length());
        let genesis = Genesis {
            nonce,
            ..genesis("file", length, piece_length, "\"v1\"")
        };
        let space = PieceSpace::of(&genesis).unwrap();
        Self {
            sealer: Sealer::new(genesis.sid(), control_key(), 0, 1),
            facts: FactStore::new(space, Accept::Sealed),
            layer: piece_layer(&kit.layout).unwrap(),
            lease_floor: LeaseId(0),
            genesis,
        }
    }

    pub(crate) fn seal(&mut self, piece: PieceIndex, hash: Sha256) -> Vec<Signed> {
        let (layer, index) = (self.layer, piece.0);
        let fact = Fact {
            file: 0,
            layer,
            index,
            hash,
        };
        self.facts.seal(&fact).unwrap();
        self.checkpoint(&[fact], State::Open)
    }

    /// As in [`Kit`]. The name is that of the v1 torrent.
    pub(crate) fn finalise(&mut self, kit: &Kit) -> (Vec<Signed>, InfoHash) {
        let (records, names) = self.finalise_all(kit);
        (records, names.v1.unwrap())
    }

    /// As in [`Kit`]: with the names of all forms.
    pub(crate) fn finalise_all(&mut self, kit: &Kit) -> (Vec<Signed>, FinalNames) {
        let contents = Contents::of(&self.genesis, &self.facts).unwrap();
        let roots = vec![self.facts.pieces_root(0)];
        let v1 = contents.v1_info(&kit.pieces).unwrap();
        let v2 = contents.v2_info(&roots).unwrap();
        let hybrid = contents.hybrid_info(&kit.pieces, &roots).unwrap();
        let names = FinalNames {
            v1: Some(InfoHash(sha1(&v1).0)),
            v2: Some(sha256(&v2)),
            hybrid: Some((InfoHash(sha1(&hybrid).0), sha256(&hybrid))),
            roots,
            origin_digest: OriginDigest::Absent,
        };
        let records = self.checkpoint(&[], State::Final(Box::new(names.clone())));
        (records, names)
    }

    /// Begins a new term, in which these leases and all before are void.
    pub(crate) fn new_term(&mut self, floor: LeaseId) -> Vec<Signed> {
        let term = self.sealer.head().term + 1;
        self.sealer = Sealer::new(self.sid(), control_key(), 0, term);
        self.lease_floor = floor;
        self.checkpoint(&[], State::Open)
    }

    pub(crate) fn sid(&self) -> Sid {
        self.genesis.sid()
    }

    /// The fact that a piece has, without its hash.
    pub(crate) fn place_of(&self, piece: u32) -> Fact {
        Fact {
            file: 0,
            layer: self.layer,
            index: piece,
            hash: Sha256([0; 32]),
        }
    }

    /// The relay may sign what it reads of these pieces.
    pub(crate) fn sign_lease(&mut self, lease: LeaseId, first: u32, count: u32) -> Vec<Signed> {
        let mut records = Vec::new();
        if self.sealer.head().seq == 0 {
            records = self.checkpoint(&[], State::Open);
        }
        let lease = Lease {
            lease,
            relay: relay_key().public(),
            first,
            count,
            expires_unix_ms: 0,
        };
        records.push(self.sealer.lease(lease).unwrap());
        records
    }

    fn checkpoint(&mut self, fresh: &[Fact], state: State) -> Vec<Signed> {
        let status = Status {
            length: self.genesis.length(),
            sealed: self.facts.proven_pieces(),
            state,
            lease_floor: self.lease_floor,
            revoked: Vec::new(),
            time_unix_ms: 0,
        };
        self.sealer.checkpoint(&self.facts, fresh, &status).unwrap()
    }

    pub(crate) fn spec(
        &self,
        kit: &Kit,
        name: &str,
        is_relay: bool,
        known: &[Signed],
    ) -> ContentSpec {
        let mut manifest = Manifest::new(self.genesis.clone(), Accept::Attested).unwrap();
        for record in known {
            manifest.apply(record).unwrap();
        }
        let growth = Growth {
            manifest,
            is_relay,
            signer: is_relay.then(|| Arc::new(relay_key())),
        };
        let sid = self.genesis.sid();
        ContentSpec {
            names: vec![sid.truncated()],
            info: None,
            sid: Some(sid),
            hashes: Hashes::Facts(growth.nodes()),
            identity: sid.0,
            verifiable: false,
            growth: Some(growth),
            ..kit.leech(name)
        }
    }
}

/// A relay that reads its origin no faster than this, and the test as its control.
pub(crate) struct Site {
    pub(crate) kit: Kit,
    pub(crate) control: Control,
    /// Kept: its contents end with it.
    _session: Session,
    pub(crate) relay: Content,
    events: mpsc::UnboundedReceiver<ContentEvent>,
    pub(crate) peer: std::net::SocketAddr,
    /// Pieces that are not sealed yet.
    pub(crate) missing: u32,
    pub(crate) sent: Arc<crate::http::Server>,
}

impl Site {
    pub(crate) async fn new(length: usize, limit: ByteRate) -> Self {
        let kit = Kit::new(length);
        let control = Control::new(&kit);
        Self::of(kit, control, limit).await
    }

    pub(crate) async fn of(kit: Kit, control: Control, limit: ByteRate) -> Self {
        let origin = honest(&kit).await;
        let session = session(1).await;
        let spec = ContentSpec {
            sources: vec![origin.source(&kit, Access::Ranges)],
            limits: Limits {
                down: limit,
                ..Limits::default()
            },
            ..control.spec(&kit, "relay", true, &[])
        };
        let relay = session.add(spec).await.unwrap();
        let missing = kit.layout.piece_count();
        Self {
            events: relay.events(),
            peer: session.peer_addr(),
            missing,
            kit,
            control,
            _session: session,
            relay,
            sent: origin,
        }
    }

    /// The relay is to fetch everything.
    pub(crate) fn lease(&self) {
        let all = 0..self.kit.layout.piece_count();
        self.relay.set_leases(vec![all]);
    }

    /// Waits until the relay has fetched a piece.
    async fn next_piece(&mut self) -> (PieceIndex, Sha256) {
        let next = async {
            loop {
                let event = self.events.recv().await.expect("the relay lives");
                if let ContentEvent::PieceDone { piece, digest } = event {
                    return (piece, digest);
                }
            }
        };
        let (piece, digest) = timeout(PATIENCE, next).await.expect("a piece comes");
        (piece, digest.node.unwrap())
    }

    /// Waits for a piece, and seals it.
    pub(crate) async fn seal_next(&mut self) -> Vec<Signed> {
        let (piece, node) = self.next_piece().await;
        let records = self.control.seal(piece, node);
        self.relay.add_records(records.clone());
        self.missing -= 1;
        records
    }

    pub(crate) async fn seal_all(&mut self) {
        while self.missing > 0 {
            self.seal_next().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_have_the_first_pieces_while_the_relay_fetches_the_rest() {
    let mut site = Site::new((6 << 20) + 77, ByteRate::mib(4)).await;
    // One agent knows only the relay, the other only the first agent.
    let (near, far) = (session(2).await, session(3).await);
    let spec = |name, peer| ContentSpec {
        peers: vec![peer],
        ..site.control.spec(&site.kit, name, false, &[])
    };
    let first = near.add(spec("near", site.peer)).await.unwrap();
    let second = far.add(spec("far", near.peer_addr())).await.unwrap();
    site.lease();
    for _ in 0..3 {
        site.seal_next().await;
    }
    for agent in [&first, &second] {
        until(agent, "a first piece", |progress| progress.pieces_held > 0).await;
    }
    let relay = site.relay.progress().borrow().clone();
    assert!(
        Some(relay.have_bytes) < relay.length,
        "the relay still fetches: {relay:?}"
    );
    site.seal_all().await;
    for agent in [&first, &second] {
        until(agent, "all pieces", |progress| {
            Some(progress.have_bytes) == relay.length
        })
        .await;
        assert!(!site.kit.path("near").exists(), "no name before FINAL");
    }
    let (records, name) = site.control.finalise(&site.kit);
    site.relay.add_records(records);
    for content in [&site.relay, &first, &second] {
        site.kit.completes(content).await;
    }
    for agent in [&first, &second] {
        assert_eq!(Some(agent.counters().peer), relay.length);
    }
    assert_eq!(
        Some(site.sent.sent.load(Ordering::Relaxed)),
        relay.length,
        "one copy"
    );
    // Everybody answers by the standard name now, and nothing more is fetched for it.
    let stock = session(4).await;
    let leech = ContentSpec {
        names: vec![name],
        info: None,
        sid: None,
        peers: vec![far.peer_addr()],
        ..site.kit.leech("stock")
    };
    let leech = stock.add(leech).await.unwrap();
    site.kit.completes(&leech).await;
    assert_eq!(Some(site.sent.sent.load(Ordering::Relaxed)), relay.length);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_late_or_again_learns_the_rest_from_neighbours() {
    let mut site = Site::new(5 << 20, ByteRate::mib(8)).await;
    site.lease();
    for _ in 0..8 {
        site.seal_next().await;
    }
    let spec = ContentSpec {
        peers: vec![site.peer],
        ..site.control.spec(&site.kit, "late", false, &[])
    };
    let late = session(2).await;
    let agent = late.add(spec.clone()).await.unwrap();
    let mut events = agent.events();
    until(&agent, "what is sealed", |progress| {
        progress.pieces_held == 8
    })
    .await;
    let mut known = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let ContentEvent::Record(record) = event {
            known.push(record);
        }
    }
    late.shutdown().await;
    // A later run knows these from its disk, and needs none of the pieces again.
    let again = session(3).await;
    let spec = ContentSpec {
        growth: site.control.spec(&site.kit, "late", false, &known).growth,
        hashes: site.control.spec(&site.kit, "late", false, &known).hashes,
        ..spec
    };
    let agent = again.add(spec).await.unwrap();
    site.seal_all().await;
    let (records, _) = site.control.finalise(&site.kit);
    site.relay.add_records(records);
    let finished = site.kit.completes(&agent).await;
    assert_eq!(finished.counters.resumed, 8 * 256 * 1024);
    // After FINAL the same way leads there.
    let after = session(4).await;
    let spec = ContentSpec {
        peers: vec![again.peer_addr()],
        ..site.control.spec(&site.kit, "after", false, &[])
    };
    let agent = after.add(spec).await.unwrap();
    site.kit.completes(&agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fetched_the_pieces_proves_them_under_a_snapshot() {
    let mut site = Site::new(3 << 20, ByteRate::MAX).await;
    let agents = session(2).await;
    let spec = ContentSpec {
        peers: vec![site.peer],
        ..site.control.spec(&site.kit, "agent", false, &[])
    };
    let agent = agents.add(spec).await.unwrap();
    site.lease();
    // What control says of single pieces is lost, and later it says it only in sum.
    while site.missing > 0 {
        let (piece, node) = site.next_piece().await;
        site.control.seal(piece, node);
        site.missing -= 1;
    }
    let key = control_key();
    site.control.sealer = Sealer::new(site.control.genesis.sid(), key, 0, 2);
    let (records, _) = site.control.finalise(&site.kit);
    site.relay.add_records(records);
    for content in [&site.relay, &agent] {
        site.kit.completes(content).await;
        assert!(content.answers_v2(), "{content:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_is_not_what_control_sealed_is_dropped_and_never_offered() {
    let mut site = Site::new(2 << 20, ByteRate::MAX).await;
    // Somebody else reported piece 0 before, and the origin has lied to one of the two.
    let sealed = piece_node(&[9; 100], &site.kit.layout, PieceIndex(0)).unwrap();
    let records = site.control.seal(PieceIndex(0), sealed);
    site.lease();
    until(&site.relay, "all pieces", |progress| {
        progress.pieces_held == 8
    })
    .await;
    let agents = session(2).await;
    let spec = ContentSpec {
        peers: vec![site.peer],
        ..site.control.spec(&site.kit, "agent", false, &[])
    };
    let agent = agents.add(spec).await.unwrap();
    site.relay.add_records(records);
    let lost = async {
        loop {
            if let ContentEvent::PieceLost(piece) = site.events.recv().await.unwrap() {
                return piece;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, lost).await.unwrap(), PieceIndex(0));
    let honest: PieceIndex = PieceIndex(1);
    let bytes = site.kit.layout.piece_bytes(honest);
    let bytes = usize::try_from(bytes.start).unwrap()..usize::try_from(bytes.end).unwrap();
    let node = piece_node(&site.kit.bytes[bytes], &site.kit.layout, honest).unwrap();
    let records = site.control.seal(honest, node);
    site.relay.add_records(records);
    until(&agent, "the honest piece", |progress| {
        progress.pieces_held > 0
    })
    .await;
    assert_eq!(agent.progress().borrow().pieces_held, 1);
    assert_eq!(
        agent.progress().borrow().counters.wasted,
        0,
        "the other was not even sent"
    );
}
