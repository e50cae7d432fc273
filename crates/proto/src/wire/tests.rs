use proptest::prelude::*;

use super::*;
use crate::record::Head;
use crate::{NodeId, Sha256, Sid, Site};

fn encoded(message: &Message) -> Bytes {
    let mut out = Vec::new();
    message.encode(&mut out);
    out.into()
}

fn one(bytes: &[u8]) -> Result<Option<Frame>, WireError> {
    decode(&mut Bytes::copy_from_slice(bytes), &Limits::default())
}

#[test]
fn a_handshake_has_68_bytes_and_its_bits_in_place() {
    let handshake = Handshake {
        info_hash: InfoHash([7; 20]),
        peer: PeerName(*b"-FW0001-abcdefghijkl"),
        extensions: true,
        fast: true,
    };
    let bytes = handshake.encode();
    assert_eq!(&bytes[..20], b"\x13BitTorrent protocol");
    assert_eq!(bytes[20..28], [0, 0, 0, 0, 0, 0x10, 0, 0x04]);
    assert_eq!(Handshake::decode(&bytes), Ok(handshake));
    let mut other = bytes;
    other[19] = b'L';
    assert_eq!(Handshake::decode(&other), Err(WireError::NotBitTorrent));
    // libtorrent sets bits that we do not know.
    let mut other = bytes;
    other[20..28].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0x13]);
    let read = Handshake::decode(&other).unwrap();
    assert!(!read.extensions && !read.fast);
}

fn hash_request() -> HashRequest {
    HashRequest {
        pieces_root: Sha256([1; 32]),
        base_layer: 4,
        index: 512,
        length: 2,
        proof_layers: 9,
    }
}

#[test]
fn messages_have_the_bytes_of_the_specifications() {
    let request = Request {
        piece: 1,
        begin: 2,
        length: 0x4000,
    };
    for (message, bytes) in [
        (Message::KeepAlive, &b"\0\0\0\0"[..]),
        (Message::Choke, b"\0\0\0\x01\0"),
        (Message::Unchoke, b"\0\0\0\x01\x01"),
        (Message::Interested, b"\0\0\0\x01\x02"),
        (Message::NotInterested, b"\0\0\0\x01\x03"),
        (Message::Have(258), b"\0\0\0\x05\x04\0\0\x01\x02"),
        (
            Message::Bitfield(Bytes::from_static(b"\x80")),
            b"\0\0\0\x02\x05\x80",
        ),
        (
            Message::Request(request),
            b"\0\0\0\x0d\x06\0\0\0\x01\0\0\0\x02\0\0\x40\0",
        ),
        (
            Message::Cancel(request),
            b"\0\0\0\x0d\x08\0\0\0\x01\0\0\0\x02\0\0\x40\0",
        ),
        (Message::Port(6881), b"\0\0\0\x03\x09\x1a\xe1"),
        (Message::Suggest(1), b"\0\0\0\x05\x0d\0\0\0\x01"),
        (Message::HaveAll, b"\0\0\0\x01\x0e"),
        (Message::HaveNone, b"\0\0\0\x01\x0f"),
        (
            Message::Reject(request),
            b"\0\0\0\x0d\x10\0\0\0\x01\0\0\0\x02\0\0\x40\0",
        ),
        (Message::AllowedFast(1), b"\0\0\0\x05\x11\0\0\0\x01"),
        (
            Message::Extended {
                id: 3,
                payload: Bytes::from_static(b"de"),
            },
            b"\0\0\0\x04\x14\x03de",
        ),
    ] {
        assert_eq!(encoded(&message), bytes, "{message:?}");
        assert_eq!(one(bytes), Ok(Some(Frame::Message(message))));
    }
    let hashes = [[7; 32], [8; 32]].concat();
    let fields = b"\0\0\0\x04\0\0\x02\0\0\0\0\x02\0\0\0\x09";
    let mut named = vec![0, 0, 0, 49, 21];
    named.extend([1; 32]);
    named.extend(fields);
    assert_eq!(encoded(&Message::HashRequest(hash_request())), named);
    named[4] = 23;
    assert_eq!(encoded(&Message::HashReject(hash_request())), named);
    named[3..5].copy_from_slice(&[49 + 64, 22]);
    named.extend(&hashes);
    assert_eq!(
        encoded(&Message::Hashes(hash_request(), hashes.into())),
        named
    );
    let unknown = Message::Unknown { id: 99, length: 3 };
    assert_eq!(
        one(b"\0\0\0\x03\x63ab"),
        Ok(Some(Frame::Message(unknown.clone())))
    );
    assert!(encoded(&unknown).is_empty());
}

