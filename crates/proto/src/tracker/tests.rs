use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::{InfoHash, PeerName};

fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash(
            *b"\x12\x34\x56\x78\x9a\xbc\xde\xf1\x23\x45\x67\x89\xab\xcd\xef\x12\x34\x56\x78\x9a",
        ),
        peer: PeerName(*b"-FW0001-abc~def ghi&"),
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        event: Event::Started,
        compact: true,
        no_peer_id: false,
        wanted: Some(50),
        address: None,
        key: Some("ab".into()),
        tracker_id: None,
    }
}

#[test]
fn an_announce_has_the_query_of_the_specification() {
    let query = request().to_query();
    assert_eq!(
        query,
        "info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A&peer_id=-FW0001-abc~def%20ghi%26&port=6881&uploaded=1&downloaded=2&left=3\
         &compact=1&event=started&numwant=50&key=ab"
    );
    assert_eq!(AnnounceRequest::parse_query(&query), Ok(request()));
    assert!(
        request()
            .to_url("http://t/announce")
            .starts_with("http://t/announce?info_hash=")
    );
    assert!(
        request()
            .to_url("http://t/a?pass=1#x")
            .starts_with("http://t/a?pass=1&info_hash=")
    );
}

#[test]
fn others_queries_are_read() {
    // As libtorrent sends it, with keys that we do not know; aria2 leaves `compact` in, old clients leave all out.
    let read = AnnounceRequest::parse_query(
        "info_hash=%124Vx%9a%bc%de%f1%23Eg%89%ab%cd%ef%124Vx%9a&peer_id=-LT20B0-abcdefghijkl&port=6881&uploaded=0&downloaded=0\
         &left=100&corrupt=0&key=12345678&event=paused&numwant=-1&compact=0&no_peer_id=1&supportcrypto=1&redundant=0&ip=fe80%3a%3a1&&x",
    )
    .unwrap();
    assert_eq!(read.info_hash, request().info_hash);
    assert_eq!(
        (read.event, read.wanted, read.key),
        (Event::Regular, None, Some("12345678".into()))
    );
    assert!(!read.compact && read.no_peer_id);
    assert_eq!(read.address, "fe80::1".parse().ok());
    let hash = "a".repeat(20);
    let read =
        AnnounceRequest::parse_query(&format!("info_hash={hash}&peer_id={hash}&port=1&ip=host"))
            .unwrap();
    assert_eq!(
        (read.left, read.compact, read.address),
        (u64::MAX, true, None)
    );
}

#[test]
fn a_wrong_query_names_the_field() {
    let hash = "a".repeat(20);
    for (query, text) in [
        (String::new(), "`info_hash` is missing"),
        ("info_hash=abc".into(), "`info_hash` is not 20 bytes long"),
        (
            "info_hash=%zz".into(),
            "`info_hash` is not percent-encoded correctly",
        ),
        (format!("info_hash={hash}"), "`peer_id` is missing"),
        (
            format!("info_hash={hash}&info_hash={hash}"),
            "`info_hash` comes twice",
        ),
        (
            format!("info_hash={hash}&peer_id={hash}"),
            "`port` is missing",
        ),
        (
            format!("info_hash={hash}&peer_id={hash}&port=65536"),
            "`port` is not a number in range",
        ),
        (
            format!("info_hash={hash}&peer_id={hash}&port=+1"),
            "`port` is not a number in range",
        ),
        (
            format!("info_hash={hash}&peer_id={hash}&port=1&port=2"),
            "`port` comes twice",
        ),
        (
            format!("info_hash={hash}&peer_id={hash}&port=1&left=x"),
            "`left` is not a number in range",
        ),
        (
            "x".repeat(8193),
            "the query has 8193 bytes; the limit is 8192",
        ),
    ] {
        let error = AnnounceRequest::parse_query(&query).expect_err(text);
        assert_eq!(error.to_string(), text);
    }
}

fn response() -> AnnounceResponse {
    let peer = |address: &str, name| TrackerPeer {
        address: address.parse().unwrap(),
        name,
    };
    AnnounceResponse {
        interval_s: 30,
        min_interval_s: Some(5),
        complete: Some(1),
        incomplete: Some(2),
        warning: None,
        tracker_id: None,
        peers: vec![
            peer("10.0.0.1:6881", Some(PeerName([b'p'; 20]))),
            peer("[2001:db8::1]:6882", None),
        ],
    }
}

