use std::collections::BTreeMap;

use super::*;
use crate::PieceIndex;
use crate::facts::{Accept, PieceSpace};
use crate::merkle::piece_node;
use crate::metainfo::{Info, info_bytes};
use crate::record::{Fact, FinalNames, LeaseId, OriginDigest};

const PIECE: u32 = 64 << 10;

#[expect(clippy::cast_possible_truncation, reason = "the low byte is meant")]
fn data(length: u64, seed: u64) -> Vec<u8> {
    (0..length)
        .map(|at| (at * 31 + seed * 7 + (at >> 8) * 13) as u8)
        .collect()
}

fn name(name: &str) -> SafeName {
    SafeName::new(name).unwrap()
}

/// A content of these files, its facts learnt piece by piece in random order, and the SHA-1s of its pieces.
fn learnt(files: &[(&str, u64, u64)], folder: &str, seed: u64) -> (Contents, FactStore, Vec<Sha1>) {
    let contents = Contents {
        name: name(folder),
        files: files
            .iter()
            .map(|(path, length, _)| (path.split('/').map(name).collect(), *length))
            .collect(),
        piece_length: PIECE,
        private: true,
        source: String::new(),
    };
    let lengths: Vec<_> = files.iter().map(|file| Some(file.1)).collect();
    let space = PieceSpace::new(PIECE, &lengths).unwrap();
    let mut facts = Vec::new();
    let mut sha1s = BTreeMap::new();
    for (index, (_, length, seed)) in (0..).zip(files) {
        let layout = Layout::new(Some(*length), PIECE).unwrap();
        for (number, bytes) in (0..).zip(data(*length, *seed).chunks(PIECE as usize)) {
            let fact = Fact {
                file: index,
                layer: crate::merkle::piece_layer(&layout).unwrap(),
                index: number,
                hash: piece_node(bytes, &layout, PieceIndex(number)).unwrap(),
            };
            facts.push(fact);
            let mut padded = bytes.to_vec();
            if contents.single().is_none() {
                padded.resize(PIECE as usize, 0);
            }
            sha1s.insert((index, number), digest::sha1(&padded));
        }
    }
    fastrand::Rng::with_seed(seed).shuffle(&mut facts);
    let mut store = FactStore::new(space, Accept::Sealed);
    for (at, fact) in facts.iter().enumerate() {
        assert!(!store.is_complete(), "{at} of {}", facts.len());
        store.attest(LeaseId(1), fact).unwrap();
        store.seal(fact).unwrap();
    }
    assert!(store.is_complete());
    (contents, store, sha1s.into_values().collect())
}

fn names(contents: &Contents, facts: &FactStore, sha1s: &[Sha1]) -> FinalNames {
    let files = 0..u16::try_from(contents.files.len()).unwrap();
    let roots: Vec<_> = files.map(|file| facts.pieces_root(file)).collect();
    let hybrid = contents.hybrid_info(sha1s, &roots).unwrap();
    FinalNames {
        v1: Some(InfoHash(digest::sha1(&contents.v1_info(sha1s).unwrap()).0)),
        v2: Some(digest::sha256(&contents.v2_info(&roots).unwrap())),
        hybrid: Some((InfoHash(digest::sha1(&hybrid).0), digest::sha256(&hybrid))),
        roots,
        origin_digest: OriginDigest::Absent,
    }
}

