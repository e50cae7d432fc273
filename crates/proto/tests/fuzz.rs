//! Every fuzz target on stable: arbitrary bytes, and valid inputs with damage.

use std::collections::BTreeMap;

use floodway_proto::digest::sha1;
use floodway_proto::genesis::{FinalTorrents, Flavors, Genesis, GenesisFile, OriginIdentity};
use floodway_proto::metainfo::{Info, Metainfo};
use floodway_proto::record::{
    Attest, Body, Checkpoint, Fact, Head, Lease, LeaseId, Part, Record, SecretKey, State,
};
use floodway_proto::wire::manifest::RejectReason;
use floodway_proto::wire::{
    ExtendedHandshake, Handshake, HashRequest, ManifestMessage, Message, OwnNode, Request,
};
use floodway_proto::{Bitfield, InfoHash, NodeId, PeerName, SafeName, Sha256, Sid, Site};
use proptest::prelude::*;

#[path = "../../../fuzz/src/lib.rs"]
pub mod targets;

use targets::TARGETS;

fn torrent() -> Vec<u8> {
    let info = Info {
        name: SafeName::new("disk.img").unwrap(),
        length: 40_000,
        files: Vec::new(),
        piece_length: 16 * 1024,
        pieces: [b"a", b"b", b"c"].map(|piece| sha1(piece)).into(),
        private: true,
    };
    let torrent = Metainfo {
        trackers: vec![vec!["http://t/a".into(), "http://u/a".into()]],
        web_seeds: vec!["http://w/disk.img".into()],
        comment: Some("c".into()),
        ..Metainfo::new(info).unwrap()
    };
    torrent.encode()
}

fn genesis() -> Vec<u8> {
    let genesis = Genesis {
        created_unix_s: 1,
        final_torrents: FinalTorrents {
            flavors: Flavors::V1,
            private: true,
            source: String::new(),
        },
        keys: vec![[1; 32]],
        files: vec![GenesisFile {
            path: vec![SafeName::new("disk.img").unwrap()],
            length: Some(40_000),
            url_suffix: String::new(),
            etag: "\"e\"".into(),
            last_modified: String::new(),
            version: String::new(),
        }],
        name: SafeName::new("disk.img").unwrap(),
        nonce: [2; 16],
        origin: OriginIdentity {
            etag: "\"e\"".into(),
            last_modified: String::new(),
            url_hash: Sha256([3; 32]),
            version: String::new(),
        },
        piece_length: 16 * 1024,
        strong: true,
        trust: 0,
    };
    genesis.encode()
}

fn extended_handshake() -> Vec<u8> {
    let handshake = ExtendedHandshake {
        names: BTreeMap::from([("ut_metadata".to_owned(), 1)]),
        client: Some("Floodway".into()),
        listen_port: Some(1),
        request_queue: Some(2000),
        metadata_size: Some(3),
        upload_only: Some(false),
        floodway: Some(OwnNode {
            version: 1,
            sid: Sid([1; 32]),
            node: NodeId([2; 16]),
            capabilities: 4,
            head: Head { term: 1, seq: 77 },
            site: Some(Site {
                first: 3,
                end: 4,
                ..Site::named("berlin")
            }),
        }),
    };
    handshake.encode()
}

fn stream() -> Vec<u8> {
    let request = Request {
        piece: 1,
        begin: 2,
        length: 3,
    };
    let hashes = HashRequest {
        pieces_root: Sha256([1; 32]),
        base_layer: 4,
        index: 0,
        length: 2,
        proof_layers: 0,
    };
    let mut out = 20u32.to_be_bytes().to_vec();
    for message in [
        Message::Bitfield(Bitfield::full(20).to_bytes().into()),
        Message::KeepAlive,
        Message::Have(7),
        Message::Request(request),
        Message::Reject(request),
        Message::Port(6881),
        Message::Extended {
            id: 0,
            payload: extended_handshake().into(),
        },
        Message::HaveAll,
        Message::HashRequest(hashes),
        Message::Hashes(hashes, vec![7; 64].into()),
        Message::HashReject(hashes),
    ] {
        message.encode(&mut out);
    }
    floodway_proto::wire::encode_piece_header(1, 0, 5, &mut out);
    out.extend_from_slice(b"block\0\0\0\x03\xffxx");
    out
}

fn records() -> Vec<Vec<u8>> {
    let key = SecretKey::from_seed(&[1; 32]);
    let facts = vec![Fact {
        file: 0,
        layer: 1,
        index: 2,
        hash: Sha256([3; 32]),
    }];
    let bodies = [
        Body::Lease(Lease {
            lease: LeaseId(1),
            relay: key.public(),
            first: 0,
            count: 64,
            expires_unix_ms: 5,
        }),
        Body::Attest(Attest {
            lease: LeaseId(1),
            facts: facts.clone(),
            sha1s: Some(vec![sha1(b"a")]),
            end: Some(40_000),
        }),
        Body::Checkpoint(Checkpoint {
            length: Some(40_000),
            sealed: 3,
            state: State::Complete,
            snapshot: Some(Part { index: 0, of: 1 }),
            time_unix_ms: 5,
            lease_floor: LeaseId(1),
            revoked: vec![LeaseId(2)],
            facts,
        }),
    ];
    let records = bodies.map(|body| Record {
        sid: Sid([1; 32]),
        head: Head { term: 1, seq: 1 },
        key: 0,
        body,
    });
    let signed = records.map(|record| record.sign(&key).unwrap());
    let bytes = signed.iter().map(|signed| signed.bytes().to_vec());
    let in_messages = signed.iter().cloned().map(ManifestMessage::Record);
    bytes
        .chain(in_messages.map(|message| message.encode().to_vec()))
        .collect()
}

