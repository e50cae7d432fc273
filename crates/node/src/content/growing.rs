//! The driver's side of a content whose hashes become known while it is fetched: records come in, from control by the
//! handle and from own nodes by gossip; pieces become verifiable; at the end the content has its standard names.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use floodway_proto::digest::PieceDigest;
use floodway_proto::facts::NodeAt;
use floodway_proto::manifest::Manifest;
use floodway_proto::merkle::{piece_layer, whole_piece_node};
use floodway_proto::metainfo::Metainfo;
use floodway_proto::record::{
    Body, Fact, FinalNames, Head, SecretKey, Signed, State as ContentState,
};
use floodway_proto::torrents::Contents;
use floodway_proto::{InfoHash, Layout, PieceIndex, Sha1, Sha256, Time};
use floodway_store::Nodes;
use floodway_swarm::Input;
use floodway_swarm::gossip::{Gossip, GossipConfig, GossipInput, GossipOutput};

use super::driver::Driver;
use super::{ContentEvent, KnownTorrent, PeerOut};
use crate::manifest::truncated;

/// What is known of a content's hashes when it is added.
#[derive(Clone, Debug)]
pub struct Growth {
    /// By which records.
    pub manifest: Manifest,
    /// This node is a relay: it hears of everything from control, and tells all its neighbours at once.
    pub is_relay: bool,
    /// What a relay signs with that it reads under leases.
    pub signer: Option<Arc<SecretKey>>,
}

impl Growth {
    /// The hashes that are known.
    pub fn nodes(&self) -> Nodes {
        let pieces = 0..self.manifest.facts().space().limit();
        nodes(&self.manifest, pieces)
    }
}

/// The hashes of those of `pieces` that can be verified.
fn nodes(manifest: &Manifest, pieces: impl IntoIterator<Item = u32>) -> Nodes {
    let facts = manifest.facts();
    let pieces = pieces.into_iter();
    pieces
        .filter_map(|piece| Some((PieceIndex(piece), facts.piece_hash(piece)?)))
        .collect()
}

/// State of a content that grows.
pub(super) struct Growing {
    gossip: Gossip,
    /// When the gossip wants to be told the time.
    wake: Option<Time>,
    /// Of each piece held: what the v1 name is made of.
    sha1s: BTreeMap<PieceIndex, Sha1>,
    /// What the pieces hash to that are held and cannot be verified by others yet.
    unproven: BTreeMap<u32, Sha256>,
    /// Something came by which some of these may be proven.
    looks_at_own: bool,
    /// Nodes that were tried so, and are not tried again before a piece changes.
    disproved: BTreeSet<NodeAt>,
    complete: Option<Whole>,
    is_final: bool,
    /// It is final, and the hashes of all pieces are known.
    answers_all: bool,
    /// Pieces of a content before may be held, which are not known to be the same.
    adopts: bool,
    is_relay: bool,
}

/// A standard torrent of a content that is final.
struct Standard {
    /// A hybrid has two.
    names: Vec<InfoHash>,
    torrent: KnownTorrent,
}

impl Standard {
    fn new(names: Vec<InfoHash>, info: Vec<u8>, is_v2: bool) -> Self {
        let info = Bytes::from(info);
        let torrent = KnownTorrent { info, is_v2 };
        Self { names, torrent }
    }
}

/// Every piece is in the file.
#[derive(Clone, Copy)]
struct Whole {
    /// The digest of the whole, if it is wanted.
    sha256: Option<Sha256>,
}

/// What is known of a growing content.
pub(crate) struct Known<'a> {
    /// By records.
    pub(crate) manifest: &'a Manifest,
    /// Of the pieces that are held: the entries of the v1 torrent.
    pub(crate) sha1s: &'a BTreeMap<PieceIndex, Sha1>,
}

