//! `floodway node list`, `floodway node trust` and `floodway node token create|list|revoke`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use floodway_api::rest::{CreateJoinToken, JoinToken, NodeView, Role};

use crate::client::{ClientArgs, failure};
use crate::exit::{Exit, Outcome};
use crate::human::{self, Table};
use crate::{runtime, say};

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List relays and agents
    List(ListArgs),
    /// Trust a relay again that an audit found wrong, once its fault is mended
    Trust(TrustArgs),
    /// Join tokens: what admits a new node and fixes its labels
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a join token and print it
    Create(CreateArgs),
    /// List join tokens, without the tokens themselves
    List(ListArgs),
    /// Stop a join token from admitting anybody else
    Revoke(RevokeArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
pub(crate) struct TrustArgs {
    /// The relay's id, as `node list` shows it, or its name
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// The only role it admits [default: both]
    #[arg(long)]
    role: Option<RoleArg>,
    /// A label that its nodes get; may be given several times
    #[arg(long, value_name = "K=V", value_parser = label)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// The token's id, as `node token list` shows it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArg {
    Relay,
    Agent,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("write a label as KEY=VALUE".into()),
    }
}

pub(crate) fn run(command: NodeCommand) -> Outcome {
    runtime::small()?.block_on(async {
        match command {
            NodeCommand::List(args) => {
                let list = args.client.operator()?.nodes().await.map_err(failure)?;
                if args.json {
                    say::json(&list);
                } else {
                    say::line(nodes(&list.nodes));
                    for relay in distrusted(&list.nodes) {
                        say::line(relay);
                    }
                }
            }
            NodeCommand::Trust(args) => {
                let client = args.list.client.operator()?;
                let node = client.trust(&args.node).await.map_err(failure)?;
                if args.list.json {
                    say::json(&node);
                } else {
                    say::line(format_args!("trusted {} ({})", node.name, node.node));
                }
            }
            NodeCommand::Token(command) => token(command).await?,
        }
        Ok(Exit::Done)
    })
}

async fn token(command: TokenCommand) -> Result<(), crate::exit::Failure> {
    match command {
        TokenCommand::Create(args) => {
            let create = CreateJoinToken {
                role: args.role.map(|role| match role {
                    RoleArg::Relay => Role::Relay,
                    RoleArg::Agent => Role::Agent,
                }),
                labels: args.label.into_iter().collect(),
            };
            let client = args.list.client.operator()?;
            let made = client.create_join_token(&create).await.map_err(failure)?;
            if args.list.json {
                say::json(&made);
            } else {
                say::line(made.token.as_deref().unwrap_or_default());
            }
        }
        TokenCommand::List(args) => {
            let list = args
                .client
                .operator()?
                .join_tokens()
                .await
                .map_err(failure)?;
            if args.json {
                say::json(&list);
            } else {
                say::line(tokens(&list.tokens));
            }
        }
        TokenCommand::Revoke(args) => {
            let client = args.list.client.operator()?;
            let revoked = client.revoke_join_token(&args.id).await.map_err(failure)?;
            if args.list.json {
                say::json(&revoked);
            } else {
                say::line(format_args!("revoked {}", revoked.id));
            }
        }
    }
    Ok(())
}

/// Relays that are not trusted, each with the reason and since when.
fn distrusted(nodes: &[NodeView]) -> impl Iterator<Item = String> + '_ {
    nodes.iter().filter_map(|node| {
        let reason = node.distrusted.as_ref()?;
        let since = node.distrusted_us.map(|us| format!(", since {}", date(us)));
        let (name, id, since) = (&node.name, node.node, since.unwrap_or_default());
        Some(format!(
            "relay {name} ({id}) is not trusted any more{since}: {reason}; see to it, then `floodway node trust {id}`"
        ))
    })
}

/// A moment in microseconds since 1970 as HTTP writes dates, to the second.
fn date(us: i64) -> String {
    /// The end of the year 9999: the format has four digits.
    const LATEST_US: u64 = 253_402_300_799_000_000;
    let us = u64::try_from(us).unwrap_or_default().min(LATEST_US);
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_micros(us))
}

fn nodes(nodes: &[NodeView]) -> Table {
    let mut table = Table::new(&["node", "name", "role", "live", "labels", "peer", "http"]);
    for node in nodes {
        table.row(&[
            &node.node,
            &node.name,
            &human::word(node.role),
            &if node.live { "yes" } else { "no" },
            &labels(&node.labels),
            &node.peer.as_deref().unwrap_or("-"),
            &node.http.as_deref().unwrap_or("-"),
        ]);
    }
    table
}

fn tokens(tokens: &[JoinToken]) -> Table {
    let mut table = Table::new(&["id", "role", "labels", "state"]);
    for token in tokens {
        table.row(&[
            &token.id,
            &token.role.map_or_else(|| "both".into(), human::word),
            &labels(&token.labels),
            &if token.revoked { "revoked" } else { "valid" },
        ]);
    }
    table
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "-".into();
    }
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_not_trusted_is_listed_with_the_reason_and_the_way_back() {
        let id = "0102030405060708090a0b0c0d0e0f10";
        let node: NodeView = serde_json::from_value(serde_json::json!({
            "node": id, "name": "one", "role": "relay", "labels": {}, "live": true,
            "peer": null, "http": null, "seen_us": 0,
            "distrusted": "it read piece 7 otherwise", "distrusted_us": 1_795_360_686_955_066_i64,
        }))
        .unwrap();
        let trusted = NodeView {
            distrusted: None,
            distrusted_us: None,
            ..node.clone()
        };
        let lines: Vec<_> = distrusted(&[node, trusted]).collect();
        let line = format!(
            "relay one ({id}) is not trusted any more, since Sun, 22 Nov 2026 15:18:06 GMT: it read piece 7 otherwise; see to it, then `floodway node trust {id}`"
        );
        assert_eq!(lines, [line]);
    }

    #[test]
    fn no_date_is_too_late_or_too_early() {
        assert_eq!(date(i64::MIN), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(i64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
