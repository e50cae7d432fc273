use floodway_api::sync::{FileProbe, ProbeReport};
use floodway_proto::NodeId;
use floodway_proto::bencode;
use floodway_proto::digest::{DigestKind, PieceDigest, PieceDigester};
use floodway_proto::genesis::Flavors;
use floodway_proto::manifest::Manifest;
use floodway_proto::metainfo::Metainfo;
use floodway_proto::record::{Body, EndReason, Head};

use super::*;
use crate::tasks::publish::{self, Format, GenesisTerms};
use crate::tasks::records::Records;

fn key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn genesis(length: u64) -> Genesis {
    let probe = ProbeReport {
        length: Some(length),
        etag: Some("\"v1\"".into()),
        last_modified: None,
        ranges: true,
        name: "disk.img".into(),
        files: Vec::new(),
    };
    let flavors = Flavors {
        hybrid: true,
        ..Flavors::V1_AND_V2
    };
    let terms = GenesisTerms {
        flavors,
        key: key().public(),
        nonce: [1; 16],
        created_unix_s: 7,
    };
    publish::genesis("http://origin.example/disk.img", &[], &probe, terms).unwrap()
}

fn growing(length: u64) -> Growing {
    Growing::new(genesis(length), None, &key(), 5, None, Time::ZERO).unwrap()
}

/// The digests of all pieces of a folder with files of these lengths, and its content.
fn folder(lengths: &[u64]) -> (Genesis, PieceTable) {
    let file = |(file, &length): (usize, &u64)| FileProbe {
        path: format!("d{}/{file:03}", file % 3),
        length,
        etag: "\"x\"".into(),
        last_modified: String::new(),
    };
    let probe = ProbeReport {
        length: None,
        etag: None,
        last_modified: None,
        ranges: true,
        name: "set".into(),
        files: lengths.iter().enumerate().map(file).collect(),
    };
    let terms = GenesisTerms {
        flavors: Flavors {
            hybrid: true,
            ..Flavors::V1_AND_V2
        },
        key: key().public(),
        nonce: [1; 16],
        created_unix_s: 7,
    };
    let genesis = publish::genesis("file:///srv/set/", &[], &probe, terms).unwrap();
    let layout = genesis.layout().unwrap();
    let mut table = PieceTable::new(layout.piece_count());
    let kind = DigestKind {
        sha1: true,
        tree: true,
    };
    for piece in layout.pieces() {
        let mut digester = PieceDigester::new(kind, &layout, piece);
        digester.update(&vec![7; layout.piece_size(piece) as usize]);
        let PieceDigest { sha1, node } = digester.finish();
        table.insert(NodeId([1; 16]), piece.0, (node.unwrap(), sha1.unwrap()));
    }
    (genesis, table)
}

#[test]
fn a_folder_has_facts_of_each_file_and_torrents_of_all() {
    let (genesis, table) = folder(&[0, 1, 300_000, 524_288, 0, 16_385, 600_001]);
    let layout = genesis.layout().unwrap();
    let mut growing =
        Growing::new(genesis.clone(), None, &key(), 5, Some(&table), Time::ZERO).unwrap();
    assert!(growing.facts.is_complete());
    // Nodes take what is signed of it.
    let mut manifest = Manifest::new(genesis.clone(), Accept::Sealed).unwrap();
    for record in growing.sign(Time::ZERO, 0, State::Open).unwrap() {
        manifest.apply(&record).unwrap();
    }
    assert!(manifest.facts().is_complete());
    let published = publish::publish(genesis.name.clone(), &layout, &table).unwrap();
    let sha1s: Vec<_> = table.digests().iter().map(|(_, sha1)| *sha1).collect();
    let names = growing.names(published.info_hash, &sha1s).unwrap();
    assert_eq!(names.roots.iter().filter(|root| root.is_none()).count(), 2);
    let torrent = publish::torrent(&published.info, "http://t/a".into(), Vec::new()).unwrap();
    let read = Metainfo::decode(&torrent).unwrap();
    assert_eq!(read.info.layout().unwrap(), layout);
    assert_eq!(Some(read.info_hash), names.v1);
    let seeds = ["http://r/w/c/".to_owned()];
    for format in [Format::V2, Format::Hybrid] {
        let digests = table.digests();
        let torrent =
            publish::torrent_with_tree(&genesis, format, digests, "http://t/a", &seeds).unwrap();
        let value = bencode::decode(&torrent, &bencode::Limits::TORRENT).unwrap();
        let dict = value.as_dict().unwrap();
        let info = digest::sha256(dict.get("info").unwrap().raw());
        let (_, hybrid) = names.hybrid.unwrap();
        let expected = if format == Format::V2 {
            names.v2.unwrap()
        } else {
            hybrid
        };
        assert_eq!(info, expected, "{format}");
        // Of the files that are longer than a piece.
        let piece = u64::from(genesis.piece_length);
        let lengths = genesis.files.iter().filter_map(|file| file.length);
        let long = lengths.filter(|&length| length > piece);
        let layer = |length: u64| 32 * usize::try_from(length.div_ceil(piece)).unwrap();
        let entry = |bytes: usize| "32:".len() + 32 + format!("{bytes}:").len() + bytes;
        let layers: usize = long.map(|length| entry(layer(length))).sum();
        let found = dict.get("piece layers").unwrap().raw();
        assert_eq!(found.len(), "de".len() + layers);
    }
}