impl Growing {
    pub(super) fn known(&self) -> Known<'_> {
        Known {
            manifest: self.gossip.manifest(),
            sha1s: &self.sha1s,
        }
    }

    /// `is_final`: its torrent is known already, and what is known of its hashes is kept for others.
    pub(super) fn new(now: Time, growth: Growth, is_final: bool, adopts: bool) -> Self {
        let config = if growth.is_relay {
            GossipConfig {
                signer: growth.signer,
                ..GossipConfig::relay()
            }
        } else {
            GossipConfig::default()
        };
        Self {
            gossip: Gossip::new(now, growth.manifest, config, fastrand::u64(..)),
            wake: None,
            sha1s: BTreeMap::new(),
            unproven: BTreeMap::new(),
            looks_at_own: false,
            disproved: BTreeSet::new(),
            complete: None,
            is_final,
            answers_all: false,
            adopts,
            is_relay: growth.is_relay,
        }
    }

    /// When something is to be done although nothing happens.
    pub(super) fn wake(&self) -> Option<Time> {
        self.wake
    }

    /// These are the SHA-1 of all pieces: of a content whose torrent is known.
    pub(super) fn has_sha1s(&mut self, sha1s: &[Sha1]) {
        let pieces = (0..).map(PieceIndex);
        self.sha1s = pieces.zip(sha1s.iter().copied()).collect();
    }

    /// What is known by records.
    pub(super) fn manifest(&self) -> &Manifest {
        self.gossip.manifest()
    }

    /// The piece is held.
    pub(super) fn holds(&mut self, piece: PieceIndex, digest: &PieceDigest, layout: &Layout) {
        if let Some(sha1) = digest.sha1 {
            self.sha1s.insert(piece, sha1);
        }
        let is_proven = self.gossip.manifest().facts().is_verifiable(piece.0);
        if let Some(node) = digest.node.filter(|_| !is_proven) {
            self.unproven
                .insert(piece.0, whole_piece_node(node, &layout.of_piece(piece)));
            self.looks_at_own = true;
        }
    }

    /// What this node has read of the origin, for the relay to sign; `None` when others can verify it anyway.
    pub(super) fn read(
        &self,
        piece: PieceIndex,
        digest: &PieceDigest,
        layout: &Layout,
    ) -> Option<GossipInput> {
        let facts = self.gossip.manifest().facts();
        let (file, index) = facts.space().locate(piece.0)?;
        let is_short = layout.piece_size(piece) < layout.piece_length();
        if is_short && facts.space().file_length(file).is_none() {
            // Without the end, which only control says, others would ask for more than there is of it.
            return None;
        }
        let fact = Fact {
            file,
            layer: piece_layer(&layout.of_piece(piece))?,
            index,
            hash: digest.node?,
        };
        let piece = piece.0;
        (!facts.is_verifiable(piece)).then_some(GossipInput::Read { piece, fact })
    }

    /// A sealed node above pieces that this node has hashed itself, and the hashes of all pieces under it: a snapshot
    /// leaves those out, and whoever fetched the pieces may be the only one who knows them.
    fn own_proof(&mut self) -> Option<(NodeAt, Vec<Sha256>)> {
        if !std::mem::take(&mut self.looks_at_own) {
            return None;
        }
        let facts = self.gossip.manifest().facts();
        self.unproven
            .retain(|&piece, _| !facts.is_verifiable(piece));
        let mut done = 0;
        for &piece in self.unproven.keys() {
            let Some(node) = facts.sealed_node(piece).filter(|_| piece >= done) else {
                continue;
            };
            let pieces = facts.pieces_of(node);
            done = pieces.end;
            let known = |piece| {
                let own = self.unproven.get(&piece).copied();
                facts.piece_hash(piece).or(own)
            };
            if let Some(hashes) = pieces.map(known).collect::<Option<Vec<_>>>()
                && !self.disproved.contains(&node)
            {
                // There may be more.
                self.looks_at_own = true;
                self.disproved.insert(node);
                return Some((node, hashes));
            }
        }
        None
    }

    /// The piece is not held any more.
    pub(super) fn lost(&mut self, piece: PieceIndex) {
        self.sha1s.remove(&piece);
        self.unproven.remove(&piece.0);
        self.disproved.clear();
        self.complete = None;
    }

    /// True before the final names are known: the file has to wait for them.
    pub(super) fn is_open(&self) -> bool {
        !self.is_final
    }

    /// There are hashes to be learnt from others.
    pub(super) fn lacks_hashes(&self) -> bool {
        !self.answers_all
    }

    /// What is found wrong may be pieces of another content that were taken over.
    pub(super) fn adopts(&self) -> bool {
        self.adopts && !self.is_final
    }

    /// The pieces held are those of the torrent that control signed.
    fn has_the_v1(&self, names: &FinalNames) -> bool {
        let manifest = self.gossip.manifest();
        let sha1s: Vec<Sha1> = self.sha1s.values().copied().collect();
        let contents = Contents::of(manifest.genesis(), manifest.facts());
        contents.is_ok_and(|contents| contents.verify_v1(names, &sha1s).is_ok())
    }

    pub(super) fn head(&self) -> Head {
        self.gossip.manifest().complete_to()
    }

    /// The v1 torrent of the content, from this node's own hashes, unless these are not what control signed.
    fn v1(&self, names: &FinalNames) -> Option<Standard> {
        let manifest = self.gossip.manifest();
        let contents = Contents::of(manifest.genesis(), manifest.facts()).ok()?;
        let sha1s: Vec<Sha1> = self.sha1s.values().copied().collect();
        let v1 = contents.verify_v1(names, &sha1s).inspect_err(|error| {
            tracing::error!(%error, "the v1 name that control signed is not that of these bytes; it is not used");
        });
        v1.ok()?;
        let info = contents.v1_info(&sha1s).ok()?;
        Some(Standard::new(vec![names.v1?], info, false))
    }

    /// The torrents whose peers ask for hashes of pieces: v2, and the hybrid of who has the v1 torrent too.
    fn v2(&self, names: &FinalNames) -> Vec<Standard> {
        let manifest = self.gossip.manifest();
        let Ok(contents) = Contents::of(manifest.genesis(), manifest.facts()) else {
            return Vec::new();
        };
        let v2 = names.v2.and_then(|name| {
            let info = contents.v2_info(&names.roots).ok()?;
            Some(Standard::new(vec![truncated(name)], info, true))
        });
        let hybrid = names.hybrid.filter(|_| self.has_the_v1(names));
        let hybrid = hybrid.and_then(|(v1, v2)| {
            let sha1s: Vec<Sha1> = self.sha1s.values().copied().collect();
            let info = contents.hybrid_info(&sha1s, &names.roots).ok()?;
            Some(Standard::new(vec![v1, truncated(v2)], info, true))
        });
        v2.into_iter().chain(hybrid).collect()
    }

    /// What each piece hashes to, once control has signed all of it.
    fn all_hashes(&self) -> Option<Arc<[Sha256]>> {
        let facts = self.gossip.manifest().facts();
        let count = facts.space().piece_count()?;
        let pieces = (facts.proven_pieces() == count).then_some(0..count)?;
        pieces.map(|piece| facts.piece_hash(piece)).collect()
    }
}

