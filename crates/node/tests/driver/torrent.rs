//! Peers that know only a torrent's name, or a v2 torrent without its piece layers: raw sockets that ask.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use floodway_node::{ContentEvent, ContentSpec};
use floodway_proto::digest::{sha1, sha256};
use floodway_proto::merkle::parent;
use floodway_proto::metainfo::{Info, info_bytes};
use floodway_proto::record::LeaseId;
use floodway_proto::wire::{
    self, ExtendedHandshake, Frame, HANDSHAKE_LENGTH, Handshake, HashRequest, Limits, METADATA,
    Message, MetadataMessage,
};
use floodway_proto::{ByteRate, InfoHash, PeerName, SafeName, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::growing::Site;
use crate::kit::{Kit, PATIENCE, session};

/// The number under which these peers want metadata messages.
const OUR_ID: u8 = 9;

/// A peer that says what the test wants.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    received: BytesMut,
}

impl Raw {
    /// Connects by `name`; the second value is what the node says of itself.
    async fn meet(addr: SocketAddr, name: InfoHash) -> (Self, ExtendedHandshake) {
        let names = [(METADATA.to_owned(), OUR_ID)].into();
        let own = ExtendedHandshake {
            names,
            ..ExtendedHandshake::default()
        };
        Self::meet_as(addr, name, own).await
    }

    /// As [`meet`](Self::meet), and says this of itself.
    pub(crate) async fn meet_as(
        addr: SocketAddr,
        name: InfoHash,
        own: ExtendedHandshake,
    ) -> (Self, ExtendedHandshake) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let hello = Handshake {
            info_hash: name,
            // Two connections of one name would be one too many.
            peer: PeerName(std::array::from_fn(|_| fastrand::u8(..))),
            extensions: true,
            fast: true,
        };
        stream.write_all(&hello.encode()).await.unwrap();
        let mut theirs = [0; HANDSHAKE_LENGTH];
        let read = timeout(PATIENCE, stream.read_exact(&mut theirs)).await;
        read.expect("in time").expect("it knows the name");
        assert_eq!(Handshake::decode(&theirs).unwrap().info_hash, name);
        let mut raw = Self {
            stream,
            received: BytesMut::new(),
        };
        raw.say(Message::Extended {
            id: 0,
            payload: own.encode().into(),
        })
        .await;
        let said = raw
            .next(|message| match message {
                Message::Extended { id: 0, payload } => ExtendedHandshake::decode(&payload).ok(),
                _ => None,
            })
            .await;
        (raw, said)
    }

    pub(crate) async fn say(&mut self, message: Message) {
        let mut out = Vec::new();
        message.encode(&mut out);
        self.stream.write_all(&out).await.unwrap();
    }

    /// The next message of the wanted kind.
    pub(crate) async fn next<T>(&mut self, wanted: impl Fn(Message) -> Option<T>) -> T {
        let found = async {
            loop {
                let mut input = self.received.split().freeze();
                while let Some(frame) = wire::decode(&mut input, &Limits::default()).unwrap() {
                    if let Frame::Message(message) = frame
                        && let Some(found) = wanted(message)
                    {
                        self.received.extend_from_slice(&input);
                        return found;
                    }
                }
                self.received.extend_from_slice(&input);
                let read = self.stream.read_buf(&mut self.received).await.unwrap();
                assert_ne!(read, 0, "it hung up");
            }
        };
        timeout(PATIENCE, found).await.expect("an answer in time")
    }

    /// Asks for a piece of the info dict, under the number that the node gave to it.
    async fn metadata(&mut self, id: u8, piece: u32) -> MetadataMessage {
        let payload = MetadataMessage::Request { piece }.encode().into();
        self.say(Message::Extended { id, payload }).await;
        self.next(|message| match message {
            Message::Extended { id, payload } if id == OUR_ID => {
                Some(MetadataMessage::decode(&payload).unwrap())
            }
            _ => None,
        })
        .await
    }

    /// The whole info dict.
    async fn info(&mut self, said: &ExtendedHandshake) -> Vec<u8> {
        let id = said.id(METADATA).expect("it offers metadata");
        let size = said.metadata_size.expect("it says how much");
        let mut info = Vec::new();
        for piece in 0..size.div_ceil(16 * 1024) {
            match self.metadata(id, piece).await {
                MetadataMessage::Data {
                    piece: sent,
                    total_size,
                    data,
                } => {
                    assert_eq!((sent, total_size), (piece, size));
                    info.extend_from_slice(&data);
                }
                other => panic!("{other:?}"),
            }
        }
        info
    }

    async fn hashes(&mut self, request: HashRequest) -> Option<Vec<Sha256>> {
        self.say(Message::HashRequest(request)).await;
        self.next(|message| match message {
            Message::Hashes(about, hashes) if about == request => {
                let hashes = hashes.as_chunks().0.iter();
                Some(Some(hashes.map(|hash| Sha256(*hash)).collect()))
            }
            Message::HashReject(about) if about == request => Some(None),
            _ => None,
        })
        .await
    }
}

