//! What we say to a peer: several messages per write, blocks read from the store in large extents.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use floodway_proto::wire::manifest::MANIFEST;
use floodway_proto::wire::{ExtendedHandshake, HttpClaims, METADATA, Message, OwnNode};
use floodway_proto::{InfoHash, PieceIndex, Site};
use floodway_swarm::{Input, Sender};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::WriteHalf;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::batch::{Batch, Ids};
use super::outbox::Outbox;
use super::queueing::Queueing;
use super::unsent::Unsent;
use super::{CLAIMS_ID, Connection, IS_RELAY, KNOWS_FINAL, MANIFEST_ID, METADATA_ID, PeerError};
use crate::content::{Item, Packet, PeerOut, Shared};
use crate::session::Session;

/// Most block bytes in one write: enough to read the disk in large steps.
const BATCH_BYTES: usize = 512 * 1024;
/// Most slices in one system call.
const SLICES: usize = 256;
/// A peer hears from us at least this often; peers give up after two minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(90);
/// How many requests a peer may have outstanding here.
const REQUEST_QUEUE: u32 = 2000;
/// Version of what own nodes say to each other.
const OWN_VERSION: u32 = 1;

/// A batch that is being made ready.
enum Loading {
    /// It has no blocks.
    Ready(Batch),
    /// Its blocks are being read; an error is a piece that cannot be.
    Reading(JoinHandle<Result<Batch, PieceIndex>>),
}

impl Connection {
    /// Sends what the driver queues, until it hangs up.
    pub(super) async fn write(
        &self,
        mut stream: WriteHalf<'_>,
        mut orders: mpsc::UnboundedReceiver<Vec<PeerOut>>,
        extensions: bool,
    ) -> Result<(), PeerError> {
        let mut outbox = Outbox::default();
        if extensions {
            let payload = Bytes::from(hello(&self.session, &self.content, self.name).encode());
            self.say(&mut outbox, Message::Extended { id: 0, payload });
        }
        let mut unsent = Unsent::new(stream.as_ref());
        let mut queueing = Queueing::new();
        let mut loading = None;
        loop {
            if loading.is_none() {
                self.next_orders(&mut outbox, &mut orders).await?;
                loading = self.load(&mut outbox, &unsent);
            }
            let answers = match loading.take() {
                Some(loading) => self.loaded(loading).await?,
                None => Batch::default(),
            };
            while let Ok(more) = orders.try_recv() {
                outbox.extend(more);
            }
            let messages = self.fill(&mut outbox.messages, BATCH_BYTES);
            // The next extent is read while this one is sent.
            loading = self.load(&mut outbox, &unsent);
            self.session.up().ready().await;
            unsent.begins();
            send_all(&mut stream, &messages, &answers).await?;
            let length = messages.length() + answers.length();
            unsent.took(stream.as_ref(), length);
            self.session.up().charge(length);
            self.sent(messages, None).await?;
            let has_blocks = !answers.blocks().is_empty();
            let delay = has_blocks
                .then(|| queueing.delay(stream.as_ref()))
                .flatten();
            self.sent(answers, delay).await?;
        }
    }

