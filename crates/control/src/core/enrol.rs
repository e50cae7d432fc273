//! Who becomes a node.

use std::collections::BTreeMap;

use floodway_api::rest::{Enrol, Enrolled, Role};

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

impl Core {
    /// Makes a node.
    pub(crate) fn enrol(&mut self, joining: Joining, enrol: &Enrol) -> Result<Enrolled, ApiError> {
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
        let node = floodway_proto::NodeId(secrets::random());
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
}