impl Driver {
    /// Feeds the gossip one thing; nothing happens for contents whose hashes are all known.
    pub(super) fn gossip(&mut self, input: GossipInput) {
        if let Some(growing) = &mut self.growing {
            growing.gossip.handle_input(self.session.now(), input);
        }
    }

    pub(super) fn records(&mut self, records: Vec<Signed>) {
        for record in records {
            self.gossip(GossipInput::Record(record));
        }
    }

    /// What was known when the content was added holds in the store already.
    pub(super) fn begin_growing(&mut self) {
        let Some(growing) = &self.growing else {
            return;
        };
        let known = nodes(
            growing.gossip.manifest(),
            0..self.shared.layout().piece_count(),
        );
        // A later run of a final content: its names are known.
        let names = growing.gossip.manifest().final_names();
        let names = names.filter(|_| growing.is_final);
        let v1 = names.and_then(|names| growing.v1(names));
        self.answer_by(v1.as_slice());
        self.verifiable(known.keys().copied());
        self.look_final();
        self.look_whole();
    }

    /// Does what the gossip wants now.
    pub(super) fn settle_gossip(&mut self) {
        loop {
            self.learn_length();
            let Some(growing) = &mut self.growing else {
                return;
            };
            match growing.gossip.poll_output() {
                GossipOutput::WakeAt(at) => {
                    growing.wake = at;
                    let Some((node, hashes)) = growing.own_proof() else {
                        break;
                    };
                    self.gossip(GossipInput::Hashes { node, hashes });
                }
                GossipOutput::Send { peer, message } => {
                    self.order(peer, PeerOut::Manifest(message));
                }
                GossipOutput::Drop { peer, fault } => {
                    tracing::warn!(?peer, ?fault, "a neighbour broke the rules of the manifest");
                    self.input(Input::Banish { peer });
                }
                GossipOutput::Accepted(record) => {
                    growing.looks_at_own = true;
                    // What relays attest is worth nothing any more once control has signed it: neighbours tell it again.
                    if !matches!(record.record().body, Body::Attest(_)) {
                        self.tell(ContentEvent::Record(record));
                    }
                }
                GossipOutput::Changed(changes) => {
                    for conflict in &changes.conflicts {
                        tracing::error!(?conflict, "relays contradict each other");
                    }
                    // A relay may have attested something else before.
                    let disputed = changes.conflicts.iter().map(|conflict| conflict.piece);
                    let disputed: Vec<u32> = disputed.collect();
                    let pieces = changes.verifiable.into_iter().flatten().chain(disputed);
                    self.store.learn(nodes(growing.gossip.manifest(), pieces));
                }
                GossipOutput::StateChanged => self.state_changed(),
                GossipOutput::Refused(refusal) => {
                    tracing::error!(%refusal, "a record about this content does not count");
                }
                GossipOutput::AskHttp(question) => self.ask_for_help(question),
                GossipOutput::HttpFault => self.helper_lied(),
            }
        }
        self.look_whole();
        if let Some(growing) = &self.growing {
            self.shared.set_head(growing.head());
        }
    }

