//! Fuzz targets: each a pure function of bytes that panics when a decoder breaks a promise.
//!
//! [`TARGETS`] names them all. cargo-fuzz runs them on nightly through the one-liners in `fuzz_targets`, and the tests
//! of `floodway-proto` run the same functions on stable with arbitrary bytes and with damaged valid inputs.

use bytes::Bytes;
use floodway_proto::bencode::{self, Kind, Value};
use floodway_proto::capability::CapabilityKey;
use floodway_proto::digest::{DigestKind, PieceDigester};
use floodway_proto::facts::{Accept, FactStore, NodeAt, PieceSpace};
use floodway_proto::genesis::Genesis;
use floodway_proto::merkle::{Tree, piece_node};
use floodway_proto::metainfo::Metainfo;
use floodway_proto::record::{Fact, LeaseId, SecretKey, Signed};
use floodway_proto::tracker::{
    AnnounceRequest, AnnounceResponse, PeerFormat, ScrapeRequest, ScrapeResponse,
};
use floodway_proto::wire::{
    self, ExtendedHandshake, Frame, Handshake, HttpClaims, Limits, ManifestMessage, Message,
    MetadataMessage,
};
use floodway_proto::{Bitfield, Layout, PieceIndex, SafeName, Sha256};

/// A function of any bytes that panics when a decoder breaks a promise.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("announce_query", announce_query),
    ("announce_response", announce_response),
    ("bencode_value", bencode_value),
    ("bitfield", bitfield),
    ("capability", capability),
    ("digester", digester),
    ("extended_handshake", extended_handshake),
    ("facts", facts),
    ("genesis", genesis),
    ("handshake", handshake),
    ("http_claims", http_claims),
    ("manifest_message", manifest_message),
    ("metadata_message", metadata_message),
    ("metainfo", metainfo),
    ("record", record),
    ("safe_name", safe_name),
    ("scrape", scrape),
    ("tree", tree),
    ("wire_stream", wire_stream),
];

/// Raw slices lie within their parent's, and decode to the same value again.
pub fn bencode_value(data: &[u8]) {
    if let Ok((value, rest)) = bencode::decode_prefix(data, &bencode::Limits::MESSAGE) {
        assert_eq!([value.raw(), rest].concat(), data);
        check_value(&value);
    }
}

fn check_value(value: &Value<'_>) {
    assert_eq!(
        bencode::decode(value.raw(), &bencode::Limits::MESSAGE).as_ref(),
        Ok(value)
    );
    let within = |inner: &Value<'_>| {
        let (outer, inner) = (value.raw().as_ptr_range(), inner.raw().as_ptr_range());
        outer.start < inner.start && inner.end < outer.end
    };
    match value.kind() {
        Kind::Integer(_) | Kind::Bytes(_) => {}
        Kind::List(values) => assert!(values.iter().all(within)),
        Kind::Dict(dict) => {
            assert!(dict.entries().all(|(_, value)| within(value)));
            assert!(dict.entries().is_sorted_by(|(a, _), (b, _)| a < b));
        }
    }
}

/// What is read is written so that it reads the same, with the same info-hash.
pub fn metainfo(data: &[u8]) {
    let Ok(read) = Metainfo::decode(data) else {
        return;
    };
    let layout = read.info.layout().expect("a decoded torrent has a layout");
    assert_eq!(layout.piece_count() as usize, read.info.pieces.len());
    let again = Metainfo::decode(&read.encode()).expect("our own torrents are readable");
    assert_eq!(again.info_hash, read.info_hash);
    assert_eq!(
        (again.info, again.trackers, again.web_seeds),
        (read.info, read.trackers, read.web_seeds)
    );
}

/// Only canonical bytes are accepted.
pub fn genesis(data: &[u8]) {
    if let Ok(genesis) = Genesis::decode(data) {
        assert_eq!(genesis.encode(), data);
        genesis.layout().expect("a decoded genesis has a layout");
    }
}

/// Every frame takes its own bytes off the stream, and encodes to them again.
pub fn wire_stream(data: &[u8]) {
    let Some((pieces, stream)) = data.split_first_chunk() else {
        return;
    };
    let limits = Limits::for_pieces(u32::from_be_bytes(*pieces));
    let mut input = Bytes::copy_from_slice(stream);
    loop {
        let before = input.clone();
        match wire::decode(&mut input, &limits) {
            Ok(Some(frame)) => check_frame(&frame, &before[..before.len() - input.len()]),
            Ok(None) => {
                assert_eq!(input, before);
                assert!(wire::needed(&input) > input.len());
                return;
            }
            Err(error) => {
                assert!(error.is_peers_fault());
                return;
            }
        }
    }
}

