//! The first 68 bytes in both directions.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use floodway_proto::InfoHash;
use floodway_proto::wire::{HANDSHAKE_LENGTH, Handshake, PROTOCOL};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::socket::prepare;
use super::{Connected, Connection, PeerError};
use crate::content::{Packet, Shared};
use crate::session::Session;

/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the peer's part of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes a connection that somebody opened to the listener, for as long as it lasts.
pub(crate) async fn inbound(session: Session, stream: TcpStream, addr: SocketAddr) {
    match timeout(HANDSHAKE_TIMEOUT, answer(&session, stream, addr)).await {
        Ok(Ok((content, peer))) => {
            let closing = session.closing().clone();
            tokio::select! {
                () = Connection::run(session, content, peer) => {}
                () = closing.cancelled() => {}
            }
        }
        Ok(Err(error)) => {
            session.metrics().inbound_refused.add(1);
            tracing::debug!(%addr, %error, "inbound connection refused");
        }
        Err(_) => {
            session.metrics().inbound_refused.add(1);
            tracing::debug!(%addr, "inbound connection said nothing in time");
        }
    }
}

async fn answer(
    session: &Session,
    mut stream: TcpStream,
    addr: SocketAddr,
) -> Result<(Arc<Shared>, Connected), PeerError> {
    let place = Arc::clone(session.peers())
        .try_acquire_owned()
        .map_err(|_| PeerError::Full)?;
    prepare(&stream)?;
    let mut bytes = [0; HANDSHAKE_LENGTH];
    // The first bytes decide: whatever does not begin like this may wait for ever to send 68.
    stream.read_exact(&mut bytes[..PROTOCOL.len()]).await?;
    if !bytes.starts_with(PROTOCOL) {
        return Err(PeerError::NotBitTorrent);
    }
    stream.read_exact(&mut bytes[PROTOCOL.len()..]).await?;
    let theirs = Handshake::decode(&bytes)?;
    if theirs.peer == session.name() {
        return Err(PeerError::Oneself);
    }
    let content = session.find(theirs.info_hash).ok_or(PeerError::Unknown)?;
    stream
        .write_all(&ours(session, theirs.info_hash).encode())
        .await?;
    Ok((
        content,
        Connected {
            stream,
            theirs,
            addr,
            inbound: true,
            place,
        },
    ))
}

/// Opens a connection that the engine asked for, and keeps it for as long as it lasts. The peer may know the content by any
/// of `names`.
pub(crate) async fn dial(
    session: Session,
    content: Arc<Shared>,
    addr: SocketAddr,
    names: Vec<InfoHash>,
) {
    match open(&session, addr, names).await {
        Ok(peer) => Connection::run(session, content, peer).await,
        Err(error) => {
            tracing::debug!(%addr, %error, "dial failed");
            // A driver that is gone does not care.
            let _ = content.packets.send(Packet::DialFailed(addr)).await;
        }
    }
}

async fn open(
    session: &Session,
    addr: SocketAddr,
    names: Vec<InfoHash>,
) -> Result<Connected, PeerError> {
    if session.is_self(addr) {
        return Err(PeerError::Oneself);
    }
    let place = Arc::clone(session.peers())
        .try_acquire_owned()
        .map_err(|_| PeerError::Full)?;
    let _half_open = session
        .dials()
        .acquire()
        .await
        .map_err(|_| PeerError::HungUp)?;
    // A peer that does not know a name hangs up without a word: it may know another.
    for name in names {
        match greet(session, name, addr).await {
            Ok((stream, theirs)) => {
                return Ok(Connected {
                    stream,
                    theirs,
                    addr,
                    inbound: false,
                    place,
                });
            }
            Err(PeerError::Refused) => {}
            Err(error) => return Err(error),
        }
    }
    Err(PeerError::Refused)
}

async fn greet(
    session: &Session,
    name: InfoHash,
    addr: SocketAddr,
) -> Result<(TcpStream, Handshake), PeerError> {
    let connect = timeout(CONNECT_TIMEOUT, TcpStream::connect(addr));
    let mut stream = connect.await.map_err(|_| PeerError::ConnectTimeout)??;
    prepare(&stream)?;
    let mut bytes = [0; HANDSHAKE_LENGTH];
    let exchange = async {
        stream.write_all(&ours(session, name).encode()).await?;
        stream.read_exact(&mut bytes).await
    };
    match timeout(HANDSHAKE_TIMEOUT, exchange).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if is_hang_up(&error) => return Err(PeerError::Refused),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(PeerError::HandshakeTimeout),
    }
    let theirs = Handshake::decode(&bytes)?;
    if theirs.info_hash != name {
        return Err(PeerError::OtherContent);
    }
    if theirs.peer == session.name() {
        session.found_self(addr);
        return Err(PeerError::Oneself);
    }
    Ok((stream, theirs))
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

fn ours(session: &Session, info_hash: InfoHash) -> Handshake {
    Handshake {
        info_hash,
        peer: session.name(),
        extensions: true,
        fast: true,
    }
}
