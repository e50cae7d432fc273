use proptest::prelude::*;

use super::*;

fn info(length: u64, piece_length: u32) -> Info {
    let count = length.div_ceil(u64::from(piece_length));
    Info {
        name: SafeName::new("disk.img").unwrap(),
        length,
        files: Vec::new(),
        piece_length,
        pieces: (0..count)
            .map(|index| digest::sha1(&index.to_be_bytes()))
            .collect(),
        private: true,
    }
}

/// A torrent with this info dict.
fn torrent(info: &str) -> Vec<u8> {
    format!("d4:info{info}e").into_bytes()
}

fn refused(info: &str) -> String {
    Metainfo::decode(&torrent(info))
        .expect_err("must be refused")
        .to_string()
}

const PIECE: &str = "6:pieces20:01234567890123456789";

#[test]
fn a_torrent_has_the_bytes_that_others_make() {
    let info = Info {
        name: SafeName::new("a").unwrap(),
        length: 5,
        files: Vec::new(),
        piece_length: 16384,
        pieces: [Sha1(*b"01234567890123456789")].into(),
        private: false,
    };
    assert_eq!(
        info_bytes(&info),
        b"d6:lengthi5e4:name1:a12:piece lengthi16384e6:pieces20:01234567890123456789e"
    );
    let mut metainfo = Metainfo::new(Info {
        private: true,
        ..info
    })
    .unwrap();
    metainfo.trackers = vec![vec!["http://t/announce".into()]];
    metainfo.web_seeds = vec!["http://w/a".into()];
    metainfo.comment = Some("c".into());
    metainfo.created_by = Some("f".into());
    metainfo.creation_date = Some(7);
    let bytes = metainfo.encode();
    assert_eq!(
        String::from_utf8_lossy(&bytes),
        "d8:announce17:http://t/announce7:comment1:c10:created by1:f13:creation datei7e4:infod6:lengthi5e4:name1:a12:piece \
         lengthi16384e6:pieces20:012345678901234567897:privatei1ee8:url-listl10:http://w/aee"
    );
    assert_eq!(Metainfo::decode(&bytes), Ok(metainfo));
}

#[test]
fn the_info_hash_is_that_of_the_bytes_as_they_came() {
    // Unsorted and with a key that we do not know.
    let raw = format!("d4:name1:a6:lengthi5e{PIECE}12:piece lengthi16384e1:xi0ee");
    let metainfo = Metainfo::decode(&torrent(&raw)).unwrap();
    assert_eq!(metainfo.raw_info, raw);
    assert_eq!(metainfo.info_hash, InfoHash(digest::sha1(raw.as_bytes()).0));
    assert_ne!(info_bytes(&metainfo.info), raw.as_bytes());
    assert_eq!(Metainfo::decode(&metainfo.encode()), Ok(metainfo));
}

#[test]
fn trackers_and_web_seeds_are_read_in_every_form() {
    let info = format!("d6:lengthi5e4:name1:a12:piece lengthi16384e{PIECE}e");
    let read = |before: &str, after: &str| {
        Metainfo::decode(format!("d{before}4:info{info}{after}e").as_bytes())
    };
    let trackers = |before: &str| read(before, "").unwrap().trackers;
    assert_eq!(trackers("8:announce1:a"), [["a"]]);
    assert_eq!(
        trackers("8:announce1:a13:announce-listll1:b1:cel1:dee"),
        [vec!["b", "c"], vec!["d"]]
    );
    assert_eq!(trackers("8:announce1:a13:announce-listll0:ee"), [["a"]]);
    assert!(trackers("8:announce0:").is_empty());
    let web_seeds = |after: &str| read("", after).unwrap().web_seeds;
    assert_eq!(web_seeds("8:url-list3:u v"), ["u v"]);
    assert_eq!(web_seeds("8:url-listl1:u0:1:ve"), ["u", "v"]);
    assert!(web_seeds("8:url-list0:").is_empty() && web_seeds("").is_empty());
    for (before, after, text) in [
        ("8:announcei1e", "", "`announce` is not UTF-8 text"),
        ("13:announce-listl1:ae", "", "`announce-list` is not a list"),
        (
            "13:announce-listlli1eee",
            "",
            "`announce-list` is not UTF-8 text",
        ),
        ("", "8:url-listi1e", "`url-list` is not a list"),
        ("", "8:url-listli1ee", "`url-list` is not UTF-8 text"),
    ] {
        let error = read(before, after).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the torrent is malformed: {text}")
        );
    }
    let many = format!("13:announce-listl{}e", "l1:ae".repeat(1001));
    assert!(read(&many, "").is_err());
    let many = format!(
        "13:announce-listll{}e{}e",
        "1:a".repeat(600),
        "l1:ae".repeat(401)
    );
    assert!(
        read(&many, "")
            .unwrap_err()
            .to_string()
            .contains("`announce-list`")
    );
}

