use std::ops::Range;

use proptest::prelude::*;

use super::*;

const LEAF: u64 = LEAF_LENGTH as u64;

fn data(length: u64, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut data = vec![0; usize::try_from(length).unwrap()];
    random.fill(&mut data);
    data
}

/// BEP 52 word by word: pad the leaves with zeros to a power of two, at least `least` leaves, and fold.
fn reference(data: &[u8], least: usize) -> Sha256 {
    let mut nodes: Vec<Sha256> = data.chunks(LEAF_LENGTH as usize).map(leaf_hash).collect();
    nodes.resize(nodes.len().max(least).next_power_of_two(), Sha256([0; 32]));
    while nodes.len() > 1 {
        nodes = nodes
            .chunks(2)
            .map(|pair| parent(pair[0], pair[1]))
            .collect();
    }
    nodes[0]
}

fn reference_piece(data: &[u8], layout: &Layout, piece: PieceIndex) -> Sha256 {
    let range = layout.piece_bytes(piece);
    let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
    let whole = layout.length().unwrap() > u64::from(layout.piece_length());
    let least = if whole {
        layout.piece_length() / LEAF_LENGTH
    } else {
        1
    };
    reference(&data[range], least as usize)
}

fn check(length: u64, piece_length: u32, seed: u64) {
    let layout = Layout::new(Some(length), piece_length).unwrap();
    let data = data(length, seed);
    let mut pieces: Vec<_> = layout.pieces().collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut pieces);
    let mut tree = Tree::new(&layout).unwrap();
    for piece in pieces {
        assert_eq!(tree.root(), None, "{length} / {piece_length}: too early");
        let range = layout.piece_bytes(piece);
        let bytes =
            &data[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        let node = piece_node(bytes, &layout, piece).unwrap();
        assert_eq!(
            node,
            reference_piece(&data, &layout, piece),
            "{length} / {piece_length}: {piece:?}"
        );
        assert_eq!(tree.insert_piece(piece, node), Ok(true));
        assert_eq!(tree.insert_piece(piece, node), Ok(false));
        assert_eq!(tree.piece(piece), Some(node));
    }
    assert_eq!(
        tree.root(),
        Some(reference(&data, 1)),
        "{length} / {piece_length}"
    );
}

#[test]
fn every_edge_equals_the_reference() {
    for piece_length in [
        LEAF_LENGTH,
        2 * LEAF_LENGTH,
        4 * LEAF_LENGTH,
        16 * LEAF_LENGTH,
    ] {
        let piece = u64::from(piece_length);
        for base in [
            1,
            LEAF,
            2 * LEAF,
            piece,
            2 * piece,
            3 * piece,
            5 * piece,
            8 * piece,
        ] {
            for length in [base - 1, base, base + 1] {
                if length > 0 {
                    check(length, piece_length, length);
                }
            }
        }
    }
}

#[test]
fn zero_nodes_are_those_of_zero_leaves() {
    assert_eq!(zero_node(0), Some(Sha256([0; 32])));
    // Known from other implementations: SHA-256 of 64 zero bytes.
    assert_eq!(
        zero_node(1).unwrap().to_string(),
        "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b"
    );
    assert_eq!(zero_node(200), None);
}

#[test]
fn a_piece_of_unknown_length_spans_the_whole_piece() {
    let unknown = Layout::new(None, 4 * LEAF_LENGTH).unwrap();
    let bytes = data(10, 1);
    let node = piece_node(&bytes, &unknown, PieceIndex(0)).unwrap();
    assert_eq!(node, reference(&bytes, 4));
    let known = Layout::new(Some(10), 4 * LEAF_LENGTH).unwrap();
    assert_eq!(
        piece_node(&bytes, &known, PieceIndex(0)),
        Some(leaf_hash(&bytes))
    );
    assert_eq!(piece_node(&[], &unknown, PieceIndex(0)), zero_node(2));
}

#[test]
fn some_contents_have_no_tree() {
    for (length, piece) in [(Some(0), LEAF_LENGTH), (Some(5), 3 * LEAF_LENGTH)] {
        let layout = Layout::new(length, piece).unwrap();
        assert_eq!(Tree::new(&layout).unwrap_err(), TreeError::NoTree);
    }
    let odd = Layout::new(Some(5), 3 * LEAF_LENGTH).unwrap();
    assert_eq!(piece_node(b"abcde", &odd, PieceIndex(0)), None);
}

#[test]
#[should_panic(expected = "more bytes than a piece has")]
fn too_many_bytes_are_a_callers_bug() {
    let layout = Layout::new(Some(5 * LEAF), 2 * LEAF_LENGTH).unwrap();
    let mut hasher = PieceHasher::new(&layout).unwrap();
    hasher.update(&data(3 * LEAF, 0));
}