    /// What the driver did not order.
    fn say(&self, outbox: &mut Outbox, message: Message) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        outbox.push(PeerOut::Message(message));
    }

    /// Fills the outbox; with a keep-alive when there is nothing to say for long.
    async fn next_orders(
        &self,
        outbox: &mut Outbox,
        orders: &mut mpsc::UnboundedReceiver<Vec<PeerOut>>,
    ) -> Result<(), PeerError> {
        let until = Instant::now() + KEEP_ALIVE;
        while outbox.is_empty() {
            match timeout_at(until, orders.recv()).await {
                Ok(Some(more)) => outbox.extend(more),
                Ok(None) => return Err(PeerError::HungUp),
                Err(_) => self.say(outbox, Message::KeepAlive),
            }
        }
        while let Ok(more) = orders.try_recv() {
            outbox.extend(more);
        }
        Ok(())
    }

    fn fill(&self, queue: &mut VecDeque<PeerOut>, bytes_max: usize) -> Batch {
        let ids = Ids {
            claims: self.claims_id.load(Ordering::Relaxed),
            manifest: self.manifest_id.load(Ordering::Relaxed),
            metadata: self.metadata_id.load(Ordering::Relaxed),
        };
        let waited = queue.len();
        let batch = Batch::fill(queue, self.content.layout(), bytes_max, ids);
        (self.waiting).fetch_sub(waited - queue.len(), Ordering::Relaxed);
        batch
    }

    /// Begins to read the next blocks, if any wait.
    fn load(&self, outbox: &mut Outbox, unsent: &Unsent) -> Option<Loading> {
        if outbox.answers.is_empty() {
            return None;
        }
        let mut batch = self.fill(&mut outbox.answers, self.batch_bytes(unsent));
        if batch.blocks().is_empty() {
            return Some(Loading::Ready(batch));
        }
        let (session, content) = (self.session.clone(), Arc::clone(&self.content));
        Some(Loading::Reading(tokio::task::spawn_blocking(move || {
            let buffer = session.send_pool().take(batch.data_length());
            batch.read(buffer, &content)?;
            Ok(batch)
        })))
    }

    async fn loaded(&self, loading: Loading) -> Result<Batch, PeerError> {
        let reading = match loading {
            Loading::Ready(batch) => return Ok(batch),
            Loading::Reading(reading) => reading,
        };
        match reading.await.map_err(io::Error::other)? {
            Ok(batch) => Ok(batch),
            Err(piece) => {
                let packet = Packet::Unreadable(piece);
                self.content
                    .packets
                    .send(packet)
                    .await
                    .map_err(|_| PeerError::HungUp)?;
                // The peer waits for blocks that we cannot give: it asks others after this.
                Err(PeerError::HungUp)
            }
        }
    }

    /// Small batches under a small limit, so that it holds within a second; and on a slow connection, so that messages do
    /// not wait for long.
    fn batch_bytes(&self, unsent: &Unsent) -> usize {
        let eighth = self.session.up().rate().0 / 8;
        let bytes = usize::try_from(eighth.min(unsent.limit())).unwrap_or(usize::MAX);
        bytes.clamp(1, BATCH_BYTES)
    }

    /// Tells the engine which blocks were sent, and the delay of what is sent if it is known anew.
    async fn sent(&self, batch: Batch, delay: Option<Duration>) -> Result<(), PeerError> {
        if batch.answer_count() > 0 {
            let count = batch.answer_count();
            self.unanswered
                .send_modify(|unanswered| *unanswered = unanswered.saturating_sub(count));
        }
        if batch.blocks().is_empty() {
            return Ok(());
        }
        self.session
            .metrics()
            .peer_sent
            .add(batch.data_length() as u64);
        let peer = self.key;
        let sent = batch.blocks().iter();
        let sent = sent.map(|&block| Input::BlockSent { peer, block });
        let delay = delay.map(|delay| Input::Queueing { peer, delay });
        let items = sent.chain(delay).map(Item::Input).collect();
        self.session.send_pool().give(batch.into_buffer());
        let packet = Packet::Items {
            from: Sender::Peer(peer),
            source: None,
            items,
        };
        self.content
            .packets
            .send(packet)
            .await
            .map_err(|_| PeerError::HungUp)
    }
}

async fn send_all(stream: &mut WriteHalf<'_>, messages: &Batch, answers: &Batch) -> io::Result<()> {
    let mut all = messages.slices();
    all.extend(answers.slices());
    let mut slices = &mut all[..];
    while !slices.is_empty() {
        let few = &slices[..slices.len().min(SLICES)];
        let written = stream.write_vectored(few).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

/// What we say of ourselves (BEP 10) to a peer that came by `name`, or was asked for by it.
fn hello(session: &Session, content: &Shared, name: InfoHash) -> ExtendedHandshake {
    let mut names = names(content);
    let torrent = content.torrent(name);
    if torrent.is_some() {
        names.insert(METADATA.to_owned(), METADATA_ID);
    }
    ExtendedHandshake {
        names,
        client: Some(concat!("Floodway/", env!("CARGO_PKG_VERSION")).into()),
        listen_port: Some(session.peer_addr().port()),
        request_queue: Some(REQUEST_QUEUE),
        metadata_size: torrent.and_then(|torrent| u32::try_from(torrent.info.len()).ok()),
        // The engine says when a peer is to know of our site.
        floodway: own_node(session, content, None),
        ..ExtendedHandshake::default()
    }
}

/// The extended messages that own nodes send each other.
fn names(content: &Shared) -> BTreeMap<String, u8> {
    let mut names = BTreeMap::from([(HttpClaims::NAME.to_owned(), CLAIMS_ID)]);
    if content.growth.is_some() {
        names.insert(MANIFEST.to_owned(), MANIFEST_ID);
    }
    names
}

/// What we say of ourselves to own nodes.
fn own_node(session: &Session, content: &Shared, site: Option<Site>) -> Option<OwnNode> {
    let mut capabilities = 0;
    if content.is_final() {
        capabilities |= KNOWS_FINAL;
    }
    if content
        .growth
        .as_ref()
        .is_some_and(|growth| growth.is_relay)
    {
        capabilities |= IS_RELAY;
    }
    content.sid.map(|sid| OwnNode {
        version: OWN_VERSION,
        sid,
        node: session.node(),
        capabilities,
        head: content.head(),
        site,
    })
}

/// A later handshake, which tells an own node where we stand.
pub(crate) fn site_message(session: &Session, content: &Shared, site: Site) -> Message {
    let said = ExtendedHandshake {
        // Said again for nodes that take each handshake for all that is said.
        names: names(content),
        floodway: own_node(session, content, Some(site)),
        ..ExtendedHandshake::default()
    };
    let payload = Bytes::from(said.encode());
    Message::Extended { id: 0, payload }
}
