use proptest::prelude::*;

use super::*;

/// A genesis of one file, for the tests of all that builds on it.
pub(crate) fn genesis() -> Genesis {
    Genesis {
        created_unix_s: 1_800_000_000,
        final_torrents: FinalTorrents {
            flavors: Flavors::V1,
            private: true,
            source: String::new(),
        },
        keys: Vec::new(),
        files: vec![GenesisFile {
            path: vec![SafeName::new("disk.img").unwrap()],
            length: Some(1 << 30),
            url_suffix: String::new(),
            etag: r#""abc""#.into(),
            last_modified: String::new(),
            version: String::new(),
        }],
        name: SafeName::new("disk.img").unwrap(),
        nonce: [3; 16],
        origin: OriginIdentity {
            etag: r#""abc""#.into(),
            last_modified: "Sun, 01 Nov 2026 00:00:00 GMT".into(),
            url_hash: digest::sha256(b"http://o/disk.img"),
            version: String::new(),
        },
        piece_length: 256 << 10,
        strong: true,
        trust: 0,
    }
}

/// The canonical bytes with one stretch replaced.
fn edited(from: &str, to: &str) -> Result<Genesis, GenesisError> {
    let mut bytes = genesis().encode();
    let at = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes());
    let at = at.unwrap_or_else(|| panic!("{from} is not in the genesis"));
    bytes.splice(at..at + from.len(), to.bytes());
    Genesis::decode(&bytes)
}

#[test]
fn a_genesis_round_trips_and_its_hash_is_the_sid() {
    let genesis = genesis();
    let bytes = genesis.encode();
    assert_eq!(genesis.sid(), Sid(digest::sha256(&bytes).0));
    assert_eq!(Genesis::decode(&bytes), Ok(genesis.clone()));
    assert_eq!(genesis.layout().unwrap().piece_count(), 4096);
    let unknown = Genesis {
        files: vec![GenesisFile {
            length: None,
            ..genesis.files[0].clone()
        }],
        ..genesis
    };
    assert_eq!(unknown.length(), None);
    assert_eq!(Genesis::decode(&unknown.encode()), Ok(unknown));
}

#[test]
fn a_genesis_may_be_of_a_folder() {
    let file = |path: &str, length| GenesisFile {
        path: path
            .split('/')
            .map(|name| SafeName::new(name).unwrap())
            .collect(),
        length: Some(length),
        url_suffix: path.into(),
        etag: r#""x""#.into(),
        last_modified: String::new(),
        version: String::new(),
    };
    let folder = Genesis {
        files: vec![file("a/b", 300_000), file("a/c", 0), file("d", 1)],
        ..genesis()
    };
    assert_eq!(Genesis::decode(&folder.encode()), Ok(folder.clone()));
    let layout = folder.layout().unwrap();
    assert_eq!((layout.length(), layout.piece_count()), (Some(300_001), 3));
    assert!(folder.is_folder() && !genesis().is_folder());
    // One file that is not called like the content is a folder of one file.
    let one = Genesis {
        files: vec![file("d", 1)],
        ..genesis()
    };
    assert!(Genesis::decode(&one.encode()).unwrap().is_folder());
}

/// A folder of so many small files.
fn many(count: usize) -> Genesis {
    let file = |file| {
        let path = format!(
            "some folder {:03}/a file with a name {file:05}.bin",
            file / 100
        );
        let path = crate::files::parse_path(&path).unwrap();
        GenesisFile {
            url_suffix: crate::files::url_suffix(&path),
            path,
            length: Some(7),
            etag: r#""5f3c8a1b-1a2b3c4d""#.into(),
            last_modified: String::new(),
            version: String::new(),
        }
    };
    Genesis {
        files: (0..count).map(file).collect(),
        ..genesis()
    }
}

