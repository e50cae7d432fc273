//! What is found when a store is opened: a finished file, unfinished data and its journal, or nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use floodway_proto::digest::PieceDigest;
use floodway_proto::{Bitfield, BlockId, Layout, PieceIndex};

use crate::adopt;
use crate::error::{OpenError, StoreError};
use crate::files::{FileMap, Missing, keep_only};
use crate::hashing::{agrees, digest_pieces};
use crate::journal::{Header, Held, Journal, Recorded, block_runs, folder_of};
use crate::spec::{Hashes, Nodes, Note, Opened, Spec};
use crate::writer::{Ledger, Paths};

/// What a store starts with.
pub(crate) struct Found {
    pub(crate) files: FileMap,
    pub(crate) opened: Opened,
    /// With the reason to write: where to. `None` when the file has its final name.
    pub(crate) unfinished: Option<(Paths, Ledger)>,
}

impl Paths {
    pub(crate) fn new(target: &Path, overwrite: bool) -> Result<Self, OpenError> {
        let not_a_name = || OpenError::NotAFileName(target.to_owned());
        let name = target.file_name().ok_or_else(not_a_name)?;
        let folder = folder_of(target);
        if !folder.is_dir() {
            return Err(OpenError::NoFolder(folder.to_owned()));
        }
        let beside = |suffix| {
            let mut name = name.to_owned();
            name.push(suffix);
            target.with_file_name(name)
        };
        Ok(Self {
            target: target.to_owned(),
            data: beside(".floodway"),
            journal: beside(".floodway-journal"),
            old: beside(".floodway-old"),
            overwrite,
        })
    }
}

/// In the journal of a content whose length was not known when it was opened.
pub(crate) const UNKNOWN: u64 = u64::MAX;

/// The length of a layout that has one hash for each piece.
pub(crate) fn checked_length(
    target: &Path,
    layout: &Layout,
    hashes: &Hashes,
) -> Result<u64, OpenError> {
    check_count(layout, hashes)?;
    let unknown = || OpenError::LengthUnknown(target.to_owned());
    layout.length().ok_or_else(unknown)
}

/// # Errors
/// [`OpenError::HashCount`] unless there is one hash for each piece.
pub(crate) fn check_count(layout: &Layout, hashes: &Hashes) -> Result<(), OpenError> {
    match hashes {
        Hashes::V1(hashes) if hashes.len() != layout.piece_count() as usize => {
            Err(OpenError::HashCount {
                expected: layout.piece_count(),
                found: hashes.len(),
            })
        }
        Hashes::V1(_) | Hashes::Facts(_) | Hashes::Unknown => Ok(()),
    }
}

/// Looks at the target and at unfinished data beside it, and makes the store's files ready.
pub(crate) fn find(spec: &Spec) -> Result<Found, OpenError> {
    // Hashes that become known piece by piece may say so much later.
    let length = match &spec.hashes {
        Hashes::Facts(_) => spec.layout.length(),
        hashes => Some(checked_length(&spec.target, &spec.layout, hashes)?),
    };
    let paths = Paths::new(&spec.target, spec.overwrite)?;
    if length_of(&paths.target)?.is_none() {
        let (journal, recorded) = Journal::lock(paths.journal.clone(), &paths.target)?;
        return resume(spec, length, paths, journal, &recorded);
    }
    if paths.target.is_dir() && spec.layout.files().is_none() {
        return Err(OpenError::IsFolder(paths.target));
    }
    // Locked even though the target is there: an earlier process may have been killed between rename and clean-up.
    let locked = match length_of(&paths.journal)? {
        Some(_) => Some(Journal::lock(paths.journal.clone(), &paths.target)?),
        None => None,
    };
    let found = open_target(&paths.target, &spec.layout)?;
    let was_finished = locked.as_ref().is_some_and(|(_, recorded)| {
        recorded.finishing && is_same(recorded, spec, length) && !paths.data.exists()
    });
    if let Some(files) = found
        && (was_finished
            || (matches!(spec.hashes, Hashes::V1(_))
                && verify_all(&files, &spec.layout, &spec.hashes)?))
    {
        clean_up(&paths, locked)?;
        return Ok(finished(spec, length, files));
    }
    match (&spec.hashes, spec.overwrite) {
        (_, true) => {
            let (journal, recorded) = match locked {
                Some(locked) => locked,
                None => Journal::lock(paths.journal.clone(), &paths.target)?,
            };
            resume(spec, length, paths, journal, &recorded)
        }
        (_, false) if spec.layout.files().is_some() => Err(OpenError::FolderExists(paths.target)),
        (Hashes::V1(_), false) => Err(OpenError::TargetDiffers(paths.target)),
        (Hashes::Facts(_) | Hashes::Unknown, false) => Err(OpenError::TargetExists(paths.target)),
    }
}

