//! Who becomes a node.

use std::collections::BTreeMap;

use floodway_api::rest::{Enrol, Enrolled, Role};

use floodway_proto::NodeId;

use super::Core;
use crate::db::{Change, NodeRow};
use crate::error::ApiError;
use crate::secrets::{self, NodeSecret};

/// The longest name of a node, in bytes.
const NAME_MAX: usize = 200;

/// What lets somebody enrol: a join token's conditions. An operator has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Joining {
    /// The only role admitted; absent: both.
    pub(crate) role: Option<Role>,
    /// Labels that the node gets.
    pub(crate) labels: BTreeMap<String, String>,
}

/// Who lets somebody enrol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sponsor {
    /// A join token's holder, or an operator.
    Joining(Joining),
    /// A node: for downloads on its machine beside it, which must not pass for the node itself.
    Node(NodeId),
}

impl Core {
    /// Makes a node.
    pub(crate) fn enrol(&mut self, sponsor: Sponsor, enrol: &Enrol) -> Result<Enrolled, ApiError> {
        let joining = match sponsor {
            Sponsor::Joining(joining) => joining,
            Sponsor::Node(node) => self.beside(node, enrol)?,
        };
        if joining.role.is_some_and(|role| role != enrol.role) {
            let admitted = match enrol.role {
                Role::Relay => "agents",
                Role::Agent => "relays",
            };
            let message =
                format!("this join token admits {admitted} only; make one for the other role");
            return Err(ApiError::forbidden(message).field("role"));
        }
        let name = enrol.name.trim();
        if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
            let message =
                format!("a node's name has 1 to {NAME_MAX} bytes and no control characters");
            return Err(ApiError::bad_field("name", message));
        }
        let node = NodeId(secrets::random());
        let secret = NodeSecret::new(node);
        tracing::info!(%node, name, role = ?enrol.role, short_lived = enrol.short_lived, "node enrolled");
        self.change(Change::Node(NodeRow {
            id: node,
            name: name.to_owned(),
            role: enrol.role,
            labels: joining.labels,
            short_lived: enrol.short_lived && enrol.role == Role::Agent,
            token_hash: secret.hash(),
            created_us: self.now.us,
            seen_us: 0,
        }));
        Ok(Enrolled {
            node,
            token: secret.text().to_owned(),
        })
    }

    /// What a node's token admits: one-shot downloads under the node's labels, and nothing that lasts.
    fn beside(&self, node: NodeId, enrol: &Enrol) -> Result<Joining, ApiError> {
        let sponsor = self.model.nodes.get(&node).filter(|row| !row.short_lived);
        match sponsor {
            Some(row) if enrol.short_lived && enrol.role == Role::Agent => Ok(Joining {
                role: Some(Role::Agent),
                labels: row.labels.clone(),
            }),
            _ => Err(ApiError::forbidden(
                "a node token enrols nothing but short-lived agents; this needs a join token or the admin token",
            )),
        }
    }
}
