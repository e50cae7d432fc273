use proptest::prelude::*;

use super::*;

fn read(input: &[u8]) -> Result<Value<'_>, DecodeError> {
    decode(input, &Limits::MESSAGE)
}

fn reason(input: &[u8]) -> Reason {
    read(input).expect_err("this must be refused").reason
}

#[test]
fn values_are_read_and_keep_their_bytes() {
    let value = read(b"d1:ai-7e1:bl3:xyz0:e1:cdee").unwrap();
    let dict = value.as_dict().unwrap();
    assert_eq!(dict.get("a").unwrap().as_integer(), Some(-7));
    let list = dict.get("b").unwrap();
    assert_eq!(list.raw(), b"l3:xyz0:e");
    assert_eq!(list.as_list().unwrap()[0].as_text(), Some("xyz"));
    assert_eq!(dict.get("c").unwrap().as_dict().unwrap().entries().len(), 0);
    assert!(dict.is_sorted() && dict.get("d").is_none());
}

#[test]
fn integers_have_one_form() {
    for (text, value) in [
        ("i0e", 0),
        ("i-1e", -1),
        ("i9223372036854775807e", i64::MAX),
        ("i-9223372036854775808e", i64::MIN),
    ] {
        assert_eq!(read(text.as_bytes()).unwrap().as_integer(), Some(value));
    }
    for text in [
        "ie",
        "i-e",
        "i-0e",
        "i03e",
        "i+3e",
        "i 3e",
        "i3.0e",
        "i9223372036854775808e",
        "i--1e",
        "i99999999999999999999999999e",
        "03:abc",
        "1x:a",
        "i12x",
        "i1-e",
    ] {
        assert_eq!(reason(text.as_bytes()), Reason::Number, "{text}");
    }
}

#[test]
fn what_ends_early_or_goes_on_is_refused() {
    for text in [
        "", "i", "i12", "i-", "5:abcd", "5", "5:", "l", "li1e", "d", "d1:a", "d1:ai1e",
    ] {
        assert_eq!(reason(text.as_bytes()), Reason::Truncated, "{text}");
    }
    assert_eq!(
        read(b"i1ei2e").unwrap_err().to_string(),
        "not valid bencoding at byte 3: something follows the end"
    );
    assert_eq!(
        decode_prefix(b"i1erest", &Limits::MESSAGE).unwrap().1,
        b"rest"
    );
    assert_eq!(reason(b"x"), Reason::UnknownType(b'x'));
    assert_eq!(reason(b"di1ei2ee"), Reason::KeyNotString);
}

#[test]
fn unsorted_keys_are_read_but_duplicates_are_not() {
    let value = read(b"d1:bi2e1:ai1ee").unwrap();
    let dict = value.as_dict().unwrap();
    assert!(!dict.is_sorted());
    assert_eq!(dict.get("a").unwrap().as_integer(), Some(1));
    for text in ["d1:ai1e1:ai2ee", "d1:bi1e1:ai2e1:bi3ee"] {
        assert!(
            matches!(reason(text.as_bytes()), Reason::DuplicateKey(_)),
            "{text}"
        );
    }
}

#[test]
fn limits_hold() {
    let limits = Limits {
        length: 20,
        depth: 2,
        items: 4,
    };
    assert!(decode(b"llee", &limits).is_ok());
    assert_eq!(
        decode(b"llleee", &limits).unwrap_err().reason,
        Reason::TooDeep(2)
    );
    assert!(decode(b"l0:0:0:e", &limits).is_ok());
    assert_eq!(
        decode(b"l0:0:0:0:e", &limits).unwrap_err().reason,
        Reason::TooManyItems(4)
    );
    assert!(matches!(
        decode(b"22:1234567890123456789012", &limits)
            .unwrap_err()
            .reason,
        Reason::TooLong { .. }
    ));
    let deep = vec![b'l'; 100_000];
    assert_eq!(reason(&deep), Reason::TooDeep(16));
}