/// What has the target's name, if it has the content's lengths.
fn open_target(target: &Path, layout: &Layout) -> Result<Option<FileMap>, StoreError> {
    if let Some(files) = layout.files() {
        return match FileMap::open_folder(target, files) {
            Ok(files) => Ok(Some(files)),
            Err(Missing::Length { .. }) => Ok(None),
            Err(Missing::Refused(error)) => Err(error),
        };
    }
    // Of an unknown length nothing can be known to be the whole.
    if length_of(target)? != layout.length() {
        return Ok(None);
    }
    Ok(Some(FileMap::open(target)?.0))
}

/// The length of what is at `path`; `None` when nothing is there.
fn length_of(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(data) if data.is_symlink() => fs::metadata(path)
            .map(|data| Some(data.len()))
            .map_err(|error| StoreError::new(path, "follow the link", error)),
        Ok(data) => Ok(Some(data.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::new(path, "examine", error)),
    }
}

/// True when the journal speaks of this content. Its length may have become known since, or have been known to an earlier run
/// only.
fn is_same(recorded: &Recorded, spec: &Spec, length: Option<u64>) -> bool {
    recorded.header.is_some_and(|header| {
        let length = length.filter(|_| header.length != UNKNOWN);
        header
            == Header {
                boot: header.boot,
                length: length.unwrap_or(header.length),
                ..header_of(spec, length)
            }
    })
}

fn header_of(spec: &Spec, length: Option<u64>) -> Header {
    Header {
        identity: spec.identity,
        length: length.unwrap_or(UNKNOWN),
        piece_length: spec.layout.piece_length(),
        block_length: spec.layout.block_length(),
        boot: boot(),
    }
}

/// Names this boot of the machine; all zero where the system does not tell.
fn boot() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}

fn verify_all(files: &FileMap, layout: &Layout, hashes: &Hashes) -> Result<bool, StoreError> {
    let pieces: Vec<PieceIndex> = layout.pieces().collect();
    let read = |at: u64, out: &mut [u8]| files.read(at, out);
    let digests = digest_pieces(layout, hashes, &pieces, read, |_| ())?;
    let mut judged = pieces.iter().zip(&digests);
    Ok(judged.all(|(&piece, digest)| agrees(digest, hashes, layout, piece)))
}

/// Removes what an earlier process left beside the finished file.
fn clean_up(paths: &Paths, locked: Option<(Journal, Recorded)>) -> Result<(), StoreError> {
    if let Some((journal, _)) = locked {
        remove(&paths.data)?;
        remove(&paths.old)?;
        journal.remove()?;
    }
    Ok(())
}

/// Removes a file or a whole folder, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let is_folder = path.symlink_metadata().is_ok_and(|data| data.is_dir());
    let removed = if is_folder {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(StoreError::new(path, "remove", error))
        }
        _ => Ok(()),
    }
}

fn finished(spec: &Spec, length: Option<u64>, files: FileMap) -> Found {
    Found {
        files,
        opened: Opened {
            have: Bitfield::full(spec.layout.piece_count()),
            partial: Vec::new(),
            digests: Vec::new(),
            complete: true,
            resumed_bytes: length.unwrap_or(0),
            note: None,
        },
        unfinished: None,
    }
}

