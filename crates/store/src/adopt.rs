//! Pieces of one content that another takes over, because the other version of the object has them at the same place.

use std::collections::BTreeMap;
use std::path::Path;

use floodway_proto::{Layout, PieceIndex};

use crate::error::OpenError;
use crate::hashing::agrees;
use crate::journal::{Held, Journal, Recorded};
use crate::open::{UNKNOWN, remove};
use crate::spec::{Hashes, Predecessor, Spec};
use crate::writer::Paths;

/// Removes unfinished data for this final path if it is of the content `identity`; anything else stays.
///
/// # Errors
/// When the path cannot be one, another process is using the data, or it cannot be removed.
pub fn discard_unfinished(target: &Path, identity: [u8; 32]) -> Result<(), OpenError> {
    let paths = Paths::new(target, false)?;
    if !paths.journal.exists() {
        return Ok(());
    }
    let (journal, recorded) = Journal::lock(paths.journal.clone(), &paths.target)?;
    if recorded
        .header
        .is_none_or(|header| header.identity != identity)
    {
        return Ok(());
    }
    remove(&paths.data)?;
    Ok(journal.remove()?)
}

/// Of which content there is unfinished data for this final path, if that can be told. Another process may be using it.
pub fn unfinished_identity(target: &Path) -> Option<[u8; 32]> {
    let paths = Paths::new(target, false).ok()?;
    let journal = std::fs::read(&paths.journal).ok()?;
    Some(Recorded::read(&journal).header?.identity)
}

/// What the journal of the predecessor says of pieces that lie at the same place in this content and are as long. `None`: it
/// is the journal of some other content, or one that is divided otherwise.
pub(crate) fn of_predecessor(spec: &Spec, recorded: &Recorded) -> Option<Recorded> {
    let adopts = spec.adopts.as_ref()?;
    let header = recorded.header?;
    let layout = &spec.layout;
    let is_divided_so = (header.piece_length, header.block_length)
        == (layout.piece_length(), layout.block_length());
    let is_folder = layout.files().is_some();
    if header.identity != adopts.identity || !is_divided_so || adopts.folder.is_some() != is_folder
    {
        return None;
    }
    // Where the predecessor's end was not known, only pieces of full length are alike.
    let length = Some(header.length).filter(|&length| length != UNKNOWN);
    let before = match &adopts.folder {
        Some(folder) => folder.clone(),
        None => Layout::new(length, header.piece_length).ok()?,
    };
    let pieces = recorded.pieces.iter().filter_map(|(&piece, held)| {
        let piece = same_place(&before, layout, piece)?;
        is_permitted(adopts, layout, piece, held).then_some((piece, *held))
    });
    let pieces: BTreeMap<_, _> = pieces.collect();
    // Of no use: to be discarded like that of any other content.
    if pieces.is_empty() {
        return None;
    }
    Some(Recorded {
        header: recorded.header,
        pieces,
        // Blocks of two versions make no piece, and whoever sent the later ones would be blamed.
        ..Recorded::default()
    })
}

/// The piece that lies in `after` where this one does in `before`, and is as long. In folders a file that grew, came or went
/// gives other numbers to the pieces of all that follow it.
fn same_place(before: &Layout, after: &Layout, piece: PieceIndex) -> Option<PieceIndex> {
    let piece = before.piece(piece.0)?;
    let there = match before.file_of(piece).zip(after.files()) {
        None => after.piece(piece.0)?,
        Some((file, files)) => {
            let at = files.binary_search_by(|other| other.path.cmp(&file.path));
            let pieces = files[at.ok()?].pieces.clone();
            let there = pieces.start + (piece.0 - file.pieces.start);
            pieces.contains(&there).then_some(PieceIndex(there))?
        }
    };
    (before.piece_size(piece) == after.piece_size(there)).then_some(there)
}

/// Whether it may be held before anything of this content says what it hashes to.
fn is_permitted(adopts: &Predecessor, layout: &Layout, piece: PieceIndex, held: &Held) -> bool {
    let Some(only) = &adopts.only else {
        return held.digest.node.is_some();
    };
    let expected = only.get(&piece).map(|node| (piece, *node));
    let Some(expected) = expected else {
        return false;
    };
    agrees(
        &held.digest,
        &Hashes::Facts([expected].into()),
        layout,
        piece,
    )
}