#[test]
fn fields_name_what_is_wrong() {
    let value = read(b"d1:ai300e1:b2:\xff\xff1:cle1:d3:xyze").unwrap();
    let dict = value.as_dict().unwrap();
    assert_eq!(dict.number::<u16>("a"), Ok(Some(300)));
    assert_eq!(dict.number::<u16>("z"), Ok(None));
    for (error, text) in [
        (dict.number::<u8>("a").map(drop), "`a` is out of range"),
        (dict.flag("a").map(drop), "`a` is out of range"),
        (dict.integer("b").map(drop), "`b` is not an integer"),
        (dict.text("b", 9).map(drop), "`b` is not UTF-8 text"),
        (
            dict.text("d", 2).map(drop),
            "`d` is longer than the limit of 2",
        ),
        (dict.array::<4>("d").map(drop), "`d` is not 4 bytes long"),
        (dict.bytes("c").map(drop), "`c` is not a byte string"),
        (dict.dict("c").map(drop), "`c` is not a dict"),
        (dict.list("d", 1).map(drop), "`d` is not a list"),
        (required("z", None::<()>), "`z` is missing"),
    ] {
        assert_eq!(error.unwrap_err().to_string(), text);
    }
    let inner = FieldError::new("length", FieldProblem::Missing);
    assert_eq!(inner.within("info").to_string(), "`info.length` is missing");
}

/// An owned tree to generate, since [`Item`] borrows.
#[derive(Clone, Debug)]
enum Tree {
    Integer(u64),
    Bytes(Vec<u8>),
    List(Vec<Self>),
    Dict(BTreeMap<Vec<u8>, Self>),
}

impl Tree {
    fn item(&self) -> Item<'_> {
        match self {
            Self::Integer(value) => Item::Integer(*value),
            Self::Bytes(bytes) => Item::Bytes(bytes),
            Self::List(trees) => Item::List(trees.iter().map(Self::item).collect()),
            Self::Dict(trees) => {
                let entries = trees.iter();
                Item::Dict(entries.map(|(key, tree)| (&key[..], tree.item())).collect())
            }
        }
    }

    fn equals(&self, value: &Value<'_>) -> bool {
        match (self, value.kind()) {
            (Self::Integer(a), Kind::Integer(b)) => i64::try_from(*a) == Ok(*b),
            (Self::Bytes(a), Kind::Bytes(b)) => a == b,
            (Self::List(a), Kind::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b))
            }
            (Self::Dict(a), Kind::Dict(b)) => {
                a.len() == b.entries().len()
                    && a.iter()
                        .zip(b.entries())
                        .all(|((k, a), (l, b))| k == l && a.equals(b))
            }
            _ => false,
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..12);
    let leaf = prop_oneof![
        (0..=i64::MAX.unsigned_abs()).prop_map(Tree::Integer),
        bytes().prop_map(Tree::Bytes),
    ];
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Tree::List),
            prop::collection::btree_map(bytes(), inner, 0..6).prop_map(Tree::Dict),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(tree in tree()) {
        let bytes = tree.item().encode();
        let value = read(&bytes).unwrap();
        prop_assert!(tree.equals(&value), "{tree:?} became {value:?}");
        prop_assert_eq!(value.raw(), &bytes[..]);
        prop_assert_eq!(Item::Raw(value.raw()).encode(), bytes);
    }

    #[test]
    fn every_prefix_of_a_value_is_refused(tree in tree(), cut in any::<prop::sample::Index>()) {
        let bytes = tree.item().encode();
        prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = read(&bytes);
    }

    #[test]
    fn anything_that_looks_like_bencoding_is_read_or_refused(text in "[ilde0-9:a-]{0,48}") {
        if let Ok((value, rest)) = decode_prefix(text.as_bytes(), &Limits::MESSAGE) {
            prop_assert_eq!(value.raw().len() + rest.len(), text.len());
        }
    }
}
