//! Peers that speak the manifest's messages to a real node, and lie, replay and flood.

use bytes::Bytes;
use floodway_node::{Content, Session};
use floodway_proto::record::{Attest, Body, Fact, Head, LeaseId, Record, SecretKey, Signed};
use floodway_proto::wire::manifest::{MANIFEST, ManifestMessage};
use floodway_proto::wire::{ExtendedHandshake, Message, OwnNode};
use floodway_proto::{NodeId, PieceIndex, Sha256, Sid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::growing::{Control, relay_key};
use crate::kit::{Kit, PATIENCE, session};
use crate::torrent::Raw;

/// The number under which this peer wants the manifest's messages.
const OUR_ID: u8 = 7;

/// A real agent, and a neighbour of it that is the test.
struct Victim {
    _session: Session,
    _content: Content,
    peer: Raw,
    /// Under which number the node wants the manifest's messages.
    id: u8,
}

impl Victim {
    async fn new(kit: &Kit, control: &Control) -> Self {
        let session = session(2).await;
        let name = format!("victim-{}", fastrand::u64(..));
        let spec = control.spec(kit, &name, false, &[]);
        let content = session.add(spec).await.unwrap();
        let sid = control.sid();
        let own = ExtendedHandshake {
            names: [(MANIFEST.to_owned(), OUR_ID)].into(),
            floodway: Some(OwnNode {
                version: 1,
                sid,
                node: NodeId([9; 16]),
                capabilities: 0,
                head: Head::default(),
                site: None,
            }),
            ..ExtendedHandshake::default()
        };
        let (peer, said) = Raw::meet_as(session.peer_addr(), sid.truncated(), own).await;
        Self {
            id: said.id(MANIFEST).expect("an own node"),
            _session: session,
            _content: content,
            peer,
        }
    }

    fn message(&self, message: &ManifestMessage) -> Message {
        let (id, payload) = (self.id, message.encode());
        Message::Extended { id, payload }
    }

    async fn tell(&mut self, records: &[Signed]) {
        for record in records {
            let message = self.message(&ManifestMessage::Record(record.clone()));
            self.peer.say(message).await;
        }
    }

    /// Whether the node can prove what a piece hashes to, as it says itself.
    async fn knows(&mut self, piece: u32) -> bool {
        let (first, count) = (piece, 1);
        let question = self.message(&ManifestMessage::GetFacts { first, count });
        self.peer.say(question).await;
        let answer = |payload: Bytes| match ManifestMessage::decode(payload).unwrap() {
            ManifestMessage::Hashes { .. } => Some(true),
            ManifestMessage::Record(record) => {
                matches!(record.record().body, Body::Attest(_)).then_some(true)
            }
            ManifestMessage::Reject { first, .. } if first == piece => Some(false),
            _ => None,
        };
        self.peer
            .next(|message| match message {
                Message::Extended { id, payload } if id == OUR_ID => answer(payload),
                _ => None,
            })
            .await
    }

    /// Waits until the node hangs up.
    async fn hangs_up(&mut self) {
        let mut rest = Vec::new();
        let end = timeout(PATIENCE, self.peer.stream.read_to_end(&mut rest)).await;
        // A reset is an end too.
        drop(end.expect("it hangs up in time"));
    }
}

fn attest(control: &Control, lease: LeaseId, piece: u32) -> Record {
    let fact = Fact {
        hash: Sha256([7; 32]),
        ..control.place_of(piece)
    };
    Record {
        sid: control.sid(),
        head: Head { term: 1, seq: 1 },
        key: 0,
        body: Body::Attest(Attest {
            lease,
            facts: vec![fact],
            sha1s: None,
            end: None,
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_forges_or_leaves_its_lease_is_hung_up_on_and_not_believed() {
    let kit = Kit::new(2 << 20);
    let mut control = Control::new(&kit);
    let good = control.sign_lease(LeaseId(1), 2, 2);
    let stranger = SecretKey::from_seed(&[9; 32]);
    let checkpoint = control.seal(PieceIndex(5), Sha256([7; 32])).remove(0);
    let in_lease = attest(&control, LeaseId(1), 2);
    let elsewhere = Record {
        sid: Sid([1; 32]),
        ..in_lease.clone()
    };
    let mut flipped = checkpoint.bytes().to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let bad = [
        Signed::decode(flipped.into()),
        checkpoint.record().sign(&stranger),
        checkpoint.record().sign(&relay_key()),
        in_lease.sign(&stranger),
        attest(&control, LeaseId(1), 4).sign(&relay_key()),
        elsewhere.sign(&relay_key()),
    ];
    for bad in bad {
        let bad = bad.unwrap();
        let mut victim = Victim::new(&kit, &control).await;
        victim.tell(&good).await;
        for piece in [2, 4, 5] {
            assert!(!victim.knows(piece).await, "piece {piece}");
        }
        victim.tell(std::slice::from_ref(&bad)).await;
        victim.hangs_up().await;
    }
    // The same neighbour, when it is honest.
    let mut victim = Victim::new(&kit, &control).await;
    victim.tell(&good).await;
    victim.tell(&[in_lease.sign(&relay_key()).unwrap()]).await;
    assert!(victim.knows(2).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_an_older_term_do_not_bring_back_leases() {
    let kit = Kit::new(2 << 20);
    let mut control = Control::new(&kit);
    let mut old = control.sign_lease(LeaseId(1), 0, 8);
    old.extend(control.seal(PieceIndex(5), Sha256([7; 32])));
    let late = attest(&control, LeaseId(1), 3).sign(&relay_key()).unwrap();
    let new = control.new_term(LeaseId(2));
    let mut victim = Victim::new(&kit, &control).await;
    victim.tell(&new).await;
    assert!(victim.knows(5).await);
    // All of it was signed once, and some of it counts no more.
    for _ in 0..3 {
        victim.tell(&old).await;
        victim.tell(std::slice::from_ref(&late)).await;
        assert!(!victim.knows(3).await);
    }
    assert!(victim.knows(5).await, "and it still listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_records_ends_the_connection() {
    let kit = Kit::new(2 << 20);
    let mut control = Control::new(&kit);
    let good = control.sign_lease(LeaseId(1), 0, 8);
    let mut victim = Victim::new(&kit, &control).await;
    victim.tell(&good).await;
    // Each is signed anew, and says what the first one said.
    let mut flood = Vec::new();
    for seq in 1..3000 {
        let record = Record {
            head: Head { term: 1, seq },
            ..attest(&control, LeaseId(1), 3)
        };
        let record = ManifestMessage::Record(record.sign(&relay_key()).unwrap());
        victim.message(&record).encode(&mut flood);
    }
    // It may hang up before it has heard all.
    drop(victim.peer.stream.write_all(&flood).await);
    victim.hangs_up().await;
}