fn without_names(mut response: AnnounceResponse) -> AnnounceResponse {
    response.peers.iter_mut().for_each(|peer| peer.name = None);
    response
}

#[test]
fn a_reply_lists_peers_in_every_format() {
    let bytes = response().encode(PeerFormat::Compact);
    assert_eq!(
        bytes.escape_ascii().to_string(),
        r"d8:completei1e10:incompletei2e8:intervali30e12:min intervali5e5:peers6:\n\x00\x00\x01\x1a\xe16:peers618: \x01\r\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x1a\xe2e"
    );
    assert_eq!(
        AnnounceResponse::decode(&bytes),
        Ok(without_names(response()))
    );
    let dicts = response().encode(PeerFormat::Dicts);
    assert!(
        dicts
            .escape_ascii()
            .to_string()
            .contains("d2:ip8:10.0.0.17:peer id20:pppp")
    );
    assert_eq!(AnnounceResponse::decode(&dicts), Ok(response()));
    let nameless = response().encode(PeerFormat::DictsWithoutNames);
    assert_eq!(
        AnnounceResponse::decode(&nameless),
        Ok(without_names(response()))
    );
    // A v4 address in v6 clothes is a v4 peer.
    let mapped = AnnounceResponse {
        peers: vec![TrackerPeer {
            address: "[::ffff:10.0.0.1]:6881".parse().unwrap(),
            name: None,
        }],
        ..response()
    };
    let read = AnnounceResponse::decode(&mapped.encode(PeerFormat::Compact)).unwrap();
    assert_eq!(
        read.peers[0].address,
        "10.0.0.1:6881".parse::<SocketAddr>().unwrap()
    );
}

#[test]
fn a_refusal_says_why() {
    let bytes = encode_failure("unknown content", Some(61));
    assert_eq!(bytes, b"d14:failure reason15:unknown content8:retry in1:2e");
    let refused = TrackerError::Refused {
        reason: "unknown content".into(),
        retry_in_s: Some(120),
    };
    assert_eq!(refused.to_string(), "the tracker refused: unknown content");
    assert_eq!(AnnounceResponse::decode(&bytes), Err(refused.clone()));
    assert_eq!(ScrapeResponse::decode(&bytes), Err(refused));
    let never = AnnounceResponse::decode(b"d14:failure reason1:x8:retry in5:nevere");
    assert!(matches!(
        never,
        Err(TrackerError::Refused {
            retry_in_s: None,
            ..
        })
    ));
}

#[test]
fn rubbish_gets_a_clear_error() {
    for (reply, text) in [
        (
            &b"<html>"[..],
            "the tracker's reply is unreadable: not valid bencoding at byte 0: no value begins with byte 0x3c",
        ),
        (
            b"",
            "the tracker's reply is unreadable: not valid bencoding at byte 0: it ends too early",
        ),
        (
            b"le",
            "the tracker's reply is malformed: `reply` is not a dict",
        ),
        (
            b"d8:interval1:xe",
            "the tracker's reply is malformed: `interval` is not an integer",
        ),
        (
            b"d8:intervali-1ee",
            "the tracker's reply is malformed: `interval` is out of range",
        ),
        (
            b"d5:peers5:abcdee",
            "the tracker's `peers` has 5 bytes, which is no multiple of 6",
        ),
        (
            b"d6:peers66:abcdefe",
            "the tracker's `peers6` has 6 bytes, which is no multiple of 18",
        ),
        (
            b"d5:peersi1ee",
            "the tracker's reply is malformed: `peers` is not a list",
        ),
    ] {
        assert_eq!(
            AnnounceResponse::decode(reply).unwrap_err().to_string(),
            text
        );
    }
    assert_eq!(AnnounceResponse::decode(b"de").unwrap().interval_s, 1800);
    let error = ScrapeResponse::decode(b"de").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the tracker's reply is malformed: `files` is missing"
    );
}