#[test]
fn many_files_are_listed_beside_the_record() {
    let pair = |record: &[u8], list: &[u8]| {
        let parts = [Item::Bytes(record), Item::Bytes(list)];
        Genesis::decode(&Item::List(parts.into()).encode())
    };
    let folder = many(2000);
    let (record, list) = folder.parts();
    let list = list.unwrap();
    assert_eq!(pair(&record, &list), Ok(folder.clone()));
    assert_eq!(Genesis::decode(&folder.encode()), Ok(folder.clone()));
    assert_eq!(folder.sid(), Sid(digest::sha256(&record).0));
    assert!(record.len() < 1000);
    // The record names its list.
    let other = many(2001).parts().1.unwrap();
    for list in [&other[..], &list[1..], b""] {
        assert_eq!(pair(&record, list), Err(GenesisError::OtherList));
    }
    assert_eq!(Genesis::decode(&record), Err(GenesisError::OtherList));
    // Of another content nothing is looked at, however wrong it is.
    let (sid, encoded) = (folder.sid(), folder.encode());
    assert_eq!(Genesis::decode_of(sid, &encoded), Ok(folder.clone()));
    let other = Item::List(vec![Item::Bytes(b"de"), Item::Bytes(&list)]).encode();
    for other in [many(3).encode(), other, b"i1e".to_vec()] {
        let decoded = Genesis::decode_of(sid, &other);
        assert_eq!(decoded, Err(GenesisError::OtherContent));
    }
    // One content has one form.
    let few = many(3);
    let (inner, _) = few.parts();
    let list = Item::List(few.files.iter().map(GenesisFile::item).collect()).encode();
    let hash = digest::sha256(&list);
    let outer = few.record((FILES_HASH, Item::Bytes(&hash.0)), WITH_LIST);
    for record in [&inner, &outer] {
        assert_eq!(pair(record, &list), Err(GenesisError::NotCanonical));
    }
    assert_eq!(Genesis::decode(&inner), Ok(few));
}

#[test]
fn as_many_files_as_may_be_fit() {
    let most = many(FILES_LIMIT);
    assert_eq!(Genesis::decode(&most.encode()).as_ref(), Ok(&most));
    let more = Genesis::decode(&many(FILES_LIMIT + 1).encode());
    let count = FilesError::Count(FILES_LIMIT + 1);
    assert_eq!(more, Err(GenesisError::Files(count)));
}

#[test]
fn the_format_does_not_change() {
    // A changed encoding would give every content of an existing database another sid.
    let text = concat!(
        r#"d7:createdi1800000000e5:filesld4:etag5:\"abc\"6:lengthi1073741824e4:pathl8:disk.imge3:url0:3:ver0:ee"#,
        r#"5:finald7:flavors1:17:privatei1e6:source0:e4:keysle4:name8:disk.img"#,
        r#"5:nonce16:\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x036:origind4:etag5:\"abc\""#,
        r#"2:lm29:Sun, 01 Nov 2026 00:00:00 GMT8:url-hash32:d-\x8aE\x93R\xdd\xf8\xd3\xb9\xde\xda\x84(\x8dE_#\x0cn"#,
        r#"\xdb\xf0Y\xb7\xaet%\xae:\xe3\xce\xff3:ver0:e12:piece lengthi262144e6:strongi1e5:trusti0e1:vi1ee"#,
    );
    assert_eq!(genesis().encode().escape_ascii().to_string(), text);
    assert_eq!(
        genesis().sid().to_string(),
        "caed4466f41fd85b1af12706972f7ef5b5b4353807aeaed8f41d8fe5560a1268"
    );
}

#[test]
fn another_nonce_is_another_swarm() {
    let other = Genesis {
        nonce: [4; 16],
        ..genesis()
    };
    assert_ne!(other.sid(), genesis().sid());
}