#[test]
fn nodes_outside_the_file_are_refused() {
    let mut tree = Tree::new(&Layout::new(Some(5 * LEAF), LEAF_LENGTH).unwrap()).unwrap();
    let hash = Sha256([1; 32]);
    for (layer, index) in [(0, 5), (0, u32::MAX), (1, 3), (3, 1), (4, 0), (255, 0)] {
        assert_eq!(
            tree.insert(layer, index, hash),
            Err(TreeError::NoSuchNode { layer, index })
        );
    }
    // Known from the start: it lies beyond the end.
    assert_eq!(tree.node(0, 5), zero_node(0));
    assert_eq!(tree.node(1, 3), zero_node(1));
    assert_eq!(tree.node(0, 4), None);
}

#[test]
fn a_contradiction_is_found_and_changes_nothing() {
    let mut tree = Tree::new(&Layout::new(Some(4 * LEAF), LEAF_LENGTH).unwrap()).unwrap();
    let hash = |byte| Sha256([byte; 32]);
    let top = parent(parent(hash(0), hash(1)), parent(hash(2), hash(3)));
    tree.insert(2, 0, top).unwrap();
    for leaf in 0..3 {
        tree.insert(0, leaf, hash(u8::try_from(leaf).unwrap()))
            .unwrap();
    }
    assert_eq!(
        tree.insert(0, 0, hash(9)),
        Err(TreeError::Conflict {
            layer: 0,
            index: 0,
            known: hash(0),
            found: hash(9)
        })
    );
    assert_eq!(
        tree.insert(0, 3, hash(9)),
        Err(TreeError::Conflict {
            layer: 2,
            index: 0,
            known: top,
            found: parent(parent(hash(0), hash(1)), parent(hash(2), hash(9)))
        })
    );
    assert_eq!((tree.node(0, 3), tree.node(1, 1)), (None, None));
    assert_eq!(tree.insert(0, 3, hash(3)), Ok(true));
    assert_eq!(tree.insert(1, 1, parent(hash(2), hash(3))), Ok(false));
    assert_eq!(tree.root(), Some(top));
}

/// All nodes known of a file of `leaves` leaves in pieces of one leaf.
fn all_nodes(tree: &Tree, leaves: u32) -> Vec<(u8, u32, Sha256)> {
    let layers = 0..=tree.root_layer().unwrap();
    let at =
        layers.flat_map(|layer| (0..leaves.div_ceil(1 << layer)).map(move |index| (layer, index)));
    at.filter_map(|(layer, index)| Some((layer, index, tree.node(layer, index)?)))
        .collect()
}

/// The nodes of the pieces of `data`, each spanning a whole piece.
fn wide_pieces(data: &[u8], piece_length: u32) -> Vec<Sha256> {
    let unknown = Layout::new(None, piece_length).unwrap();
    let pieces = data.chunks(piece_length as usize);
    pieces
        .map(|piece| piece_node(piece, &unknown, PieceIndex(0)).unwrap())
        .collect()
}

#[test]
fn a_length_that_comes_late_changes_no_node() {
    // Across powers of two and across a group.
    for pieces in [1u64, 2, 3, 4, 5, 8, 9, 511, 512, 513, 1024, 1025] {
        let length = pieces * LEAF - 7;
        let data = data(length, pieces);
        let hashes = wide_pieces(&data, LEAF_LENGTH);
        let mut known = Tree::new(&Layout::new(Some(length), LEAF_LENGTH).unwrap()).unwrap();
        let mut unknown = Tree::new(&Layout::new(None, LEAF_LENGTH).unwrap()).unwrap();
        for (piece, hash) in (0..).map(PieceIndex).zip(hashes) {
            known.insert_piece(piece, hash).unwrap();
            unknown.insert_piece(piece, hash).unwrap();
        }
        assert_eq!(unknown.root(), None);
        let before = unknown.maximal();
        let short = (pieces - 1) * LEAF;
        assert_eq!(unknown.set_length(short), Err(TreeError::Length(short)));
        unknown.set_length(length).unwrap();
        assert_eq!(unknown, known);
        assert_eq!(unknown.root(), Some(reference(&data, 1)));
        assert!(
            before
                .iter()
                .all(|&(layer, index, hash)| unknown.node(layer, index) == Some(hash))
        );
        assert_eq!(
            unknown.set_length(length + LEAF),
            Err(TreeError::Length(length + LEAF))
        );
    }
}