/// Keeps of unfinished data what can be trusted, and makes the rest ready to be fetched.
fn resume(
    spec: &Spec,
    length: Option<u64>,
    paths: Paths,
    mut journal: Journal,
    recorded: &Recorded,
) -> Result<Found, OpenError> {
    let data_length = length_of(&paths.data)?;
    remove(&paths.old)?;
    let is_folder = spec.layout.files().is_some();
    let adopted = adopt::of_predecessor(spec, recorded)
        .filter(|_| paths.data.is_file() || (is_folder && paths.data.is_dir()));
    let is_same = adopted.is_some() || is_same(recorded, spec, length);
    let recorded = adopted.as_ref().unwrap_or(recorded);
    let mut note = match (&recorded.header, data_length) {
        (Some(_), _) if !is_same => Some(Note::OtherContent),
        (Some(_), None) if !recorded.pieces.is_empty() => Some(Note::NoRecord),
        (None, Some(_)) => Some(Note::NoRecord),
        _ => None,
    };
    let usable = is_same && data_length.is_some();
    if !usable {
        remove(&paths.data)?;
    }
    let (files, is_intact, readable) = if let Some(files) = spec.layout.files() {
        if adopted.is_some() {
            keep_only(&paths.data, files)?;
        }
        let (files, is_intact) = FileMap::create_folder(&paths.data, &paths.target, files)?;
        (files, is_intact, spec.layout.limit())
    } else {
        let (files, before) =
            FileMap::create(&paths.data, &paths.target, length, spec.layout.limit())?;
        let is_intact = match recorded.header.map(|old| old.length) {
            // A file whose length was not known is as long as what was written of it.
            Some(UNKNOWN) => before >= written_to(&spec.layout, recorded),
            expected => Some(before) == expected,
        };
        // One whose length is not known now was not given any: it may be shorter than the journal says.
        (files, is_intact, length.unwrap_or(before))
    };
    let header = header_of(spec, length);
    let mut kept = Recorded {
        header: Some(header),
        ..Recorded::default()
    };
    if usable {
        let is_this_boot = recorded
            .header
            .is_some_and(|old| old.boot == header.boot && header.boot != [0; 16]);
        let trust = Trust {
            spec,
            is_intact,
            readable,
            is_this_boot,
        };
        let untrusted = trust.judge(recorded, &files, &mut kept)?;
        if untrusted > 0 {
            note = Some(Note::Untrusted(untrusted));
        }
    }
    journal.rewrite(&kept)?;
    let unsynced: BTreeSet<PieceIndex> = kept
        .pieces
        .iter()
        .filter(|(_, held)| !held.synced)
        .map(|(&piece, _)| piece)
        .collect();
    let opened = opened(spec, &kept, note);
    Ok(Found {
        files,
        opened,
        unfinished: Some((paths, Ledger::new(journal, unsynced))),
    })
}

/// How long a file must be in which all is that the journal records.
fn written_to(layout: &Layout, recorded: &Recorded) -> u64 {
    let whole = recorded.pieces.keys().next_back();
    let whole = whole.map_or(0, |&piece| layout.piece_bytes(piece).end);
    let blocks = recorded.partial.iter().filter_map(|(&piece, runs)| {
        let last = blocks_of(layout, piece, runs).iter_ones().last();
        last.map(|index| layout.block_bytes(BlockId { piece, index }).end)
    });
    blocks.fold(whole, u64::max)
}

/// What the store tells of what was kept.
fn opened(spec: &Spec, kept: &Recorded, note: Option<Note>) -> Opened {
    let layout = &spec.layout;
    let mut have = Bitfield::new(layout.piece_count());
    let mut resumed_bytes = 0;
    for piece in kept.pieces.keys() {
        have.set(piece.0);
        resumed_bytes += u64::from(layout.piece_size(*piece));
    }
    let mut partial = Vec::new();
    for (&piece, runs) in &kept.partial {
        let blocks = blocks_of(layout, piece, runs);
        for index in blocks.iter_ones() {
            resumed_bytes += u64::from(layout.block_size(BlockId { piece, index }));
        }
        partial.push((piece, blocks));
    }
    let digests = kept
        .pieces
        .iter()
        .map(|(&piece, held)| (piece, held.digest));
    Opened {
        have,
        partial,
        digests: digests.collect(),
        complete: false,
        resumed_bytes,
        note,
    }
}

/// Blocks that the journal records, as far as the piece has them.
fn blocks_of(layout: &Layout, piece: PieceIndex, runs: &[(u32, u32)]) -> Bitfield {
    let count = layout.block_count(piece);
    let mut blocks = Bitfield::new(count);
    for &(first, length) in runs {
        for index in first..first.saturating_add(length).min(count) {
            blocks.set(index);
        }
    }
    blocks
}

/// How far the journal can be believed.
struct Trust<'a> {
    spec: &'a Spec,
    /// False when the file has not the length it was given: somebody cut it.
    is_intact: bool,
    /// How many bytes the data has now.
    readable: u64,
    /// True when the machine has not been started since: what was written is still in the page cache.
    is_this_boot: bool,
}