#[test]
fn every_field_is_checked() {
    for (from, to, message) in [
        ("1:vi1e", "1:vi2e", "`files hash` is missing"),
        (
            "1:vi1e",
            "1:vi3e",
            "the genesis has version 3; this Floodway knows versions 1 and 2",
        ),
        ("1:vi1e", "1:wi1e", "`v` is missing"),
        ("7:createdi18", "7:createdi-8", "`created` is out of range"),
        (
            "7:flavors1:1",
            "7:flavors1:3",
            "`final.flavors` is out of range",
        ),
        (
            "7:privatei1e",
            "7:privatei2e",
            "`final.private` is out of range",
        ),
        ("4:keysle", "4:keysl1:ae", "`keys` is not 32 bytes long"),
        ("4:name8:disk.img", "4:name2:..", r#"".." is reserved"#),
        ("4:pathl8:disk.imge", "4:pathl3:a/be", "contains '/'"),
        (
            "4:pathl8:disk.imge",
            "4:pathle",
            "`files`: ``: a path of 0 names",
        ),
        (
            "6:lengthi1073741824e",
            "6:lengthi-1e",
            "`files.length` is out of range",
        ),
        ("5:nonce16:", "5:nonce15:", "not valid bencoding"),
        (
            "12:piece lengthi262144e",
            "12:piece lengthi1000e",
            "`piece length`",
        ),
        (
            "12:piece lengthi262144e",
            "12:piece lengthi49152e",
            "not a power of two",
        ),
        ("6:strongi1e", "6:strong1:x", "`strong` is not an integer"),
        ("5:trusti0e", "5:trusti256e", "`trust` is out of range"),
        ("1:vi1ee", "1:vi1e1:xi0ee", "canonical"),
        ("1:vi1ee", "1:ui0e1:vi1ee", "canonical"),
        ("5:trusti0e1:vi1ee", "1:vi1e5:trusti0ee", "canonical"),
        ("1:vi1ee", "1:vi1eex", "something follows the end"),
        (
            "12:piece lengthi262144e6:strong",
            "12:piece lengthi16384e5:weak!",
            "`strong` is missing",
        ),
        (
            "6:lengthi1073741824e",
            "6:lengthi549755813889e",
            "asks for 2097153 pieces, more than the limit of 2097152",
        ),
    ] {
        let error = edited(from, to).expect_err(to).to_string();
        assert!(error.contains(message), "{to}: {error}");
    }
    let files = |files| {
        let genesis = Genesis { files, ..genesis() };
        Genesis::decode(&genesis.encode())
    };
    let clash = FilesError::Clash {
        first: "disk.img".into(),
        second: "disk.img".into(),
    };
    let file = genesis().files[0].clone();
    let twice = vec![file.clone(), file.clone()];
    assert_eq!(files(twice), Err(GenesisError::Files(clash)));
    let count = FilesError::Count(0);
    assert_eq!(files(Vec::new()), Err(GenesisError::Files(count)));
    let path = vec![SafeName::new("a").unwrap()];
    let endless = GenesisFile {
        length: None,
        path,
        ..file.clone()
    };
    let unknown = FilesError::UnknownLength("a".into());
    assert_eq!(
        files(vec![endless, file]),
        Err(GenesisError::Files(unknown))
    );
    assert!(
        Genesis::decode(&vec![b'd'; 70_000])
            .unwrap_err()
            .to_string()
            .contains("limit of 65536")
    );
    assert_eq!(
        Genesis::decode(b"le").unwrap_err().to_string(),
        "the genesis is malformed: `genesis` is not a dict"
    );
}

proptest! {
    #[test]
    fn any_genesis_round_trips(
        created_unix_s in 0..=i64::MAX.unsigned_abs(),
        keys in prop::collection::vec(any::<[u8; 32]>(), 0..4),
        (v1, v2, hybrid, private, strong) in any::<(bool, bool, bool, bool, bool)>(),
        source in "\\PC{0,20}",
        etag in "\\PC{0,20}",
        length in prop::option::of(0u64..1 << 35),
        layer in 0u32..12,
        trust in any::<u8>(),
    ) {
        let flavors = Flavors { v1, v2, hybrid };
        let base = genesis();
        let genesis = Genesis {
            created_unix_s,
            final_torrents: FinalTorrents { flavors, private, source },
            keys,
            files: vec![GenesisFile { length, etag, ..base.files[0].clone() }],
            piece_length: (16 << 10) << layer,
            strong,
            trust,
            ..base
        };
        prop_assert_eq!(Genesis::decode(&genesis.encode()), Ok(genesis));
    }

    #[test]
    fn what_is_accepted_is_canonical(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = genesis().encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(genesis) = Genesis::decode(&bytes) {
            prop_assert_eq!(genesis.encode(), bytes.clone());
        }
        prop_assert!(Genesis::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }
}