#[test]
fn a_file_shorter_than_a_piece_has_its_own_root() {
    let piece_length = 16 * LEAF_LENGTH;
    for length in [
        1,
        LEAF,
        LEAF + 1,
        3 * LEAF,
        8 * LEAF,
        8 * LEAF + 1,
        16 * LEAF,
    ] {
        let data = data(length, length);
        let root = reference(&data, 1);
        let wide = wide_pieces(&data, piece_length)[0];
        let layout = Layout::new(Some(length), piece_length).unwrap();
        let mut tree = Tree::new(&layout).unwrap();
        let layer = tree.root_layer().unwrap();
        assert_eq!(Some(layer), piece_layer(&layout));
        assert_eq!(widened(root, layer, 4), wide);
        // First what a relay knew before the end, then the root.
        tree.insert(4, 0, wide).unwrap();
        assert_eq!(tree.maximal(), [(4, 0, wide)]);
        if layer < 4 {
            assert_eq!(tree.root(), None);
            let wrong = tree.insert(layer, 0, Sha256([1; 32]));
            assert!(matches!(wrong, Err(TreeError::Conflict { layer: 4, .. })));
            assert_eq!(tree.insert(layer, 0, root), Ok(true));
        }
        assert_eq!(tree.root(), Some(root));
        assert_eq!(tree.maximal(), [(layer, 0, root)]);
        let mut other = Tree::new(&layout).unwrap();
        other.insert_piece(PieceIndex(0), root).unwrap();
        assert_eq!(other, tree);
    }
}

#[test]
fn a_run_of_pieces_under_a_node_proves_itself() {
    // Two groups and a bit.
    let pieces = 1100u32;
    let layout = Layout::new(Some(u64::from(pieces) * LEAF), LEAF_LENGTH).unwrap();
    let mut full = Tree::new(&layout).unwrap();
    let hash = |piece: u32| digest::sha256(&piece.to_be_bytes());
    for piece in 0..pieces {
        full.insert(0, piece, hash(piece)).unwrap();
    }
    let nodes = full.maximal();
    assert_eq!(
        nodes.iter().map(|node| node.0).collect::<Vec<_>>(),
        [9, 9, 9]
    );
    let mut tree = Tree::new(&layout).unwrap();
    let run = |range: Range<u32>| range.map(hash).collect::<Vec<_>>();
    assert_eq!(
        tree.expand(9, 0, &run(0..512)),
        Err(TreeError::NotKnown { layer: 9, index: 0 })
    );
    for &(layer, index, node) in &nodes {
        tree.insert(layer, index, node).unwrap();
    }
    assert_eq!(tree.root(), full.root());
    let before = tree.clone();
    let mut wrong = run(0..512);
    wrong[100] = hash(0);
    assert!(matches!(
        tree.expand(9, 0, &wrong),
        Err(TreeError::Conflict {
            layer: 9,
            index: 0,
            ..
        })
    ));
    for (short, expected) in [(run(0..511), 512), (run(0..513), 512), (Vec::new(), 512)] {
        let found = short.len();
        assert_eq!(
            tree.expand(9, 0, &short),
            Err(TreeError::Count { found, expected })
        );
    }
    assert!(matches!(
        tree.expand(10, 0, &run(0..1024)),
        Err(TreeError::NoSuchNode { .. })
    ));
    assert_eq!(tree, before);
    // The last one is short: what lies beyond the end is not sent.
    for (index, range) in [(2, 1024..1100), (0, 0..512), (1, 512..1024)] {
        assert_eq!(tree.expand(9, index, &run(range.clone())), Ok(true));
        assert_eq!(tree.expand(9, index, &run(range)), Ok(false));
    }
    assert_eq!(tree, full);
    assert_eq!(tree.known_pieces(), pieces);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_in_any_order_give_the_reference_root(
        leaves in 0u64..40,
        rest in 1u64..=LEAF,
        layer in 0u32..4,
        seed in any::<u64>(),
    ) {
        check(leaves * LEAF + rest, LEAF_LENGTH << layer, seed);
    }

    #[test]
    fn any_mix_of_layers_in_any_order_gives_one_tree(leaves in 1u32..40, seed in any::<u64>()) {
        let layout = Layout::new(Some(u64::from(leaves) * LEAF), LEAF_LENGTH).unwrap();
        let mut full = Tree::new(&layout).unwrap();
        for leaf in 0..leaves {
            full.insert(0, leaf, digest::sha256(&leaf.to_be_bytes())).unwrap();
        }
        let mut nodes = all_nodes(&full, leaves);
        fastrand::Rng::with_seed(seed).shuffle(&mut nodes);
        let mut tree = Tree::new(&layout).unwrap();
        for (layer, index, hash) in nodes {
            tree.insert(layer, index, hash).unwrap();
        }
        prop_assert_eq!(tree, full);
    }

    #[test]
    fn any_facts_are_taken_or_refused(
        leaves in 1u32..20,
        facts in prop::collection::vec((0u8..8, 0u32..24, 0u8..3), 0..60),
    ) {
        let layout = Layout::new(Some(u64::from(leaves) * LEAF), LEAF_LENGTH).unwrap();
        let mut tree = Tree::new(&layout).unwrap();
        for (layer, index, byte) in facts {
            let before = tree.clone();
            if tree.insert(layer, index, Sha256([byte; 32])).is_err() {
                prop_assert_eq!(&tree, &before);
            }
        }
        // Both children known means the node is known and fits.
        let top = tree.root_layer().unwrap();
        for (layer, index, hash) in all_nodes(&tree, leaves).into_iter().filter(|(layer, ..)| *layer < top) {
            if let Some(sibling) = tree.node(layer, index ^ 1) {
                let both = if index % 2 == 0 { parent(hash, sibling) } else { parent(sibling, hash) };
                prop_assert_eq!(tree.node(layer + 1, index / 2), Some(both));
            }
        }
    }
}