#[test]
fn a_block_is_taken_off_without_copying() {
    let mut out = Vec::new();
    encode_piece_header(5, 16384, 4, &mut out);
    assert_eq!(out.len(), 13);
    out.extend_from_slice(b"datarest");
    let mut input = Bytes::from(out);
    let payload = input[13..].as_ptr();
    let Ok(Some(Frame::Piece { piece, begin, data })) = decode(&mut input, &Limits::default())
    else {
        panic!("a whole block was there");
    };
    assert_eq!((piece, begin, &data[..]), (5, 16384, &b"data"[..]));
    assert_eq!(data.as_ptr(), payload);
    assert_eq!(input, "rest");
}

#[test]
fn an_unfinished_frame_is_left_alone_and_says_what_it_needs() {
    let whole = encoded(&Message::Have(1));
    for end in 0..whole.len() {
        let mut input = whole.slice(..end);
        assert_eq!(decode(&mut input, &Limits::default()), Ok(None));
        assert_eq!(input.len(), end);
        assert_eq!(needed(&input), if end < 4 { 4 } else { 9 });
    }
}

#[test]
fn a_long_message_is_refused_before_it_arrives() {
    let limits = Limits::for_pieces(16);
    let read = |bytes: &'static [u8]| decode(&mut Bytes::from_static(bytes), &limits);
    // The length alone.
    let error = read(b"\xff\xff\xff\xff").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the peer sent a message of 4294967295 bytes; the limit is 1048578"
    );
    assert!(error.is_peers_fault());
    // Length and kind.
    for head in [
        &b"\0\0\0\x04\x05"[..],
        b"\0\x01\0\x0a\x07",
        b"\0\x10\0\x03\x14",
    ] {
        assert!(
            matches!(read(head), Err(WireError::MessageTooLong { .. })),
            "{head:?}"
        );
    }
    for head in [
        &b"\0\0\0\x03\x05"[..],
        b"\0\x01\0\x09\x07",
        b"\0\x10\0\x02\x14",
    ] {
        assert_eq!(read(head), Ok(None), "{head:?}");
    }
    assert_eq!(Limits::default().bitfield_length, 1 + (1 << 18));
    assert!(Limits::for_pieces(u32::MAX).message_length > 1 << 28);
}

#[test]
fn fixed_messages_have_one_length() {
    for id in [0, 1, 2, 3, 14, 15, 9, 4, 13, 17, 6, 8, 16] {
        for length in [0u8, 1, 2, 3, 4, 5, 6, 12, 13, 14] {
            let right = match id {
                0..=3 | 14 | 15 => 1,
                9 => 3,
                4 | 13 | 17 => 5,
                _ => 13,
            };
            let mut bytes = vec![0, 0, 0, length, id];
            bytes.resize(4 + usize::from(length).max(1), 0);
            let result = one(&bytes);
            if length == 0 {
                assert_eq!(result, Ok(Some(Frame::Message(Message::KeepAlive))));
            } else {
                assert_eq!(result.is_ok(), length == right, "{id} {length}");
            }
        }
    }
    // Hashes are whole, and not more than a request can ask for.
    for (length, is_right) in [
        (49 + 32, true),
        (49 + 32 * 576, true),
        (49, false),
        (49 + 33, false),
        (49 + 32 * 577, false),
    ] {
        let mut bytes = u32::to_be_bytes(length).to_vec();
        bytes.push(22);
        assert_eq!(one(&bytes).is_ok(), is_right, "{length}");
    }
    for id in [21, 23] {
        assert!(one(&[0, 0, 0, 49, id]).is_ok());
        assert!(one(&[0, 0, 0, 48, id]).is_err());
        assert!(one(&[0, 0, 0, 50, id]).is_err());
    }
    assert!(one(b"\0\0\0\x08\x07\0\0\0\0\0\0\0").is_err());
    assert!(one(b"\0\0\0\x01\x14").is_err());
}