/// A torrent of so many pieces that its info dict has three pieces too, and a session that seeds it.
fn torrent(kit: &Kit) -> (InfoHash, Bytes) {
    let info = Info {
        name: SafeName::new("seed").unwrap(),
        length: kit.bytes.len() as u64,
        piece_length: kit.layout.piece_length(),
        pieces: Arc::clone(&kit.pieces),
        private: false,
        files: Vec::new(),
    };
    let info = Bytes::from(info_bytes(&info));
    (InfoHash(sha1(&info).0), info)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_knows_only_the_name_gets_the_info_dict() {
    let kit = Kit::new(4 << 20);
    let (name, info) = torrent(&kit);
    let seeder = session(1).await;
    let spec = ContentSpec {
        names: vec![Kit::name(), name],
        info: Some((name, info.clone())),
        ..kit.seed(kit.write("seed", |_| ()))
    };
    seeder.add(spec).await.unwrap();
    let (mut peer, said) = Raw::meet(seeder.peer_addr(), name).await;
    assert_eq!(peer.info(&said).await, info);
    let id = said.id(METADATA).unwrap();
    let beyond = peer.metadata(id, 1).await;
    assert_eq!(beyond, MetadataMessage::Reject { piece: 1 });
    // By a name that is no torrent's it is not offered, and not given.
    let (mut peer, said) = Raw::meet(seeder.peer_addr(), Kit::name()).await;
    assert_eq!((said.id(METADATA), said.metadata_size), (None, None));
    let rejected = peer.metadata(id, 0).await;
    assert_eq!(rejected, MetadataMessage::Reject { piece: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_the_same_again_and_again_is_hung_up_on_and_others_are_not() {
    let kit = Kit::new(4 << 20);
    let (name, info) = torrent(&kit);
    let seeder = session(1).await;
    let spec = ContentSpec {
        names: vec![name],
        info: Some((name, info.clone())),
        ..kit.seed(kit.write("seed", |_| ()))
    };
    seeder.add(spec).await.unwrap();
    let (mut peer, said) = Raw::meet(seeder.peer_addr(), name).await;
    let id = said.id(METADATA).unwrap();
    let mut flood = Vec::new();
    for _ in 0..2000 {
        let payload = MetadataMessage::Request { piece: 0 }.encode().into();
        Message::Extended { id, payload }.encode(&mut flood);
    }
    // It may hang up before it has read all.
    let _ = peer.stream.write_all(&flood).await;
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, peer.stream.read_to_end(&mut rest)).await;
    let _ = ended.expect("it must hang up");
    assert!(
        rest.len() < 200 * info.len(),
        "it went on answering: {} bytes",
        rest.len()
    );
    let (mut peer, said) = Raw::meet(seeder.peer_addr(), name).await;
    assert_eq!(peer.info(&said).await, info);
}

fn truncated(hash: Sha256) -> InfoHash {
    InfoHash(*hash.0.first_chunk().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_content_answers_by_every_name_with_its_info_dict_and_hashes() {
    // Five pieces: the tree has eight.
    let mut site = Site::new((1 << 20) + 100_000, ByteRate::MAX).await;
    site.lease();
    site.seal_all().await;
    let (records, names) = site.control.finalise_all(&site.kit);
    site.relay.add_records(records);
    site.kit.completes(&site.relay).await;
    let root = names.roots[0].unwrap();
    let request = HashRequest {
        pieces_root: root,
        // 16 leaves in a piece.
        base_layer: 4,
        index: 4,
        length: 2,
        proof_layers: 2,
    };
    let v1 = names.v1.unwrap();
    let v2 = names.v2.unwrap();
    let hybrid = names.hybrid.unwrap();
    for (name, is_v2) in [
        (v1, false),
        (truncated(v2), true),
        (hybrid.0, true),
        (truncated(hybrid.1), true),
    ] {
        let (mut peer, said) = Raw::meet(site.peer, name).await;
        let info = peer.info(&said).await;
        let hashes = [InfoHash(sha1(&info).0), truncated(sha256(&info))];
        assert!(hashes.contains(&name), "{name}");
        let given = peer.hashes(request).await;
        if !is_v2 {
            assert_eq!(given, None, "not on a v1 connection");
            continue;
        }
        // Two pieces, one of them beyond the end; then the uncles up to the root.
        let given = given.expect("it knows all hashes");
        let [a, b, right, left] = given[..] else {
            panic!("{given:?}");
        };
        assert_eq!(parent(left, parent(parent(a, b), right)), root);
        for wrong in [
            HashRequest {
                pieces_root: Sha256([1; 32]),
                ..request
            },
            HashRequest {
                base_layer: 0,
                ..request
            },
            HashRequest {
                index: u32::MAX - 1,
                ..request
            },
            HashRequest {
                length: u32::MAX,
                ..request
            },
            HashRequest {
                proof_layers: u32::MAX,
                ..request
            },
        ] {
            assert_eq!(peer.hashes(wrong).await, None, "{wrong:?}");
        }
    }
    let sid = site.control.spec(&site.kit, "x", false, &[]).names[0];
    let (_, said) = Raw::meet(site.peer, sid).await;
    assert_eq!(said.id(METADATA), None, "own nodes need none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_run_answers_by_all_names_again() {
    let mut site = Site::new((1 << 20) + 100_000, ByteRate::MAX).await;
    site.lease();
    let mut known = Vec::new();
    while site.missing > 0 {
        known.extend(site.seal_next().await);
    }
    let (records, names) = site.control.finalise_all(&site.kit);
    known.extend(records.clone());
    site.relay.add_records(records);
    site.kit.completes(&site.relay).await;
    // As a node begins that has the torrent, and kept what was known by records.
    let again = session(2).await;
    let spec = ContentSpec {
        names: vec![names.v1.unwrap()],
        growth: site.control.spec(&site.kit, "x", false, &known).growth,
        ..site.kit.seed(site.kit.path("relay"))
    };
    let content = again.add(spec).await.unwrap();
    let has_begun = async {
        while !content.answers_v2() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, has_begun).await.expect("in time");
    let v2 = names.v2.unwrap();
    for name in [names.v1.unwrap(), truncated(v2)] {
        let (mut peer, said) = Raw::meet(again.peer_addr(), name).await;
        let info = peer.info(&said).await;
        assert!([InfoHash(sha1(&info).0), truncated(sha256(&info))].contains(&name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_late_answers_by_all_names_once_neighbours_told_it_the_hashes() {
    let mut site = Site::new((1 << 20) + 100_000, ByteRate::MAX).await;
    site.lease();
    site.seal_all().await;
    // It has the torrent, and every byte; what single pieces hash to control does not say any more.
    let mut known = site.control.new_term(LeaseId(0));
    let (records, names) = site.control.finalise_all(&site.kit);
    known.extend(records);
    site.relay.add_records(known.clone());
    site.kit.completes(&site.relay).await;
    let v1 = names.v1.unwrap();
    let late = session(2).await;
    let spec = ContentSpec {
        names: vec![site.control.sid().truncated(), v1],
        sid: Some(site.control.sid()),
        growth: site.control.spec(&site.kit, "x", false, &known).growth,
        ..site.kit.seed(site.kit.path("relay"))
    };
    let content = late.add(spec).await.unwrap();
    let mut events = content.events();
    Raw::meet(late.peer_addr(), v1).await;
    assert!(!content.answers_v2(), "it knows no hashes");
    content.add_peers([site.peer]);
    let told = async {
        loop {
            let event = events.recv().await.expect("it lives");
            if let ContentEvent::AllHashes { names, hashes } = event {
                return (names, hashes);
            }
        }
    };
    let (told, hashes) = timeout(PATIENCE, told)
        .await
        .expect("a neighbour knows them");
    let v2 = truncated(names.v2.unwrap());
    let hybrid = names.hybrid.unwrap();
    assert_eq!(told, [v2, hybrid.0, truncated(hybrid.1)]);
    assert_eq!(hashes.len(), 5);
    assert!(content.answers_v2());
    for name in told {
        let (mut peer, said) = Raw::meet(late.peer_addr(), name).await;
        let info = peer.info(&said).await;
        assert!([InfoHash(sha1(&info).0), truncated(sha256(&info))].contains(&name));
        let request = HashRequest {
            pieces_root: names.roots[0].unwrap(),
            base_layer: 4,
            index: 4,
            length: 2,
            proof_layers: 2,
        };
        assert!(peer.hashes(request).await.is_some(), "{name}");
    }
}
