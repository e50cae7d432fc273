//! Who sends a request: bearer tokens to principals.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use floodway_proto::{NodeId, Sha256};
use subtle::ConstantTimeEq;

use crate::core::Joining;
use crate::db::{Change, JoinTokenRow, Model};
use crate::error::ApiError;
use crate::secrets::{self, JoinSecret, NodeSecret};

/// Whom a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    Operator,
    Node(NodeId),
    Joiner(Joining),
}

/// The hashes of all tokens. Follows what the database holds, and is asked without disturbing the core.
#[derive(Debug)]
pub(crate) struct Directory {
    admin: Sha256,
    tokens: RwLock<Tokens>,
}

#[derive(Debug, Default)]
struct Tokens {
    nodes: HashMap<NodeId, Sha256>,
    joins: HashMap<String, JoinTokenRow>,
}

/// Takes the same time wherever the hashes differ.
fn same(one: &Sha256, other: &Sha256) -> bool {
    one.0.ct_eq(&other.0).into()
}

impl Directory {
    pub(crate) fn new(admin_token: &str, model: &Model) -> Self {
        let nodes = model.nodes.values().map(|row| (row.id, row.token_hash));
        let joins = model
            .join_tokens
            .values()
            .map(|row| (row.id.clone(), row.clone()));
        Self {
            admin: secrets::hash(admin_token),
            tokens: RwLock::new(Tokens {
                nodes: nodes.collect(),
                joins: joins.collect(),
            }),
        }
    }

    /// Follows what was committed.
    pub(crate) fn note(&self, changes: &[Change]) {
        let concerns = |change: &&Change| {
            matches!(
                change,
                Change::Node(_) | Change::ForgetNode(_) | Change::JoinToken(_)
            )
        };
        let mut changes = changes.iter().filter(concerns).peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::Node(row) => drop(tokens.nodes.insert(row.id, row.token_hash)),
                Change::ForgetNode(node) => drop(tokens.nodes.remove(node)),
                Change::JoinToken(row) => drop(tokens.joins.insert(row.id.clone(), row.clone())),
                _ => {}
            }
        }
    }

    /// Whom the token stands for.
    ///
    /// # Errors
    /// 401 when nobody, or somebody no more.
    pub(crate) fn authenticate(&self, token: &str) -> Result<Principal, ApiError> {
        let hash = secrets::hash(token);
        if same(&hash, &self.admin) {
            return Ok(Principal::Operator);
        }
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(secret) = NodeSecret::read(token) {
            let known = tokens
                .nodes
                .get(&secret.node())
                .is_some_and(|known| same(known, &hash));
            return if known {
                Ok(Principal::Node(secret.node()))
            } else {
                Err(ApiError::unauthorized(
                    "control does not know this node token: the node was forgotten, or enrolled with another control; enrol again with a join token",
                ))
            };
        }
        let row = JoinSecret::read(token).and_then(|secret| tokens.joins.get(secret.id()));
        match row.filter(|row| same(&row.hash, &hash)) {
            Some(row) if row.revoked => Err(ApiError::unauthorized(
                "this join token was revoked; ask the operator for a new one (`floodway node token create`)",
            )),
            Some(row) => Ok(Principal::Joiner(Joining {
                role: row.role,
                labels: row.labels.clone(),
            })),
            None => Err(ApiError::unauthorized(
                "control does not know this token; check FLOODWAY_TOKEN or --token-file",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_stands_for_its_principal_until_it_is_void() {
        let directory = Directory::new("an admin token", &Model::default());
        assert_eq!(
            directory.authenticate("an admin token"),
            Ok(Principal::Operator)
        );
        assert!(directory.authenticate("an admin tokem").is_err());
        let join = JoinSecret::new();
        let row = JoinTokenRow {
            id: join.id().into(),
            hash: join.hash(),
            role: None,
            labels: std::collections::BTreeMap::new(),
            revoked: false,
            created_us: 0,
        };
        directory.note(&[Change::JoinToken(row.clone())]);
        assert_eq!(
            directory.authenticate(join.text()),
            Ok(Principal::Joiner(Joining::default()))
        );
        let forged = format!("fwj.{}.{}", join.id(), "0".repeat(64));
        assert!(directory.authenticate(&forged).is_err());
        directory.note(&[Change::JoinToken(JoinTokenRow {
            revoked: true,
            ..row
        })]);
        let refused = directory.authenticate(join.text()).unwrap_err();
        assert!(refused.message().contains("revoked"), "{refused:?}");
    }
}