/// Length of one file in pieces of 64 KiB, and the info-hashes that libtorrent 2.1.1 gives it: v1, v2, v1 of the hybrid.
const LIBTORRENT: &[(u64, &str, &str, &str)] = &[
    (
        1,
        "7682ce69ae3b8a80fd9be05674f8010f0b849301",
        "fdd7d6e8d03373fb5d9c293c6f4ef0d513706d283b75e76a1d6f97dfb0ba0249",
        "228af4be6c26d31b4f5132d5c1307918b3644ea6",
    ),
    (
        16_383,
        "aa0e081401cd49db9cd33c90c19889691ab41c0f",
        "37509f770f04d446b40d31544af53f6749ac5facb48cfb3c98e267754750dcd2",
        "eaa9bff2f7d0c4215aba6fee890b2263b6b15dfd",
    ),
    (
        16_384,
        "8bcb5036b7f1d7a9e63c1f5b253a12c8a411f09f",
        "00b6dbe34af81f26173312a00d7ba0e2a0341601cef34e4550b2cf9a39eb23d1",
        "02238866a793b6cdcda8a280bac5b19710cbe252",
    ),
    (
        16_385,
        "c1d8febf4b8bfaf5ce581801cf18b24ad684ec61",
        "1009fccce66bbfe49c9c5db390e822dcc639eb7a149004d2f721209f8cea76c3",
        "d4e5714f9b35b238e8dee5c2fd26f134ce025ec1",
    ),
    (
        65_535,
        "db672d2c343991d02605581caa4f8518cdfc7d2f",
        "6769d2b257179903856de44b38b15741356c6d89fe2b2e6cddf3a8cd9468bcd5",
        "d3c9000923354da2f488ac3665bf148a73df5e92",
    ),
    (
        65_536,
        "453f0801fd2280d49ad8bde11ed8b0913dce330e",
        "41d43b29c559bf4e8b17616535d8886eeb62a8819d6c7bc0285b2f39635bd5f5",
        "d1497bb574632a8e8cd1f32881f0ff6f68caffac",
    ),
    (
        65_537,
        "23019d751125d9564691eb58ad56c980b54042d2",
        "9f39c98e896d2bd18639e8b873ce942a7f08ad34ad5f2d38d36c02308e6830d5",
        "9228d9a953de1f6a97c763ac359d5f70cf8ca42a",
    ),
    (
        131_071,
        "90780691b585deccd3c9b23c824a565ec2bb29e5",
        "478b6f14c344d046a45c7be3370878943bc3d7abe41ee851ed1824d2d1eb2ecc",
        "86dc90a7fca0392694fa5467f9c4b385d3bed381",
    ),
    (
        131_072,
        "0c98b3a44131229f7e2a8e2cd0aafc1e086a42c3",
        "4bfc8210a16284365742199a88c6a2842208cc60b7ca6a552c71a665c9f2d574",
        "25749eefeffdb72cab68c1668ca3f8bbeadb5b01",
    ),
    (
        131_073,
        "8764efcd88e70559a6ce39aabd22700971a272c3",
        "0052ef24486f20235a51bb4af676e815c7cf9f44a4b7ec2589c1736b27c663e7",
        "241f00e362c635b90f493ec2942397b79a9d8439",
    ),
    (
        262_143,
        "73026306be02be534af010024ecf6702a1306b28",
        "9879fd21dae238c239e466e04f95833e60dd0b9946906cca89ded85e9725a010",
        "ea19fbccef76d24212cf5f019108ee6d20f72eae",
    ),
    (
        262_144,
        "4826f90e14540d4cd98749d0a055577a52c502e3",
        "1adf56ac4c5ade321414ea122894ba33f7a09c6c0b8f964bdc483a8e12e60838",
        "e1cec88fa5dae71c128a6d737ea3257caebb114b",
    ),
    (
        262_145,
        "0fe4bcad747df33ec56f96aa75a17b8149f38e95",
        "e21efb98f5a5aa7bb23eb2c3db5e71bd9859f0df60199b54580f6c1bdecad073",
        "c6aed2f0e5b2cd9e13f4559c18aebb1258e00406",
    ),
];

#[test]
fn every_flavour_has_the_info_hash_that_libtorrent_gives_it() {
    for &(length, v1, v2, hybrid) in LIBTORRENT {
        let (contents, facts, sha1s) =
            learnt(&[("disk.img", length, length % 251)], "disk.img", length);
        let names = names(&contents, &facts, &sha1s);
        assert_eq!(names.v1.unwrap().to_string(), v1, "v1 of {length}");
        assert_eq!(names.v2.unwrap().to_string(), v2, "v2 of {length}");
        assert_eq!(
            names.hybrid.unwrap().0.to_string(),
            hybrid,
            "hybrid of {length}"
        );
        // One encoder for our own torrents and for those of others.
        let info = Info {
            name: name("disk.img"),
            length,
            files: Vec::new(),
            piece_length: PIECE,
            pieces: sha1s.clone().into(),
            private: true,
        };
        assert_eq!(info_bytes(&info), contents.v1_info(&sha1s).unwrap());
        assert_eq!(contents.verify(&facts, &names), Ok(()));
        assert_eq!(contents.verify_v1(&names, &sha1s), Ok(()));
    }
}