#[test]
fn what_is_not_supported_yet_says_so() {
    let files = |files: &str, pieces: &str| {
        refused(&format!(
            "d5:filesl{files}e4:name1:a12:piece lengthi16384e{pieces}e"
        ))
    };
    assert!(files("", "6:pieces0:").contains("`info.files`: a folder has 1 to"));
    let x = "d6:lengthi5e4:pathl1:xee";
    let pad = |length| format!("d4:attr1:p6:lengthi{length}e4:pathl4:.pad1:1ee");
    let shared = "only where each is padded to whole pieces";
    let y = "d6:lengthi5e4:pathl1:yee";
    for list in [
        x.to_owned(),
        format!("{x}{y}"),
        format!("{x}{}", pad(7)),
        format!("{}{x}", pad(5)),
        format!("{y}{}{x}{}", pad(16379), pad(16379)),
    ] {
        let error = files(&list, PIECE);
        assert!(error.contains(shared), "{list}: {error}");
    }
    let twice = format!("{x}{}{x}{}", pad(16379), pad(16379));
    assert!(files(&twice, PIECE).contains("cannot lie in one folder"));
    let evil = format!("d6:lengthi5e4:pathl2:..ee{}", pad(16379));
    assert!(files(&evil, PIECE).contains("reserved"));
    let short = format!("{x}{}{y}{}", pad(16379), pad(16379));
    assert!(files(&short, PIECE).contains("need 40"));
    let v2 = refused("d9:file treede12:meta versioni2e4:name1:a12:piece lengthi16384ee");
    assert!(
        v2.contains("v2-only torrents are not supported yet"),
        "{v2}"
    );
    // A hybrid of one file is read by its v1 half.
    let hybrid = format!(
        "d9:file treede6:lengthi5e12:meta versioni2e4:name1:a12:piece lengthi16384e{PIECE}e"
    );
    assert_eq!(Metainfo::decode(&torrent(&hybrid)).unwrap().info.length, 5);
}

#[test]
fn every_field_is_checked() {
    let with = |name: &str, length: &str, piece: &str, pieces: &str| {
        refused(&format!(
            "d6:length{length}4:name{name}12:piece length{piece}{pieces}e"
        ))
    };
    for (text, expected) in [
        (
            refused("d4:name1:a12:piece lengthi16384e6:pieces0:e"),
            "`info.length` is missing",
        ),
        (refused("le"), "`info` is not a dict"),
        (
            with("1:a", "i-5e", "i16384e", PIECE),
            "`info.length` is out of range",
        ),
        (
            with("1:a", "1:5", "i16384e", PIECE),
            "`info.length` is not an integer",
        ),
        (
            with("2:..", "i5e", "i16384e", PIECE),
            r#"the file name ".." is reserved"#,
        ),
        (with("3:a/b", "i5e", "i16384e", PIECE), "contains '/'"),
        (with("1:\u{7f}", "i5e", "i16384e", PIECE), "not allowed"),
        (with("0:", "i5e", "i16384e", PIECE), "empty"),
        (with("1:a", "i5e", "i0e", PIECE), "`info.piece length`"),
        (
            with("1:a", "i5e", "i16385e", PIECE),
            "16385 bytes is not a multiple of the block length of 16384",
        ),
        (
            with("1:a", "i5e", "i134217728e", PIECE),
            "between 16 KiB and 64 MiB",
        ),
        (
            with("1:a", "i5e", "i4294967296e", PIECE),
            "`info.piece length` is out of range",
        ),
        (
            with("1:a", "i9223372036854775807e", "i16384e", PIECE),
            "more pieces than",
        ),
        (
            with("1:a", "i16385e", "i16384e", PIECE),
            "`info.pieces` has 20 bytes; 16385 bytes in pieces of 16384 need 40",
        ),
        (with("1:a", "i0e", "i16384e", PIECE), "need 0"),
        (
            with("1:a", "i5e", "i16384e", "6:pieces19:0123456789012345678"),
            "has 19 bytes",
        ),
        (
            with("1:a", "i5e", "i16384e", "6:piecesi5e"),
            "`info.pieces` is not a byte string",
        ),
    ] {
        assert!(text.contains(expected), "{text:?} lacks {expected:?}");
    }
    let error = |bytes: &[u8]| Metainfo::decode(bytes).unwrap_err().to_string();
    assert_eq!(error(b"de"), "the torrent is malformed: `info` is missing");
    assert_eq!(
        error(b"i1e"),
        "the torrent is malformed: `torrent` is not a dict"
    );
    assert_eq!(
        error(b"<html>"),
        "this is no torrent file: not valid bencoding at byte 0: no value begins with byte 0x3c"
    );
    assert!(error(&vec![b'0'; (64 << 20) + 1]).contains("limit of 67108864"));
    let bad_utf8 =
        b"d4:infod6:lengthi5e4:name1:\xff12:piece lengthi16384e6:pieces20:01234567890123456789ee";
    assert!(error(bad_utf8).contains("`info.name` is not UTF-8 text"));
}

