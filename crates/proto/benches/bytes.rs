//! What bytes cost: messages taken off a buffer, and pieces hashed.

use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use floodway_proto::digest::{DigestKind, PieceDigester};
use floodway_proto::wire::{Limits, Message, decode, encode_piece_header};
use floodway_proto::{BLOCK_LENGTH, Layout};

const MESSAGES: u32 = 1024;
const PIECE_LENGTH: u32 = 1 << 20;

/// A buffer as it comes from a socket: many small messages, or blocks.
fn received(blocks: bool) -> Bytes {
    let mut buffer = BytesMut::new();
    for piece in 0..MESSAGES {
        if blocks {
            encode_piece_header(piece, 0, BLOCK_LENGTH, &mut buffer);
            buffer.resize(buffer.len() + BLOCK_LENGTH as usize, 7);
        } else {
            Message::Have(piece).encode(&mut buffer);
        }
    }
    buffer.freeze()
}

fn decoding(criterion: &mut Criterion) {
    let limits = Limits::for_pieces(MESSAGES);
    for (name, blocks) in [("have", false), ("block", true)] {
        let buffer = received(blocks);
        let mut group = criterion.benchmark_group("decode");
        group.throughput(Throughput::Elements(u64::from(MESSAGES)));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || buffer.clone(),
                |mut buffer| {
                    while let Ok(Some(frame)) = decode(&mut buffer, &limits) {
                        black_box(frame);
                    }
                    assert!(buffer.is_empty(), "everything was whole");
                },
                BatchSize::SmallInput,
            );
        });
    }
}

fn hashing(criterion: &mut Criterion) {
    let layout = Layout::new(Some(u64::from(PIECE_LENGTH)), PIECE_LENGTH).expect("a good layout");
    let piece = layout.piece(0).expect("there is one piece");
    let block = vec![7; BLOCK_LENGTH as usize];
    let kinds = [
        (
            "sha1",
            DigestKind {
                sha1: true,
                tree: false,
            },
        ),
        (
            "tree",
            DigestKind {
                sha1: false,
                tree: true,
            },
        ),
        (
            "sha1 and tree",
            DigestKind {
                sha1: true,
                tree: true,
            },
        ),
    ];
    for (name, kind) in kinds {
        let mut group = criterion.benchmark_group("hash 1 MiB in blocks");
        group.throughput(Throughput::Bytes(u64::from(PIECE_LENGTH)));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut digester = PieceDigester::new(kind, &layout, piece);
                for _ in 0..PIECE_LENGTH / BLOCK_LENGTH {
                    digester.update(black_box(&block));
                }
                digester.finish()
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = decoding, hashing
}
criterion_main!(benches);
