//! Pieces of one content that another takes over, because the other version of the object has them at the same place.

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

/// What the journal of the predecessor says of pieces that lie at the same place in this content and are as long. `None`: it
/// is the journal of some other content, or one that is divided otherwise.
pub(crate) fn of_predecessor(spec: &Spec, recorded: &Recorded) -> Option<Recorded> {
    let adopts = spec.adopts.as_ref()?;
    let header = recorded.header?;
    let layout = &spec.layout;
    let is_divided_so = (header.piece_length, header.block_length)
        == (layout.piece_length(), layout.block_length());
    // In folders a file that grew moves all that follow it.
    if header.identity != adopts.identity || !is_divided_so || layout.files().is_some() {
        return None;
    }
    // Where the predecessor's end was not known, only pieces of full length are alike.
    let length = Some(header.length).filter(|&length| length != UNKNOWN);
    let before = Layout::new(length, header.piece_length).ok()?;
    let is_alike = |piece: PieceIndex| {
        let is_in_both = layout.piece(piece.0).is_some() && before.piece(piece.0).is_some();
        is_in_both && layout.piece_size(piece) == before.piece_size(piece)
    };
    let pieces = recorded
        .pieces
        .iter()
        .filter(|&(&piece, held)| is_alike(piece) && is_permitted(adopts, layout, piece, held));
    Some(Recorded {
        header: recorded.header,
        pieces: pieces.map(|(&piece, held)| (piece, *held)).collect(),
        // Blocks of two versions make no piece, and whoever sent the later ones would be blamed.
        ..Recorded::default()
    })
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