/// A peer's side of BEP 52: the root that `hashes` of the pieces from `index` on and their uncles lead to.
fn root_by_proof(hashes: &[Sha256], length: u32, index: u32) -> Sha256 {
    let (pieces, uncles) = hashes.split_at(length as usize);
    let mut level = pieces.to_vec();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| parent(pair[0], pair[1]))
            .collect();
    }
    let mut at = index >> length.trailing_zeros();
    let fold = |node, &uncle| {
        let is_left = at.is_multiple_of(2);
        at /= 2;
        if is_left {
            parent(node, uncle)
        } else {
            parent(uncle, node)
        }
    };
    uncles.iter().fold(level[0], fold)
}

fn complete_tree(pieces: u32) -> Tree {
    let layout = Layout::new(Some(u64::from(pieces) * 2 * LEAF - 5), 2 * LEAF_LENGTH).unwrap();
    let mut tree = Tree::new(&layout).unwrap();
    for piece in 0..pieces {
        let hash = digest::sha256(&piece.to_be_bytes());
        tree.insert_piece(PieceIndex(piece), hash).unwrap();
    }
    tree
}

#[test]
fn hashes_for_others_lead_to_the_root() {
    // Across powers of two and groups; libtorrent asks for one hash where one piece is left.
    for pieces in [2, 3, 4, 5, 511, 512, 513, 1024, 1025, 1600] {
        let tree = complete_tree(pieces);
        let above = u32::from(tree.root_layer().unwrap() - tree.piece_layer());
        for length in (0..=9).map(|layers| 1 << layers) {
            if length > 1 << above {
                assert_eq!(
                    tree.hashes(0, length, above - 1),
                    None,
                    "wider than the tree"
                );
                continue;
            }
            for index in (0..1 << above).step_by(length as usize) {
                let hashes = tree.hashes(index, length, above - 1).unwrap();
                let uncles = above - length.trailing_zeros();
                assert_eq!(hashes.len(), (length + uncles) as usize);
                let root = root_by_proof(&hashes, length, index);
                assert_eq!(Some(root), tree.root(), "{pieces}: {length} from {index}");
            }
        }
    }
}

#[test]
fn hashes_for_others_have_limits() {
    let tree = complete_tree(1600);
    let hashes = |index, length, proof| tree.hashes(index, length, proof).map(|all| all.len());
    // 11 layers above the pieces.
    assert_eq!(hashes(0, 512, 10), Some(512 + 2));
    assert_eq!(
        hashes(0, 512, 8),
        Some(512),
        "they prove so many layers themselves"
    );
    assert_eq!(hashes(0, 512, 0), Some(512));
    assert_eq!(
        hashes(1536, 512, 10),
        Some(512 + 2),
        "beyond the end are zeros"
    );
    for (index, length, proof) in [
        (0, 0, 10),
        (0, 3, 10),
        (0, 1024, 10),
        (256, 512, 10),
        (2048, 512, 10),
        (u32::MAX - 511, 512, 10),
        (0, 512, 11),
        (0, 512, u32::MAX),
    ] {
        assert_eq!(
            hashes(index, length, proof),
            None,
            "{index} {length} {proof}"
        );
    }
    // A file of one piece has no layer of pieces under its root.
    let layout = Layout::new(Some(LEAF), 2 * LEAF_LENGTH).unwrap();
    let mut small = Tree::new(&layout).unwrap();
    small.insert_piece(PieceIndex(0), Sha256([1; 32])).unwrap();
    assert_eq!(small.hashes(0, 1, 0), None);
    // What is not known is not given.
    let mut tree = Tree::new(&Layout::new(Some(4 * LEAF), LEAF_LENGTH).unwrap()).unwrap();
    for piece in 0..3 {
        tree.insert_piece(PieceIndex(piece), Sha256([1; 32]))
            .unwrap();
    }
    assert_eq!(tree.hashes(0, 2, 1), None);
    assert_eq!(tree.hashes(2, 2, 1), None);
}