/// Nodes with the genesis take what control signs of a folder with these names.
fn signed_final(genesis: &Genesis, growing: &mut Growing, names: FinalNames) -> Manifest {
    let state = State::Final(Box::new(names));
    let records = growing.sign(Time::ZERO, 0, state).unwrap();
    let mut manifest = Manifest::new(genesis.clone(), Accept::Sealed).unwrap();
    for record in records.iter().rev() {
        // Whether it is taken is seen by what follows.
        let _ = manifest.apply(record);
    }
    manifest
}

#[test]
fn a_folder_of_many_files_is_final_by_records_that_leave_its_roots_out() {
    let lengths: Vec<u64> = (0..4000).map(|file| [0, 1, 20_000][file % 3]).collect();
    let (genesis, table) = folder(&lengths);
    let layout = genesis.layout().unwrap();
    let growing = || Growing::new(genesis.clone(), None, &key(), 5, Some(&table), Time::ZERO);
    let published = publish::publish(genesis.name.clone(), &layout, &table).unwrap();
    let sha1s: Vec<_> = table.digests().iter().map(|(_, sha1)| *sha1).collect();
    let names = growing()
        .unwrap()
        .names(published.info_hash, &sha1s)
        .unwrap();
    assert!(names.roots.is_empty());
    let manifest = signed_final(&genesis, &mut growing().unwrap(), names.clone());
    let known = manifest.final_names().unwrap();
    assert_eq!((known.v1, known.v2), (names.v1, names.v2));
    assert_eq!(known.roots.iter().flatten().count(), 2666);
    let forged = FinalNames {
        v2: Some(Sha256([9; 32])),
        ..names
    };
    let manifest = signed_final(&genesis, &mut growing().unwrap(), forged);
    assert!(manifest.broken().is_some() && manifest.final_names().is_none());
}

fn report(piece: u32) -> PieceReport {
    let name = piece.to_be_bytes();
    PieceReport {
        piece,
        node: digest::sha256(&name),
        sha1: digest::sha1(&name),
    }
}

fn sha1s(count: u32) -> Vec<Sha1> {
    (0..count).map(|piece| report(piece).sha1).collect()
}

fn v1(growing: &Growing, sha1s: &[Sha1]) -> InfoHash {
    let contents = Contents::of(&growing.genesis, &growing.facts).unwrap();
    InfoHash(digest::sha1(&contents.v1_info(sha1s).unwrap()).0)
}

/// What control signs while pieces arrive at these times (in milliseconds), looked at with every arrival and each 50 ms.
fn play(growing: &mut Growing, arrivals: &[(u64, u32)]) -> Vec<(u64, Signed)> {
    play_leased(growing, arrivals, u32::MAX)
}