#[test]
fn folders_have_the_info_hashes_that_libtorrent_gives_them() {
    let p = u64::from(PIECE);
    let files: &[(&str, u64, u64)] = &[
        ("a/x", p + 5, 1),
        ("a/y/z", 3 * p, 2),
        ("b", 0, 3),
        ("c", 1, 4),
        ("d", 2 * p - 16384, 5),
    ];
    let (contents, facts, sha1s) = learnt(files, "bundle", 1);
    let names = names(&contents, &facts, &sha1s);
    assert_eq!(
        names.v2.unwrap().to_string(),
        "63d73e12a120d70db0f7bf86b09e3d8d0e63d2b58f4df8dc220b29e4b4c954d1"
    );
    assert_eq!(
        names.hybrid.unwrap().0.to_string(),
        "639394b3729079d7385d8452cc7c4066df2b3231"
    );
    assert_eq!(names.roots[2], None);
    let (contents, facts, sha1s) = learnt(&[("a", p + 5, 1), ("b", 0, 2)], "bundle", 1);
    let names = self::names(&contents, &facts, &sha1s);
    assert_eq!(
        names.hybrid.unwrap().0.to_string(),
        "56eedd2d66e934962944ccd06d523dff298facd7"
    );
    assert_eq!(contents.verify(&facts, &names), Ok(()));
}

#[test]
fn an_empty_content_has_names_too() {
    let (contents, facts, sha1s) = learnt_empty();
    let names = names(&contents, &facts, &sha1s);
    assert_eq!(names.roots, [None]);
    assert_eq!(contents.verify(&facts, &names), Ok(()));
    let info = contents.v2_info(&names.roots).unwrap();
    assert_eq!(
        info,
        b"d9:file treed1:ed0:d6:lengthi0eeee12:meta versioni2e4:name1:e12:piece lengthi65536e7:privatei1ee"
    );
}

fn learnt_empty() -> (Contents, FactStore, Vec<Sha1>) {
    let space = PieceSpace::new(PIECE, &[Some(0)]).unwrap();
    let facts = FactStore::new(space, Accept::Sealed);
    assert!(facts.is_complete());
    let contents = Contents {
        name: name("e"),
        files: vec![(vec![name("e")], 0)],
        piece_length: PIECE,
        private: true,
        source: String::new(),
    };
    (contents, facts, Vec::new())
}

#[test]
fn false_names_are_found() {
    let p = u64::from(PIECE);
    let (contents, facts, sha1s) = learnt(&[("a", 2 * p, 1), ("b", 5, 2)], "bundle", 1);
    let good = names(&contents, &facts, &sha1s);
    let mut wrong = good.clone();
    wrong.roots[1] = Some(Sha256([1; 32]));
    assert_eq!(contents.verify(&facts, &wrong), Err(NamesError::Root(1)));
    wrong.roots.pop();
    let error = NamesError::Files {
        found: 1,
        expected: 2,
    };
    assert_eq!(contents.verify(&facts, &wrong), Err(error));
    let wrong = FinalNames {
        v2: Some(Sha256([1; 32])),
        ..good.clone()
    };
    assert_eq!(
        contents.verify(&facts, &wrong),
        Err(NamesError::InfoHash("v2"))
    );
    // A lying relay poisons only the v1 names, and they are found out before anybody offers them (T21).
    let mut poisoned = sha1s.clone();
    poisoned[0] = Sha1([1; 20]);
    assert_eq!(
        contents.verify_v1(&good, &poisoned),
        Err(NamesError::InfoHash("v1"))
    );
    let only_hybrid = FinalNames {
        v1: None,
        ..good.clone()
    };
    assert_eq!(
        contents.verify_v1(&only_hybrid, &poisoned),
        Err(NamesError::InfoHash("hybrid"))
    );
    let error = NamesError::Pieces {
        found: 1,
        expected: 3,
    };
    assert_eq!(contents.verify_v1(&good, &sha1s[..1]), Err(error));
    assert_eq!(
        contents.small_roots(&good).unwrap(),
        [(1, 0, good.roots[1].unwrap())]
    );
}