/// What to do with one recorded piece.
enum Judgement {
    Trust,
    /// Trust it if its digest is what the store's hashes say, or else this.
    Hash(Option<PieceDigest>),
    Discard,
}

impl Trust<'_> {
    fn piece(&self, piece: PieceIndex, held: &Held) -> Judgement {
        let is_synced = self.is_intact && held.synced;
        let is_there = self.is_intact && (held.synced || self.is_this_boot);
        let known = held.digest;
        match &self.spec.hashes {
            Hashes::V1(_) if known.sha1.is_some() => match self.agrees(&known, piece) {
                true if is_synced => Judgement::Trust,
                true => Judgement::Hash(None),
                false => Judgement::Discard,
            },
            Hashes::V1(_) => Judgement::Hash(None),
            Hashes::Facts(_) if known.sha1.is_some() && known.node.is_some() => {
                match self.agrees(&known, piece) {
                    true if is_synced => Judgement::Trust,
                    true => Judgement::Hash(Some(known)),
                    false => Judgement::Discard,
                }
            }
            Hashes::Facts(nodes) if is_there || nodes.contains_key(&piece) => Judgement::Hash(None),
            Hashes::Unknown if is_there => Judgement::Trust,
            Hashes::Facts(_) | Hashes::Unknown if known.sha1.is_some() => {
                Judgement::Hash(Some(known))
            }
            Hashes::Facts(_) | Hashes::Unknown => Judgement::Discard,
        }
    }

    fn agrees(&self, digest: &PieceDigest, piece: PieceIndex) -> bool {
        agrees(digest, &self.spec.hashes, &self.spec.layout, piece)
    }

    /// Blocks of an incomplete piece will be verified with the rest of it.
    fn is_verified(&self, piece: PieceIndex) -> bool {
        match &self.spec.hashes {
            Hashes::V1(_) => true,
            Hashes::Facts(nodes) => nodes.contains_key(&piece),
            Hashes::Unknown => false,
        }
    }

    /// Adds to `kept` what holds of `recorded`. Returns how many pieces do not.
    fn judge(
        &self,
        recorded: &Recorded,
        files: &FileMap,
        kept: &mut Recorded,
    ) -> Result<u32, StoreError> {
        let layout = &self.spec.layout;
        let mut untrusted = 0;
        let mut to_hash = Vec::new();
        let mut expected = Vec::new();
        for (&piece, held) in &recorded.pieces {
            match self.piece(piece, held) {
                _ if layout.piece(piece.0).is_none() => untrusted += 1,
                _ if layout.piece_bytes(piece).end > self.readable => untrusted += 1,
                Judgement::Trust => {
                    kept.pieces.insert(piece, *held);
                }
                Judgement::Hash(digest) => {
                    to_hash.push(piece);
                    expected.push(digest);
                }
                Judgement::Discard => untrusted += 1,
            }
        }
        // Where nothing needs to be hashed, what was collected before is compared.
        let collected = Hashes::Facts(Nodes::new());
        let hashes = match &self.spec.hashes {
            Hashes::Unknown => &collected,
            hashes => hashes,
        };
        let read = |at: u64, out: &mut [u8]| files.read(at, out);
        let digests = digest_pieces(layout, hashes, &to_hash, read, |_| ())?;
        for ((&piece, expected), digest) in to_hash.iter().zip(expected).zip(digests) {
            let is_good = agrees(&digest, hashes, layout, piece)
                && expected.is_none_or(|expected| expected.sha1 == digest.sha1);
            if is_good {
                let synced = false;
                kept.pieces.insert(piece, Held { synced, digest });
            } else {
                untrusted += 1;
            }
        }
        // Blocks of incomplete pieces are verified with the rest of their piece, or not at all.
        if self.is_intact {
            for (&piece, runs) in &recorded.partial {
                let is_usable = self.is_this_boot || self.is_verified(piece);
                let is_open = layout.piece(piece.0).is_some() && !kept.pieces.contains_key(&piece);
                if is_usable && is_open {
                    let blocks = blocks_of(layout, piece, runs);
                    kept.partial.insert(piece, block_runs(blocks.iter_ones()));
                }
            }
        }
        Ok(untrusted)
    }
}
