//! Which agents a distribution task is for, and which labels nodes may carry.

use std::collections::BTreeMap;

/// A label expression: `all`, or `K=V[,K=V…]` of which all must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Targets {
    All,
    Labels(BTreeMap<String, String>),
}

/// Why a label expression or a set of labels was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LabelError {
    #[error("`{0}` is not a label: write K=V, several as K=V,K=V, or `all`")]
    NotALabel(String),
    #[error(
        "the label `{0}` is given twice with different values; all labels must match, so no agent could"
    )]
    Twice(String),
    #[error(
        "the label `{0}` is refused: keys and values have 1 to 63 letters, digits and `-_./:@+`, no others"
    )]
    Character(String),
    #[error("{0} labels are too many; the limit is {LABELS_MAX}")]
    TooMany(usize),
}

/// At most so many labels on one node or in one expression.
pub(crate) const LABELS_MAX: usize = 32;

fn is_word(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./:@+".contains(&b))
}

/// Checks the labels that a join token gives its nodes.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), LabelError> {
    if labels.len() > LABELS_MAX {
        return Err(LabelError::TooMany(labels.len()));
    }
    match labels
        .iter()
        .find(|(key, value)| !is_word(key) || !is_word(value))
    {
        Some((key, value)) => Err(LabelError::Character(format!("{key}={value}"))),
        None => Ok(()),
    }
}

impl Targets {
    /// Reads a label expression.
    pub(crate) fn parse(text: &str) -> Result<Self, LabelError> {
        if text.trim() == "all" {
            return Ok(Self::All);
        }
        let mut labels = BTreeMap::new();
        for part in text.split(',').take(LABELS_MAX + 1) {
            let (key, value) = part
                .trim()
                .split_once('=')
                .ok_or_else(|| LabelError::NotALabel(part.trim().into()))?;
            let old = labels.insert(key.to_owned(), value.to_owned());
            if old.is_some_and(|old| old != value) {
                return Err(LabelError::Twice(key.into()));
            }
        }
        check_labels(&labels)?;
        Ok(Self::Labels(labels))
    }

    /// True when a node with these labels is meant.
    pub(crate) fn match_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All => true,
            Self::Labels(wanted) => wanted
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn all_labels_of_an_expression_must_match() {
        let node = labels(&[("site", "berlin"), ("tier", "1")]);
        for (text, matches) in [
            ("all", true),
            ("site=berlin", true),
            ("site=berlin, tier=1", true),
            ("site=berlin,tier=2", false),
            ("rack=9", false),
        ] {
            assert_eq!(
                Targets::parse(text).unwrap().match_labels(&node),
                matches,
                "{text}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_to_write() {
        for text in [
            "",
            "berlin",
            "site=",
            "=x",
            "a=b,",
            "site=a,site=b",
            "a=b c",
        ] {
            assert!(Targets::parse(text).is_err(), "{text:?}");
        }
        let many: Vec<_> = (0..40).map(|i| format!("k{i}=v")).collect();
        assert_eq!(
            Targets::parse(&many.join(",")),
            Err(LabelError::TooMany(33))
        );
        assert!(check_labels(&labels(&[("a=b", "c")])).is_err());
    }
}
