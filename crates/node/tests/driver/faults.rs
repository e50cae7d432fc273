//! Peers that break the protocol or lie.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use floodway_node::{ContentError, ContentEvent, ContentSpec, Session, State, Target};
use floodway_proto::wire::{Handshake, Message, Request, encode_piece_header};
use floodway_proto::{ByteCount, InfoHash, PeerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::kit::{Kit, PATIENCE, session, session_with, until};

fn hello(name: InfoHash) -> [u8; 68] {
    let peer = PeerName(*b"-XX0000-abcdefghijkl");
    Handshake {
        info_hash: name,
        peer,
        extensions: true,
        fast: true,
    }
    .encode()
}

/// Sends `bytes` to the session; true when it closes the connection, whatever it says before.
async fn is_closed_after(addr: SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is a close too.
    timeout(PATIENCE / 2, stream.read_to_end(&mut answer))
        .await
        .is_ok()
}

async fn seeding(kit: &Kit) -> Session {
    let session = session(1).await;
    session
        .add(kit.seed(kit.write("seed", |_| ())))
        .await
        .unwrap();
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_garbage_are_closed() {
    let kit = Kit::new(1 << 20);
    let session = seeding(&kit).await;
    let addr = session.peer_addr();
    assert!(is_closed_after(addr, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await);
    assert!(
        is_closed_after(addr, &hello(InfoHash([1; 20]))).await,
        "an unknown content"
    );
    let greeted = |rest: &[u8]| [&hello(Kit::name())[..], rest].concat();
    let cases: [(&str, Vec<u8>); 6] = [
        ("a message of 4 GiB", b"\xff\xff\xff\xff".to_vec()),
        ("a block that does not exist", {
            let mut bytes = Vec::new();
            encode_piece_header(900, 0, 4, &mut bytes);
            bytes.extend(b"data");
            bytes
        }),
        ("a block above 64 KiB", b"\0\x01\0\x0a\x07".to_vec()),
        ("a wrong length", b"\0\0\0\x06\x04\0\0\0\0\0".to_vec()),
        (
            "a bitfield of another length",
            b"\0\0\0\x04\x05\0\0\0".to_vec(),
        ),
        (
            "an unreadable extension handshake",
            b"\0\0\0\x04\x14\0xx".to_vec(),
        ),
    ];
    for (what, bytes) in cases {
        assert!(is_closed_after(addr, &greeted(&bytes)).await, "{what}");
    }
    // After all that it still serves.
    let leecher = crate::kit::session(2).await;
    let leech = leecher.add(kit.leech("leech")).await.unwrap();
    leech.add_peers(vec![addr]);
    kit.completes(&leech).await;
}

/// Refusals for it would fill the memory.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_without_end_and_takes_no_answers_is_hung_up_on() {
    let kit = Kit::new(1 << 20);
    let session = seeding(&kit).await;
    let mut stream = TcpStream::connect(session.peer_addr()).await.unwrap();
    stream.write_all(&hello(Kit::name())).await.unwrap();
    let mut requests = Vec::new();
    for _ in 0..4096 {
        let request = Request {
            piece: 0,
            begin: 0,
            length: 16 << 10,
        };
        Message::Request(request).encode(&mut requests);
    }
    let asks = async {
        // It is choked: each is refused.
        while stream.write_all(&requests).await.is_ok() {}
    };
    timeout(PATIENCE, asks)
        .await
        .expect("it must be hung up on");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_messages_and_extensions_do_no_harm() {
    let kit = Kit::new(1 << 20);
    let session = seeding(&kit).await;
    let mut stream = TcpStream::connect(session.peer_addr()).await.unwrap();
    stream.write_all(&hello(Kit::name())).await.unwrap();
    stream
        .write_all(b"\0\0\0\x03\x63ab\0\0\0\0\0\0\0\x04\x14\x07hi\0\0\0\x03\x09\x1a\xe1")
        .await
        .unwrap();
    let mut out = Vec::new();
    // Of four pieces none, then two, then another list: as aria2 does.
    Message::HaveNone.encode(&mut out);
    Message::Have(0).encode(&mut out);
    for list in [b"\xc0", b"\xe0"] {
        Message::Bitfield(Bytes::from_static(list)).encode(&mut out);
    }
    Message::Interested.encode(&mut out);
    stream.write_all(&out).await.unwrap();
    let mut answer = [0; 68];
    stream.read_exact(&mut answer).await.unwrap();
    let theirs = Handshake::decode(&answer).unwrap();
    assert!(theirs.extensions && theirs.fast && theirs.peer.0.starts_with(b"-FW0100-"));
    assert_eq!(theirs.info_hash, Kit::name());
    // It unchokes whoever is interested; everything until then is read message by message.
    let unchoked = async {
        loop {
            let length = stream.read_u32().await.unwrap();
            let mut message = vec![0; length as usize];
            stream.read_exact(&mut message).await.unwrap();
            match message.first() {
                Some(1) => return,
                Some(20) => assert_eq!(message[1], 0, "no extension was offered to it"),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, unchoked)
        .await
        .expect("an interested peer must be unchoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_liar_is_named_and_banned_and_the_file_is_right() {
    let kit = Kit::new(8 << 20);
    let (honest, liar) = (session(1).await, session(2).await);
    let honest_path = kit.write("honest", |_| ());
    let lying_path = kit.write("liar", |_| ());
    honest.add(kit.seed(honest_path)).await.unwrap();
    liar.add(kit.seed(lying_path.clone())).await.unwrap();
    // One block in each of some pieces goes bad after it was verified.
    kit.write("liar", |bytes| {
        for piece in [1, 5, 9, 20, 30] {
            bytes[piece * 256 * 1024 + 40_000] ^= 0x55;
        }
    });
    let leecher = session(3).await;
    let peers = vec![honest.peer_addr(), liar.peer_addr()];
    let leech = leecher
        .add(ContentSpec {
            peers,
            ..kit.leech("leech")
        })
        .await
        .unwrap();
    let mut events = leech.events();
    kit.completes(&leech).await;
    let mut failed = false;
    while let Ok(event) = events.try_recv() {
        match event {
            ContentEvent::PieceFailed(_) => failed = true,
            ContentEvent::Banned { addr, .. } => {
                assert_eq!(addr, liar.peer_addr(), "only the liar is banned");
            }
            _ => {}
        }
    }
    // Perhaps the liar was never asked for a bad block; then there is nothing to see.
    if failed {
        until(&leech, "the liar gone", |progress| progress.peers <= 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_handshake_ends() {
    let kit = Kit::new(1 << 20);
    let session = seeding(&kit).await;
    let mut stream = TcpStream::connect(session.peer_addr()).await.unwrap();
    stream.write_all(b"\x13BitTorrent").await.unwrap();
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok() && rest.is_empty());
}

/// A small memory file system, unmounted at the end. `None` where this user may not mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], folder.path()).then_some(Self(folder))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(
            mount(&["-o", &options], self.0.path()),
            "what was mounted can be mounted again"
        );
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the store under test may still have its files open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[expect(clippy::print_stderr, reason = "a test that does nothing says so")]
fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

fn mount(options: &[&str], folder: &Path) -> bool {
    let status = Command::new("mount").args(options).arg(folder).status();
    status.is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_pauses_one_content_until_there_is_room() {
    let Some(disk) = SmallDisk::new("4m") else {
        skip("this user may not mount");
        return;
    };
    let kit = Kit::new(12 << 20);
    let seeder = seeding(&kit).await;
    let leecher = session_with(2, |config| config.buffer_limit = ByteCount::mib(1)).await;
    let path = disk.0.path().join("leech");
    let target = Target::File {
        path,
        overwrite: false,
        rename_when_done: true,
    };
    let peers = vec![seeder.peer_addr()];
    let leech = leecher
        .add(ContentSpec {
            peers,
            target,
            ..kit.leech("x")
        })
        .await
        .unwrap();
    let mut events = leech.events();
    until(&leech, "paused", |progress| {
        matches!(progress.state, State::Paused(_))
    })
    .await;
    let State::Paused(reason) = leech.progress().borrow().state.clone() else {
        panic!("it was paused a moment ago and cannot resume by itself");
    };
    assert!(reason.contains("free some space"), "{reason}");
    disk.resize("64m");
    kit.completes(&leech).await;
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event {
            ContentEvent::Paused(_) => seen.push("paused"),
            ContentEvent::Resumed => seen.push("resumed"),
            _ => {}
        }
    }
    assert_eq!(seen.first(), Some(&"paused"));
    assert_eq!(seen.last(), Some(&"resumed"));
    leecher.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_taken_meanwhile_fails_and_nothing_is_overwritten() {
    let kit = Kit::new(1 << 20);
    let seeder = seeding(&kit).await;
    let leecher = session(2).await;
    let leech = leecher.add(kit.leech("leech")).await.unwrap();
    std::fs::write(kit.path("leech"), "precious").unwrap();
    leech.add_peers(vec![seeder.peer_addr()]);
    let error = timeout(PATIENCE, leech.done()).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, ContentError::Store(error) if error.is_target_taken()),
        "{error}"
    );
    assert_eq!(std::fs::read(kit.path("leech")).unwrap(), b"precious");
    // Whoever made room may try again.
    std::fs::remove_file(kit.path("leech")).unwrap();
    leech.finish();
    until(&leech, "done", |progress| progress.state == State::Done).await;
    kit.completes(&leech).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_whose_file_shrank_says_so_and_others_finish() {
    let kit = Kit::new(8 << 20);
    let (short, whole) = (session(1).await, session(2).await);
    let path = kit.write("short", |_| ());
    let seed = short.add(kit.seed(path.clone())).await.unwrap();
    let mut events = seed.events();
    std::fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let leecher = session(3).await;
    let peers = vec![short.peer_addr()];
    let leech = leecher
        .add(ContentSpec {
            peers,
            ..kit.leech("leech")
        })
        .await
        .unwrap();
    let lost = async { while !matches!(events.recv().await, Some(ContentEvent::PieceLost(_))) {} };
    timeout(PATIENCE, lost).await.expect("the seed must notice");
    whole
        .add(kit.seed(kit.write("whole", |_| ())))
        .await
        .unwrap();
    leech.add_peers(vec![whole.peer_addr()]);
    kit.completes(&leech).await;
    assert_eq!(
        seed.progress().borrow().state,
        State::Done,
        "it serves the rest"
    );
}