/// As [`play`], with a lease for each so many pieces, signed when the first of them comes and held until the last has come.
fn play_leased(growing: &mut Growing, arrivals: &[(u64, u32)], stripe: u32) -> Vec<(u64, Signed)> {
    let count = growing.layout.piece_count();
    let mut held: BTreeMap<u32, (LeaseId, u32)> = BTreeMap::new();
    let mut leases = 0;
    let end = arrivals.last().unwrap().0 + 60_000;
    let mut arrivals = arrivals.iter().peekable();
    let mut signed = Vec::new();
    let mut now = 0;
    while now < end {
        while let Some((_, piece)) = arrivals.next_if(|(at, _)| *at <= now) {
            if stripe < u32::MAX {
                let first = piece / stripe * stripe;
                let pieces = stripe.min(count - first);
                let (_, left) = held.entry(first).or_insert_with(|| {
                    leases += 1;
                    let lease = Lease {
                        lease: LeaseId(leases),
                        relay: key().public(),
                        first,
                        count: pieces,
                        expires_unix_ms: 0,
                    };
                    let records = growing.lease(Time::from_millis(now), 0, lease).unwrap();
                    signed.extend(records.into_iter().map(|record| (now, record)));
                    (LeaseId(leases), pieces)
                });
                *left -= 1;
                held.retain(|_, (_, left)| *left > 0);
            }
            growing
                .note(Time::from_millis(now), &[report(*piece)])
                .unwrap();
        }
        if growing.is_due(Time::from_millis(now)) {
            growing.keep_leases(|lease| held.values().any(|(held, _)| *held == lease));
            let records = growing.sign(Time::from_millis(now), 0, State::Open);
            signed.extend(records.unwrap().into_iter().map(|record| (now, record)));
        }
        let tick = now / 50 * 50 + 50;
        let next = arrivals.peek().map_or(u64::MAX, |(at, _)| *at);
        now = tick.min(next.max(now + 1));
    }
    signed
}

fn bytes(records: &[(u64, Signed)]) -> usize {
    records.iter().map(|(_, signed)| signed.bytes().len()).sum()
}

#[test]
fn a_fact_after_silence_is_signed_at_once() {
    let mut growing = growing(1 << 30);
    let arrivals: Vec<(u64, u32)> = (0..20)
        .map(|piece| (1000 + u64::from(piece) * 600, piece))
        .collect();
    let signed = play(&mut growing, &arrivals);
    for (at, piece) in arrivals {
        let told = signed.iter().find(|(_, signed)| {
            matches!(&signed.record().body, Body::Checkpoint(checkpoint)
                if checkpoint.facts.iter().any(|fact| fact.index == piece && fact.layer == 4))
        });
        assert_eq!(told.unwrap().0, at, "piece {piece}");
    }
    assert_eq!(signed[0].0, 0, "a term begins with a snapshot");
}

#[test]
fn facts_that_come_close_together_share_a_record() {
    let mut growing = growing(1 << 30);
    let arrivals: Vec<(u64, u32)> = (0..400)
        .map(|piece| (1000 + u64::from(piece) * 5, piece))
        .collect();
    let signed = play(&mut growing, &arrivals);
    assert!(signed.len() < 60, "{} records in two seconds", signed.len());
    let longest = arrivals.iter().map(|(at, piece)| {
        let told = signed.iter().find(|(_, signed)| {
            matches!(&signed.record().body, Body::Checkpoint(checkpoint)
                if checkpoint.facts.iter().any(|fact| fact.index == *piece && fact.layer == 4))
        });
        told.unwrap().0 - at
    });
    assert!(longest.max().unwrap() <= 150);
}

/// The bytes of a record but for the hashes of single pieces, which whoever joins would fetch anyway.
fn without_hashes(signed: &Signed) -> usize {
    let hashes = match &signed.record().body {
        Body::Checkpoint(checkpoint) => checkpoint.facts.iter().filter(|fact| fact.layer == 8),
        _ => return signed.bytes().len(),
    };
    signed.bytes().len() - 32 * hashes.count()
}

/// 100 GB at 1 Gbit/s in pieces of 4 MiB, by so many relays, each in its stripes of 16 pieces, with jitter.
fn hundred_gigabytes(relays: u32, seed: u64) -> (u32, Vec<(u64, Signed)>) {
    let length = 100_000_000_000;
    let mut growing = growing(length);
    assert_eq!(growing.layout.piece_length(), 4 << 20);
    let count = growing.layout.piece_count();
    let mut rng = fastrand::Rng::with_seed(seed);
    let stripes = count.div_ceil(16);
    let mut arrivals = Vec::new();
    for relay in 0..relays {
        let mut at = 0.0;
        for stripe in (0..stripes).filter(|stripe| stripe % relays == relay) {
            for piece in stripe * 16..count.min(stripe * 16 + 16) {
                at += 33.554 * f64::from(relays) * (0.5 + rng.f64());
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "milliseconds within a quarter of an hour"
                )]
                arrivals.push((at as u64, piece));
            }
        }
    }
    arrivals.sort_unstable();
    (count, play_leased(&mut growing, &arrivals, 16))
}