fn own_handshake() -> ExtendedHandshake {
    ExtendedHandshake {
        names: [("fw_x".to_owned(), 3), ("ut_metadata".to_owned(), 1)].into(),
        client: Some("Floodway 0.1".into()),
        listen_port: Some(6881),
        request_queue: Some(2000),
        metadata_size: Some(31_235),
        upload_only: Some(true),
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
    }
}

#[test]
fn an_extension_handshake_round_trips() {
    let own = own_handshake();
    assert_eq!(ExtendedHandshake::decode(&own.encode()), Ok(own));
    let empty = ExtendedHandshake::default();
    assert_eq!(empty.encode(), b"d1:mdee");
    assert_eq!(ExtendedHandshake::decode(b"de"), Ok(empty));
}

#[test]
fn an_extension_handshake_of_others_is_read_leniently() {
    // As libtorrent sends it, with a number out of range and bytes behind.
    let read = ExtendedHandshake::decode(
        b"d12:complete_agoi-1e1:md11:lt_donthavei7e6:ut_pexi0e3:badi999ee1:pi70000e4:reqqi2000e11:upload_onlyi1e1:v4:lt/26:yourip4:\x7f\0\0\x01exx",
    )
    .unwrap();
    assert_eq!(read.id("lt_donthave"), Some(7));
    assert_eq!(
        (read.id("ut_pex"), read.id("bad"), read.id("none")),
        (None, None, None)
    );
    assert_eq!((read.listen_port, read.request_queue), (None, Some(2000)));
    assert_eq!(
        (read.upload_only, read.client.as_deref()),
        (Some(true), Some("lt/2"))
    );
}

#[test]
fn a_later_handshake_changes_what_it_names() {
    let mut known = own_handshake();
    known
        .merge(ExtendedHandshake::decode(b"d1:md11:ut_metadatai0e6:ut_pexi2ee4:reqqi5ee").unwrap());
    assert_eq!(
        (
            known.id("ut_metadata"),
            known.id("ut_pex"),
            known.id("fw_x")
        ),
        (None, Some(2), Some(3))
    );
    assert_eq!(
        (known.request_queue, known.listen_port),
        (Some(5), Some(6881))
    );
    // However often it says so, its list of extensions grows no longer than it may be.
    for first in [b'a', b'b', b'c'] {
        let mut names = b"d1:md".to_vec();
        for number in 10..60 {
            names.extend(format!("3:{}{number}i9e", char::from(first)).bytes());
        }
        names.extend(b"ee");
        known.merge(ExtendedHandshake::decode(&names).unwrap());
    }
    assert_eq!(known.names.len(), 64);
    assert_eq!(known.id("fw_x"), Some(3));
}

#[test]
fn a_hostile_extension_handshake_is_refused() {
    let names: Vec<_> = (100..200).map(|number| format!("3:{number}i1e")).collect();
    let names = format!("d1:md{}ee", names.concat());
    for (payload, text) in [
        (&b"le"[..], "`handshake` is not a dict"),
        (b"d1:mi1ee", "`m` is not a dict"),
        (names.as_bytes(), "`m` is longer than the limit of 64"),
        (b"d2:fwd1:vi1eee", "`fw.sid` is missing"),
        (
            b"d2:fwd1:ci1e1:n3:abc3:sid0:1:vi1eee",
            "`fw.sid` is not 32 bytes long",
        ),
    ] {
        let Err(WireError::Field(error)) = ExtendedHandshake::decode(payload) else {
            panic!("{payload:?} must be refused for a field");
        };
        assert_eq!(error.to_string(), text);
    }
    assert!(matches!(
        ExtendedHandshake::decode(b"d1:m"),
        Err(WireError::Bencode(_))
    ));
}