fn check_frame(frame: &Frame, taken: &[u8]) {
    assert_eq!(wire::needed(taken), taken.len());
    let mut out = Vec::new();
    match frame {
        Frame::Message(Message::Unknown { length, .. }) => {
            assert_eq!(taken.len(), 4 + *length as usize);
            return;
        }
        Frame::Message(message) => message.encode(&mut out),
        Frame::Piece { piece, begin, data } => {
            let length = u32::try_from(data.len()).expect("blocks are limited to 64 KiB");
            wire::encode_piece_header(*piece, *begin, length, &mut out);
            out.extend_from_slice(data);
        }
    }
    assert_eq!(out, taken);
}

/// What is read is written so that it reads the same.
pub fn extended_handshake(data: &[u8]) {
    if let Ok(read) = ExtendedHandshake::decode(data) {
        // A name cut or repaired while reading can be longer than the limit when written.
        let mut again = ExtendedHandshake::decode(&read.encode()).expect("our own are readable");
        again.client.clone_from(&read.client);
        assert_eq!(again, read);
        let mut merged = read.clone();
        merged.merge(again);
        assert_eq!(merged, read);
    }
}

/// What is read is written as it was, and its ranges are ascending and not empty.
pub fn http_claims(data: &[u8]) {
    if let Ok(read) = HttpClaims::decode(data) {
        assert_eq!(read.encode(), data);
        assert!(read.ranges.iter().all(|range| range.start < range.end));
        assert!(read.ranges.is_sorted_by(|a, b| a.end < b.start));
    }
}

/// What is read is written so that it reads the same.
pub fn metadata_message(data: &[u8]) {
    match MetadataMessage::decode(&Bytes::copy_from_slice(data)) {
        Ok(MetadataMessage::Unknown) | Err(_) => {}
        Ok(message) => assert_eq!(
            MetadataMessage::decode(&message.encode().into()),
            Ok(message)
        ),
    }
}

/// What is read is written so that it reads the same.
pub fn handshake(data: &[u8]) {
    if let Some(bytes) = data.first_chunk()
        && let Ok(read) = Handshake::decode(bytes)
    {
        assert_eq!(Handshake::decode(&read.encode()), Ok(read));
    }
}

/// What is read is written so that it reads the same.
pub fn announce_query(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(read) = AnnounceRequest::parse_query(text)
    {
        assert_eq!(AnnounceRequest::parse_query(&read.to_query()), Ok(read));
    }
}

/// What is read is written so that it reads the same.
pub fn announce_response(data: &[u8]) {
    if let Ok(read) = AnnounceResponse::decode(data) {
        let again = AnnounceResponse::decode(&read.encode(PeerFormat::Dicts));
        let again = again.expect("our own replies are readable");
        assert_eq!(again.peers.len(), read.peers.len());
        assert_eq!(again.interval_s, read.interval_s);
        let compact = AnnounceResponse::decode(&read.encode(PeerFormat::Compact));
        assert_eq!(
            compact.expect("our own replies are readable").peers.len(),
            read.peers.len()
        );
    }
}

/// What is read is written so that it reads the same.
pub fn scrape(data: &[u8]) {
    if let Ok(read) = ScrapeResponse::decode(data) {
        assert_eq!(ScrapeResponse::decode(&read.encode()), Ok(read));
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(read) = ScrapeRequest::parse_query(text)
    {
        assert_eq!(ScrapeRequest::parse_query(&read.to_query()), Ok(read));
    }
}

/// The bytes are the wire form of what they decode to; the first two are the piece count.
pub fn bitfield(data: &[u8]) {
    if let Some((count, bytes)) = data.split_first_chunk()
        && let Ok(bits) = Bitfield::from_bytes(bytes, u16::from_be_bytes(*count).into())
    {
        assert_eq!(bits.to_bytes(), bytes);
        assert_eq!(bits.iter_ones().count(), bits.count() as usize);
        assert!(
            bits.iter_ones()
                .all(|index| index < bits.len() && bits.get(index))
        );
    }
}

/// Nobody guesses a token.
pub fn capability(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(CapabilityKey::new([1; 32]).verify(text, 0).is_err());
    }
}

/// A name that passes is one plain path segment, and so is one taken from a URL.
pub fn safe_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for name in [SafeName::new(text), SafeName::from_url_path(text)]
        .into_iter()
        .flatten()
    {
        let path = std::path::Path::new("folder").join(name.as_str());
        assert_eq!(path.components().count(), 2);
        assert_eq!(
            path.file_name().and_then(|name| name.to_str()),
            Some(name.as_str())
        );
        assert_eq!(SafeName::new(name.as_str()), Ok(name));
    }
}