#[test]
fn a_hundred_gigabytes_cost_a_follower_two_megabytes_and_a_late_joiner_ten_kilobytes_and_hashes() {
    for relays in [1, 8] {
        let (count, signed) = hundred_gigabytes(relays, 7);
        let live = bytes(&signed);
        let mut records = Records::default();
        let mut largest = 0;
        for (_, signed) in &signed {
            records.insert(signed.clone());
            let joins = records.after(Head::default());
            largest = largest.max(joins.map(without_hashes).sum());
        }
        assert_eq!(records.sealed(), count);
        assert!(live <= 2_000_000, "{relays} relays: {live}");
        // What relays sign themselves of as much, all together: see the test of that in `swarm::gossip`.
        let with_attested = live + 18_000;
        assert!(
            with_attested <= 2_000_000,
            "{relays} relays: {with_attested}"
        );
        assert!(largest <= 10_240, "{relays} relays: {largest}");
    }
}

#[test]
fn any_order_of_reports_gives_the_same_names_which_nodes_verify() {
    for length in [1_u64, 200_000, 262_144, 262_145, 700 * 262_144 + 5] {
        let mut names = Vec::new();
        for seed in 0..3 {
            let mut growing = growing(length);
            let count = growing.layout.piece_count();
            let mut order: Vec<u32> = (0..count).collect();
            let mut rng = fastrand::Rng::with_seed(seed);
            rng.shuffle(&mut order);
            let arrivals: Vec<_> = (0..).map(|at| at * 3).zip(order).collect();
            let mut signed = play(&mut growing, &arrivals);
            let hash = v1(&growing, &sha1s(count));
            let final_names = growing.names(hash, &sha1s(count)).unwrap();
            let state = State::Final(Box::new(final_names.clone()));
            let ends = growing.sign(Time::from_millis(1), 0, state).unwrap();
            signed.extend(ends.into_iter().map(|record| (0, record)));

            // Nodes get them in any order too.
            rng.shuffle(&mut signed);
            let mut node = Manifest::new(genesis(length), Accept::Sealed).unwrap();
            for (_, signed) in &signed {
                node.apply(signed).unwrap();
            }
            assert_eq!(node.final_names(), Some(&final_names), "length {length}");
            names.push(final_names);
        }
        assert!(names.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(names[0].v2.is_some() && names[0].hybrid.is_some());
    }
}

#[test]
fn a_new_term_goes_on_from_the_pieces_that_are_known() {
    let length = 600 * 262_144;
    let mut before = growing(length);
    let pieces: Vec<_> = (0..590).map(report).collect();
    before.note(Time::ZERO, &pieces).unwrap();
    let mut node = Manifest::new(genesis(length), Accept::Sealed).unwrap();
    for signed in before.sign(Time::ZERO, 0, State::Open).unwrap() {
        node.apply(&signed).unwrap();
    }
    // Ten more are known, but control dies before they are signed.
    let mut known = PieceTable::new(600);
    let relay = NodeId([3; 16]);
    for piece in (0..600).map(report) {
        known.insert(relay, piece.piece, (piece.node, piece.sha1));
    }
    let mut after =
        Growing::new(genesis(length), None, &key(), 6, Some(&known), Time::ZERO).unwrap();
    assert!(after.is_due(Time::ZERO));
    for signed in after.sign(Time::ZERO, 0, State::Open).unwrap() {
        node.apply(&signed).unwrap();
    }
    assert_eq!(node.head(), Head { term: 6, seq: 1 });
    assert!(
        node.facts().is_complete(),
        "all of them follow from a snapshot"
    );
}

#[test]
fn control_signs_only_what_its_key_is_good_for() {
    let other = SecretKey::from_seed(&[2; 32]);
    assert!(Growing::new(genesis(1000), None, &other, 1, None, Time::ZERO).is_none());
    let mut growing = growing(1000);
    assert!(
        growing.note(Time::ZERO, &[report(1)]).is_err(),
        "no such piece"
    );
    let reason = EndReason::OriginGone;
    let ends = growing.sign(Time::ZERO, 0, State::Aborted(reason)).unwrap();
    let mut node = Manifest::new(genesis(1000), Accept::Sealed).unwrap();
    for signed in &ends {
        node.apply(signed).unwrap();
    }
    assert_eq!(*node.state(), State::Aborted(reason));
}