#[test]
fn useless_peers_are_left_out() {
    let reply = b"d8:completei-1e5:peersld2:ip9:localhost4:porti1eed2:ip7:1.2.3.44:porti0eed2:ip7:0.0.0.04:porti1eei5ed2:ip7:1.2.3.44:porti7eeee";
    let read = AnnounceResponse::decode(reply).unwrap();
    assert_eq!(read.peers.len(), 1);
    assert_eq!((read.peers[0].address.port(), read.complete), (7, None));
    let mut many = format!("d5:peers{}:", 6 * 5000).into_bytes();
    many.extend([1, 2, 3, 4, 5, 6].repeat(5000));
    many.push(b'e');
    assert_eq!(
        AnnounceResponse::decode(&many).unwrap().peers.len(),
        PEERS_LIMIT
    );
}

#[test]
fn scrapes_round_trip() {
    let request = ScrapeRequest {
        info_hashes: vec![InfoHash([0; 20]), InfoHash(*b"abcdefghijklmnopqrst")],
    };
    assert_eq!(
        ScrapeRequest::parse_query(&request.to_query()),
        Ok(request.clone())
    );
    assert!(
        ScrapeRequest::parse_query("")
            .unwrap()
            .info_hashes
            .is_empty()
    );
    let many = format!("info_hash={}&", "a".repeat(20)).repeat(65);
    assert!(ScrapeRequest::parse_query(&many).is_err());
    let entry = ScrapeEntry {
        complete: 1,
        downloaded: 2,
        incomplete: 3,
    };
    let response = ScrapeResponse {
        files: [(request.info_hashes[1], entry)].into(),
    };
    let bytes = response.encode();
    assert_eq!(
        bytes,
        b"d5:filesd20:abcdefghijklmnopqrstd8:completei1e10:downloadedi2e10:incompletei3eeee"
    );
    assert_eq!(ScrapeResponse::decode(&bytes), Ok(response));
}

proptest! {
    #[test]
    fn any_announce_round_trips(
        (info_hash, peer, port) in any::<([u8; 20], [u8; 20], u16)>(),
        (uploaded, downloaded, left) in any::<(u64, u64, u64)>(),
        (compact, no_peer_id, wanted) in any::<(bool, bool, Option<u32>)>(),
        key in prop::option::of("[0-9A-F]{8}|\\PC{0,9}"),
        event in prop::sample::select(vec![Event::Regular, Event::Started, Event::Stopped, Event::Completed]),
        address in any::<Option<std::net::IpAddr>>(),
        tracker_id in prop::option::of("\\PC{0,20}"),
    ) {
        let request = AnnounceRequest {
            info_hash: InfoHash(info_hash), peer: PeerName(peer), port, uploaded, downloaded, left, event, compact,
            no_peer_id, wanted, address, key, tracker_id,
        };
        prop_assert_eq!(AnnounceRequest::parse_query(&request.to_query()), Ok(request));
    }

    #[test]
    fn any_reply_round_trips(
        interval_s in any::<u32>(),
        (min_interval_s, complete, incomplete) in any::<(Option<u32>, Option<u32>, Option<u32>)>(),
        warning in prop::option::of("\\PC{0,20}"),
        addresses in prop::collection::vec(any::<SocketAddr>(), 0..20),
    ) {
        let mut peers: Vec<_> = addresses
            .into_iter()
            // Flow labels and scopes do not travel; useless addresses are left out.
            .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
            .filter(|a| a.port() != 0 && !a.ip().is_unspecified() && !a.ip().is_multicast())
            .map(|address| TrackerPeer { address, name: None })
            .collect();
        let response = AnnounceResponse {
            interval_s, min_interval_s, complete, incomplete, warning, tracker_id: None, peers: peers.clone(),
        };
        let dicts = AnnounceResponse::decode(&response.encode(PeerFormat::Dicts)).unwrap();
        prop_assert_eq!(&dicts, &response);
        // Compact lists have v4 first.
        peers.sort_by_key(|peer| peer.address.is_ipv6());
        let compact = AnnounceResponse::decode(&response.encode(PeerFormat::Compact)).unwrap();
        prop_assert_eq!(compact, AnnounceResponse { peers, ..response });
    }

    #[test]
    fn anything_is_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        text in "[ilde0-9:a-]{0,48}",
        query in "([a-z_]{1,9}=[%0-9a-f]{0,9}&){0,9}|\\PC{0,80}",
    ) {
        for bytes in [&bytes[..], text.as_bytes()] {
            let _ = AnnounceResponse::decode(bytes);
            let _ = ScrapeResponse::decode(bytes);
        }
        let _ = AnnounceRequest::parse_query(&query);
        let _ = ScrapeRequest::parse_query(&query);
    }
}