fn hash_requests() -> impl Strategy<Value = HashRequest> {
    any::<([u8; 32], u32, u32, u32, u32)>().prop_map(
        |(root, base_layer, index, length, proof_layers)| HashRequest {
            pieces_root: Sha256(root),
            base_layer,
            index,
            length,
            proof_layers,
        },
    )
}

fn metadata_message() -> impl Strategy<Value = MetadataMessage> {
    let data = || prop::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    prop_oneof![
        any::<u32>().prop_map(|piece| MetadataMessage::Request { piece }),
        any::<u32>().prop_map(|piece| MetadataMessage::Reject { piece }),
        (any::<(u32, u32)>(), data()).prop_map(|((piece, total_size), data)| {
            MetadataMessage::Data {
                piece,
                total_size,
                data,
            }
        }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let payload = || prop::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    let request = || {
        any::<(u32, u32, u32)>().prop_map(|(piece, begin, length)| Request {
            piece,
            begin,
            length,
        })
    };
    prop_oneof![
        Just(Message::KeepAlive),
        Just(Message::Unchoke),
        any::<u32>().prop_map(Message::Have),
        payload().prop_map(Message::Bitfield),
        request().prop_map(Message::Request),
        request().prop_map(Message::Reject),
        any::<u16>().prop_map(Message::Port),
        hash_requests().prop_map(Message::HashRequest),
        hash_requests().prop_map(Message::HashReject),
        (hash_requests(), 1..600usize)
            .prop_filter("a limit", |(_, count)| *count <= 576)
            .prop_map(|(request, count)| Message::Hashes(request, vec![7; 32 * count].into())),
        (any::<u8>(), payload()).prop_map(|(id, payload)| Message::Extended { id, payload }),
    ]
}

proptest! {
    #[test]
    fn a_stream_of_messages_is_read_however_it_is_cut(
        messages in prop::collection::vec(message(), 0..20),
        chunk in 1usize..64,
    ) {
        let mut stream = Vec::new();
        for message in &messages {
            message.encode(&mut stream);
        }
        let (mut read, mut pending) = (Vec::new(), Vec::new());
        for part in stream.chunks(chunk) {
            pending.extend_from_slice(part);
            let mut input = Bytes::from(std::mem::take(&mut pending));
            while let Some(frame) = decode(&mut input, &Limits::default()).unwrap() {
                read.push(frame);
            }
            prop_assert!(needed(&input) > input.len());
            pending = input.to_vec();
        }
        prop_assert!(pending.is_empty());
        let sent: Vec<_> = messages.into_iter().map(Frame::Message).collect();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        small in prop::collection::vec(prop_oneof![Just(0u8), 0u8..25], 0..200),
        pieces in any::<u32>(),
    ) {
        let limits = Limits::for_pieces(pieces);
        for bytes in [bytes, small] {
            let _ = ExtendedHandshake::decode(&bytes);
            let mut input = Bytes::from(bytes);
            let mut before = input.len();
            while let Ok(Some(_)) = decode(&mut input, &limits) {
                prop_assert!(input.len() + 4 <= before);
                before = input.len();
            }
        }
    }

    #[test]
    fn any_names_round_trip(
        names in prop::collection::btree_map("[a-z_]{1,20}", any::<u8>(), 0..20),
        client in prop::option::of("\\PC{0,16}"),
        listen_port in prop::option::of(1u16..),
    ) {
        let own = ExtendedHandshake { names, client, listen_port, ..ExtendedHandshake::default() };
        prop_assert_eq!(ExtendedHandshake::decode(&own.encode()), Ok(own));
    }

    #[test]
    fn metadata_messages_round_trip(message in metadata_message()) {
        prop_assert_eq!(MetadataMessage::decode(&message.encode().into()), Ok(message));
    }

    #[test]
    fn an_info_dict_comes_in_pieces(length in 0usize..70_000) {
        let info: Bytes = (0..=u8::MAX).cycle().take(length).collect();
        let mut read = Vec::new();
        for piece in 0.. {
            let Some(MetadataMessage::Data { piece: sent, total_size, data }) = MetadataMessage::data_of(&info, piece) else {
                break;
            };
            prop_assert_eq!((sent, total_size as usize), (piece, length));
            read.extend_from_slice(&data);
        }
        prop_assert_eq!(read, info.to_vec());
        prop_assert_eq!(MetadataMessage::data_of(&info, u32::MAX), None);
    }

    #[test]
    fn claims_round_trip(gaps in prop::collection::vec((1u32..1000, 1u32..1000), 0..=HttpClaims::RANGES_LIMIT)) {
        let mut end = 0;
        let ranges = gaps.into_iter().map(|(gap, count)| {
            let start = end + gap;
            end = start + count;
            start..end
        });
        let claims = HttpClaims { ranges: ranges.collect() };
        prop_assert_eq!(HttpClaims::decode(&claims.encode()), Ok(claims));
    }
}

#[test]
fn claims_that_are_no_short_ascending_list_are_refused() {
    let encode = |numbers: &[u32]| -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect()
    };
    for good in [&[][..], &[0, 1], &[7, 2, 10, 1], &[u32::MAX - 1, 1]] {
        assert!(HttpClaims::decode(&encode(good)).is_ok(), "{good:?}");
    }
    let touching = [0, 2, 2, 1];
    let long: Vec<u32> = (0..=16).flat_map(|range| [range * 2, 1]).collect();
    for bad in [
        &[1][..],
        &[0, 0],
        &[5, 1, 3, 1],
        &touching,
        &[u32::MAX, 1],
        &long,
    ] {
        assert_eq!(
            HttpClaims::decode(&encode(bad)),
            Err(WireError::Claims),
            "{bad:?}"
        );
    }
}

#[test]
fn metadata_messages_have_the_bytes_of_bep_9() {
    let read = |bytes: &[u8]| MetadataMessage::decode(&Bytes::copy_from_slice(bytes));
    for (message, bytes) in [
        (
            MetadataMessage::Request { piece: 0 },
            &b"d8:msg_typei0e5:piecei0ee"[..],
        ),
        (
            MetadataMessage::Data {
                piece: 1,
                total_size: 34256,
                data: Bytes::from_static(b"xyz"),
            },
            b"d8:msg_typei1e5:piecei1e10:total_sizei34256eexyz",
        ),
        (
            MetadataMessage::Reject { piece: 2 },
            b"d8:msg_typei2e5:piecei2ee",
        ),
    ] {
        assert_eq!(message.encode(), bytes);
        assert_eq!(read(bytes), Ok(message));
    }
    // Of a later version; and bytes of a lenient client behind a request.
    assert_eq!(read(b"d8:msg_typei9ee"), Ok(MetadataMessage::Unknown));
    let request = MetadataMessage::Request { piece: 3 };
    assert_eq!(read(b"d8:msg_typei0e5:piecei3eexx"), Ok(request));
}

#[test]
fn hostile_metadata_messages_are_refused() {
    let mut long = b"d8:msg_typei1e5:piecei0e10:total_sizei1ee".to_vec();
    long.resize(long.len() + 16 * 1024 + 1, 0);
    for bytes in [
        &b""[..],
        b"i0e",
        b"d8:msg_type",
        b"de",
        b"d8:msg_typei0ee",
        b"d8:msg_typei0e5:piecei-1ee",
        b"d8:msg_typei0e5:piecei4294967296ee",
        b"d8:msg_typei1e5:piecei0ee",
        b"d8:msg_type1:05:piecei0ee",
        &long,
    ] {
        let refused = MetadataMessage::decode(&Bytes::copy_from_slice(bytes)).unwrap_err();
        assert!(
            matches!(refused, WireError::Metadata(_)) && refused.is_peers_fault(),
            "{refused}"
        );
    }
}