#[test]
fn remarks_of_no_consequence_are_read_leniently() {
    let info = format!("d6:lengthi5e4:name1:a12:piece lengthi16384e{PIECE}e");
    let mut bytes = b"d7:comment2:a\xff10:created byi1e13:creation datei-1e4:info".to_vec();
    bytes.extend_from_slice(format!("{info}e").as_bytes());
    let read = Metainfo::decode(&bytes).unwrap();
    assert_eq!(read.comment.as_deref(), Some("a\u{fffd}"));
    assert_eq!((read.created_by, read.creation_date), (None, None));
}

#[test]
fn the_name_in_utf8_wins() {
    let raw = format!("d6:lengthi5e4:name2:\u{80}10:name.utf-81:b12:piece lengthi16384e{PIECE}e");
    assert_eq!(
        Metainfo::decode(&torrent(&raw)).unwrap().info.name.as_str(),
        "b"
    );
}

#[test]
fn a_torrent_of_nothing_or_of_odd_pieces_works() {
    for (length, piece_length) in [
        (0, 16384),
        (1, 16384),
        (100_000, 3 * 16384),
        (5 << 30, 1 << 20),
    ] {
        let metainfo = Metainfo::new(info(length, piece_length)).unwrap();
        assert_eq!(Metainfo::decode(&metainfo.encode()), Ok(metainfo.clone()));
        let layout = metainfo.info.layout().unwrap();
        assert_eq!(layout.piece_count() as usize, metainfo.info.pieces.len());
    }
    assert!(matches!(
        Metainfo::new(info(5, 1000)),
        Err(MetainfoError::PieceLength(_))
    ));
    let short = Info {
        length: 20_000,
        ..info(5, 16384)
    };
    assert!(matches!(
        Metainfo::new(short),
        Err(MetainfoError::Pieces { .. })
    ));
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        length in 0u64..1 << 24,
        blocks in 1u32..20,
        private in any::<bool>(),
        trackers in prop::collection::vec(prop::collection::vec("[a-z:/]{1,20}", 1..4), 0..4),
        web_seeds in prop::collection::vec("[a-z:/]{1,20}", 0..4),
        comment in prop::option::of("\\PC{0,20}"),
        creation_date in prop::option::of(0..=i64::MAX.unsigned_abs()),
    ) {
        let info = Info { private, ..info(length, blocks * 16384) };
        let metainfo = Metainfo { trackers, web_seeds, comment, creation_date, ..Metainfo::new(info).unwrap() };
        let bytes = metainfo.encode();
        prop_assert_eq!(bytes.clone(), metainfo.encode());
        prop_assert_eq!(Metainfo::decode(&bytes), Ok(metainfo));
    }

    #[test]
    fn a_damaged_torrent_is_read_or_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Metainfo::new(info(100_000, 16384)).unwrap().encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(metainfo) = Metainfo::decode(&bytes) {
            prop_assert_eq!(metainfo.info.layout().unwrap().piece_count() as usize, metainfo.info.pieces.len());
        }
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Metainfo::decode(&bytes).is_err());
    }
}