fn manifest_messages() -> Vec<Vec<u8>> {
    let head = Head { term: 1, seq: 7 };
    let messages = [
        ManifestMessage::State {
            head,
            sealed: 5,
            capabilities: 4,
        },
        ManifestMessage::GetHead { have: head },
        ManifestMessage::GetFacts { first: 3, count: 4 },
        ManifestMessage::Hashes {
            file: 0,
            layer: 2,
            index: 0,
            hashes: vec![Sha256([1; 32]); 2],
        },
        ManifestMessage::Reject {
            sub: 3,
            first: 3,
            count: 4,
            reason: RejectReason::NotKnown,
        },
        ManifestMessage::HaveRuns(vec![(0, 5), (7, 1)]),
        ManifestMessage::GetLeaves { piece: 4 },
        ManifestMessage::Leaves {
            piece: 4,
            leaves: vec![Sha256([2; 32])],
        },
        ManifestMessage::Missing(vec![1, 2]),
    ];
    messages.map(|message| message.encode().to_vec()).into()
}

/// Inputs that the decoders accept; damage to them gets further than noise.
fn valid() -> Vec<Vec<u8>> {
    let handshake = Handshake {
        info_hash: InfoHash([1; 20]),
        peer: PeerName([2; 20]),
        extensions: true,
        fast: true,
    };
    let mut inputs = vec![
        torrent(),
        genesis(),
        extended_handshake(),
        stream(),
        handshake.encode().to_vec(),
    ];
    let texts: [&[u8]; 11] = [
        b"d8:msg_typei0e5:piecei3ee",
        b"d8:msg_typei1e5:piecei0e10:total_sizei3eexyz",
        b"info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A&peer_id=-FW0001-abcdefghijkl&port=1&left=0&event=started&ip=1.2.3.4&key=1f",
        b"d8:completei1e8:intervali30e5:peers6:abcdef6:peers618:abcdefghijklmnopqre",
        b"d8:intervali30e5:peersld2:ip7:1.2.3.47:peer id20:abcdefghijklmnopqrst4:porti7eeee",
        b"d14:failure reason4:full8:retry in2:10e",
        b"d5:filesd20:abcdefghijklmnopqrstd8:completei1e10:downloadedi2e10:incompletei3eeee",
        b"https://host/folder/disk%20image.img?x#y",
        b"\0\x0c\xff\xf0",
        b"\0\0\0\x02\0\0\0\x03\0\0\0\x09\0\0\0\x01",
        b"\x04\x00\x00\x01\x00\x01\x02\x00\x02\x03\x01\x01\x09\x02\x00\x08",
    ];
    inputs.extend(texts.map(<[u8]>::to_vec));
    inputs.extend(records());
    inputs.extend(manifest_messages());
    // Facts: attested, sealed above, expanded, an end.
    inputs.push(
        b"\x0a\x01\0\0\x05\x21\0\x01\x06\x05\x01\0\x07\x52\x01\0\x05\x03\0\0\0\x10\0\x02\x09"
            .to_vec(),
    );
    inputs
}

fn run_all(data: &[u8]) {
    for (_, target) in TARGETS {
        target(data);
    }
}

#[test]
fn valid_inputs_are_valid() {
    // Otherwise the damage below would only ever test the first byte.
    assert!(Metainfo::decode(&torrent()).is_ok());
    assert!(Genesis::decode(&genesis()).is_ok());
    assert!(ExtendedHandshake::decode(&extended_handshake()).is_ok());
    for input in valid() {
        run_all(&input);
    }
}

#[test]
fn every_target_is_listed_for_cargo_fuzz() {
    let manifest = include_str!("../../../fuzz/Cargo.toml");
    for (name, _) in TARGETS {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name}"
        );
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

/// One change to a valid input.
#[derive(Clone, Debug)]
enum Damage {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
}

impl Damage {
    fn apply(self, data: &mut Vec<u8>) {
        if data.is_empty() {
            return;
        }
        let length = data.len();
        match self {
            Self::Replace(at, byte) => data[at.index(length)] = byte,
            Self::Insert(at, bytes) => {
                let at = at.index(length);
                data.splice(at..at, bytes);
            }
            Self::Remove(at, count) => {
                let at = at.index(length);
                data.drain(at..length.min(at + count));
            }
            Self::Repeat(at, count) => {
                let at = at.index(length);
                let bytes = data[at..length.min(at + count)].to_vec();
                data.splice(at..at, bytes);
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(&b"ilde0123456789:-%&=/."[..])
    ];
    prop_oneof![
        (at(), byte.clone()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (at(), prop::collection::vec(byte, 1..8)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (at(), 1..16usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        (at(), 1..16usize).prop_map(|(at, count)| Damage::Repeat(at, count)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_break_no_promise(data in prop::collection::vec(any::<u8>(), 0..300)) {
        run_all(&data);
    }

    #[test]
    fn damaged_inputs_break_no_promise(
        input in prop::sample::select(valid()),
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let mut input = input;
        for damage in damages {
            damage.apply(&mut input);
        }
        run_all(&input);
    }

    #[test]
    fn long_pieces_break_no_promise(head in any::<[u8; 2]>(), length in 0usize..140_000, seed in any::<u64>()) {
        let mut data = vec![0; length + 2];
        fastrand::Rng::with_seed(seed).fill(&mut data);
        data[..2].copy_from_slice(&head);
        targets::digester(&data);
    }
}