/// However a piece's bytes are cut, its digests are the same. The first two bytes choose piece length and cut.
pub fn digester(data: &[u8]) {
    let Some(([layer, cut], bytes)) = data.split_first_chunk() else {
        return;
    };
    let piece_length = (16 * 1024) << (layer % 4);
    let bytes = &bytes[..bytes.len().min(piece_length as usize)];
    let length = if layer & 0x80 == 0 {
        Some(bytes.len() as u64)
    } else {
        None
    };
    let layout = Layout::new(length, piece_length).expect("a small layout");
    let kind = DigestKind {
        sha1: true,
        tree: true,
    };
    let mut digester = PieceDigester::new(kind, &layout, PieceIndex(0));
    for slice in bytes.chunks(usize::from(*cut) * 7 + 1) {
        digester.update(slice);
    }
    let digest = digester.finish();
    assert_eq!(digest.node, piece_node(bytes, &layout, PieceIndex(0)));
    assert_eq!(digest.sha1, Some(floodway_proto::digest::sha1(bytes)));
}

/// Facts in any order give the same tree, as long as they do not contradict each other.
///
/// The first byte is the number of leaves; of the others, three each are a fact: layer, index, hash.
pub fn tree(data: &[u8]) {
    let Some((&leaves, facts)) = data.split_first() else {
        return;
    };
    let layout = Layout::new(Some((u64::from(leaves) + 1) * 16 * 1024), 16 * 1024);
    let layout = layout.expect("a small layout");
    let mut forward = Tree::new(&layout).expect("it is not empty");
    let facts = facts.as_chunks::<3>().0.iter();
    let taken: Vec<_> = facts
        .filter(|[layer, index, hash]| {
            forward
                .insert(*layer, (*index).into(), Sha256([*hash; 32]))
                .is_ok()
        })
        .collect();
    let mut backward = Tree::new(&layout).expect("it is not empty");
    for [layer, index, hash] in taken.into_iter().rev() {
        let inserted = backward.insert(*layer, (*index).into(), Sha256([*hash; 32]));
        inserted.expect("facts that agree in one order agree in every order");
    }
    assert_eq!(backward.root(), forward.root());
    for index in 0..=u32::from(leaves) {
        assert_eq!(
            backward.piece(PieceIndex(index)),
            forward.piece(PieceIndex(index))
        );
    }
}

/// One record has one encoding: what is read and signed again has the same bytes before the signature.
pub fn record(data: &[u8]) {
    let mut input = Bytes::copy_from_slice(data);
    while let Ok(read) = Signed::take(&mut input) {
        let again = read.record().sign(&SecretKey::from_seed(&[1; 32]));
        let again = again.expect("what was read can be written");
        assert_eq!(again.record(), read.record());
        let unsigned = read.bytes().len() - 64;
        assert_eq!(again.bytes()[..unsigned], read.bytes()[..unsigned]);
    }
}

/// What is read has one encoding.
pub fn manifest_message(data: &[u8]) {
    match ManifestMessage::decode(Bytes::copy_from_slice(data)) {
        Ok(ManifestMessage::Unknown(_)) | Err(_) => {}
        Ok(message) => assert_eq!(message.encode(), data),
    }
}

/// Whatever is said, an input that is refused changes nothing, and what is reported as changed did change.
///
/// The first byte is the length; of the others, four each are an input: kind, layer, index, hash.
pub fn facts(data: &[u8]) {
    let Some((&length, inputs)) = data.split_first() else {
        return;
    };
    let length = u64::from(length) * 8 * 1024;
    let space = PieceSpace::new(16 * 1024, &[Some(20_000), None]).expect("a small space");
    let mut store = FactStore::new(space, Accept::Attested);
    for &[kind, layer, index, hash] in inputs.as_chunks().0 {
        let before = store.clone();
        let node = NodeAt {
            file: u16::from(kind >> 4 & 1),
            layer,
            index: index.into(),
        };
        let fact = Fact {
            file: node.file,
            layer,
            index: node.index,
            hash: Sha256([hash; 32]),
        };
        let changed = match kind % 5 {
            0 => store.seal(&fact),
            1 => store.attest(LeaseId(u64::from(kind >> 5)), &fact),
            2 => store.expand(node, &vec![fact.hash; usize::from(kind >> 5)]),
            3 => store.set_length(length),
            _ => Ok(store.drop_leases(|lease| lease.0 == u64::from(kind >> 5))),
        };
        match changed {
            Err(_) => assert_eq!(store, before),
            Ok(changes) => {
                let mut gained = changes.verifiable.into_iter().flatten();
                assert!(
                    gained.all(|piece| store.is_verifiable(piece) && !before.is_verifiable(piece))
                );
                let mut lost = changes.withdrawn.into_iter().flatten();
                assert!(
                    lost.all(|piece| !store.is_verifiable(piece) && before.is_verifiable(piece))
                );
            }
        }
    }
}