    /// Pieces whose hashes the store knows from now on.
    pub(super) fn learnt(&mut self, pieces: Vec<PieceIndex>) {
        self.verifiable(pieces.into_iter());
        if let Some(growing) = &self.growing {
            let facts = growing.gossip.manifest().facts();
            self.tell(ContentEvent::Facts {
                verifiable: facts.proven_pieces(),
            });
        }
        self.look_final();
    }

    fn verifiable(&mut self, pieces: impl Iterator<Item = PieceIndex>) {
        for run in runs(pieces) {
            self.input(Input::Verifiable {
                pieces: run.clone(),
            });
            self.show(run.map(PieceIndex));
        }
    }

    fn state_changed(&mut self) {
        if let Some(growing) = &self.growing {
            match growing.gossip.manifest().state() {
                ContentState::Aborted(reason) => {
                    tracing::warn!(?reason, "control gave this content up");
                }
                ContentState::Superseded { reason, successor } => {
                    tracing::warn!(?reason, %successor, "another content has taken this one's place");
                }
                ContentState::Open | ContentState::Complete | ContentState::Final(_) => {}
            }
        }
        self.look_final();
    }

    /// Every piece is held, and in the file.
    pub(super) fn all_held(&mut self, sha256: Option<Sha256>) {
        if let Some(growing) = &mut self.growing {
            growing.complete = Some(Whole { sha256 });
        }
        self.look_final();
    }

    /// Peers may come by the names of these torrents, and know no more than that.
    fn answer_by(&self, torrents: &[Standard]) {
        // Where there were no names so far there are to be no peers, or the owner adds all names later.
        let is_open = !self.shared.names().is_empty();
        for Standard { names, torrent } in torrents {
            for &name in names {
                self.shared.add_torrent(name, torrent.clone());
                if !is_open {
                    continue;
                }
                // The same bytes of another content of this node: that one answers by their common name.
                if let Err(error) = self.shared.add_name(&self.session, name) {
                    tracing::info!(%error, "a final name is taken");
                }
            }
        }
    }

    /// Takes the final names once they are signed and every piece is held: they follow from what was hashed on the way,
    /// so nobody is asked for them.
    fn look_final(&mut self) {
        let Some(growing) = &mut self.growing else {
            return;
        };
        let names = growing.gossip.manifest().final_names();
        let (false, Some(names), Some(Whole { sha256 })) =
            (growing.is_final, names.cloned(), growing.complete)
        else {
            return;
        };
        // What was here before, perhaps taken over from another content, is judged by hashes that may still be to come.
        if !growing.is_relay && !self.swarm.all_verifiable() && !growing.has_the_v1(&names) {
            return;
        }
        growing.is_final = true;
        let v1 = growing.v1(&names);
        let torrent = v1.as_ref().and_then(|v1| {
            Metainfo::decode(&[b"d4:info", &v1.torrent.info[..], b"e"].concat()).ok()
        });
        self.answer_by(v1.as_slice());
        self.shared.is_final.store(true, Ordering::Relaxed);
        self.tell(ContentEvent::Final {
            torrent: torrent.map(Arc::new),
            name: v1.and_then(|v1| v1.names.first().copied()),
        });
        self.look_whole();
        self.offer_help();
        if self.rename {
            self.store.finish();
        } else {
            self.succeed(self.path.clone(), sha256, None, false);
        }
    }

    /// Answers by the names of the torrents whose peers ask for hashes, once the content is final and all hashes are known. Who
    /// joined late knows them later than the bytes.
    fn look_whole(&mut self) {
        let Some(growing) = &mut self.growing else {
            return;
        };
        if !growing.is_final || growing.answers_all {
            return;
        }
        let names = growing.gossip.manifest().final_names();
        let Some((names, hashes)) = names.zip(growing.all_hashes()) else {
            return;
        };
        let standard = growing.v2(names);
        growing.answers_all = true;
        self.answer_by(&standard);
        let names = standard.into_iter().flat_map(|of| of.names).collect();
        self.tell(ContentEvent::AllHashes { names, hashes });
        self.offer_help();
    }
}

/// Ascending pieces as runs.
fn runs(pieces: impl Iterator<Item = PieceIndex>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for PieceIndex(piece) in pieces {
        match runs.last_mut() {
            Some(last) if last.end == piece => last.end += 1,
            _ => runs.push(piece..piece + 1),
        }
    }
    runs
}
