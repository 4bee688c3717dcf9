//! `keyforge node`: who may be a node of this deployment. Operators make join tokens, look and remove; the machine itself joins.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keyforge_data_plane::identity::join::{Join, JoinError, join};
use keyforge_proto::admin::v1 as proto;
use keyforge_runtime::config::{SecretRef, SecretRefError};
use keyforge_runtime::tls::peer::Fingerprint;
use keyforge_shared::clock::{Clock as _, SystemClock};
use keyforge_shared::id::NodeId;
use serde::Serialize;
use serde_json::json;

use crate::client::{AdminArgs, AdminClient};
use crate::errors::Failure;
use crate::output::{OutputFormat, Row, moment, or_dash};

/// What `keyforge node` takes.
#[derive(Args, Debug)]
pub struct NodeArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: NodeAction,
}

#[derive(Debug, Subcommand)]
enum NodeAction {
    /// Tokens with which machines join
    Token(TokenArgs),
    /// Make this machine a node: run on the machine itself, with a token of `keyforge node token create`
    #[command(after_help = "Example:\n  \
        JOIN=kfj_… keyforge node join --control-plane https://control-plane.internal:7443 --token env:JOIN \\\n    \
        --ca-fingerprint SHA256:… --data-dir /var/lib/keyforge/node")]
    Join(JoinArgs),
    /// Show all nodes: their certificates, whether they are connected, and how far they are
    List,
    /// End a node: its certificate is worth nothing from now on, and its streams are cut at once
    Remove {
        /// The node's id, as `keyforge node list` shows it
        id: String,
    },
    /// Show the certificate authority of this deployment and its fingerprint
    Ca,
}

#[derive(Args, Debug)]
struct TokenArgs {
    #[command(subcommand)]
    action: TokenAction,
}

#[derive(Debug, Subcommand)]
enum TokenAction {
    /// Make a token with which one machine may join, once; it is shown this once
    #[command(after_help = "Example:\n  keyforge node token create --name edge-1 --ttl 30m")]
    Create {
        /// What the node will be called
        #[arg(long, default_value = "")]
        name: String,
        /// How long it is good: a number and s, m, h or d; a week at most
        #[arg(long, value_name = "TIME", default_value = "1h")]
        ttl: String,
        /// Providers whose secrets the node is given, for as long as it is a node, such as openai,anthropic; all without this
        #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
        providers: Vec<String>,
    },
}

#[derive(Args, Debug)]
struct JoinArgs {
    /// URL of the control plane's TLS address, such as https://control-plane.internal:7443
    #[arg(long, value_name = "URL")]
    control_plane: String,
    /// Join token by reference: env:NAME, file:PATH, or - for the standard input; never itself
    #[arg(long, value_name = "REF")]
    token: String,
    /// Fingerprint of the deployment's authority, as `keyforge node ca` shows it
    #[arg(long, value_name = "SHA256:…")]
    ca_fingerprint: String,
    /// The node's data directory, where its identity is kept; made for its owner only
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: NodeArgs) -> Result<(), Failure> {
    let output = args.admin.output;
    match args.action {
        NodeAction::Join(join) => join_here(&join, output).await,
        NodeAction::Token(TokenArgs { action: TokenAction::Create { name, ttl, providers } }) => {
            let ttl_seconds = seconds(&ttl)?;
            let client = AdminClient::find(&args.admin).await?;
            let request = proto::CreateJoinTokenRequest { name, ttl_seconds, providers };
            let made = client.nodes().create_join_token(request).await?.into_inner();
            let view = TokenView {
                token: made.token,
                expires_at: moment(made.expires_at_ms),
                ca_fingerprint: made.authority.map_or_else(String::new, |authority| authority.fingerprint),
            };
            output.one(&view)
        }
        NodeAction::List => {
            let client = AdminClient::find(&args.admin).await?;
            let answer = client.nodes().list_nodes(proto::ListNodesRequest {}).await?.into_inner();
            let views: Vec<NodeView> =
                answer.nodes.into_iter().map(|node| NodeView::of(node, answer.revision)).collect();
            output.list(&views)
        }
        NodeAction::Remove { id } => {
            let id: NodeId = id.parse().map_err(|_| {
                Failure::usage("a node is named by its id: node_ and 32 hexadecimal digits")
                    .hint("`keyforge node list` shows every node")
            })?;
            let client = AdminClient::find(&args.admin).await?;
            let removed =
                client.nodes().remove_node(proto::RemoveNodeRequest { id: id.to_string() }).await?.into_inner();
            output.one(&NodeView::of(removed, 0))
        }
        NodeAction::Ca => {
            let client = AdminClient::find(&args.admin).await?;
            let authority = client.nodes().get_authority(proto::GetAuthorityRequest {}).await?.into_inner();
            let proto::Authority { fingerprint, certificate } = authority;
            let value = json!({ "fingerprint": fingerprint, "certificate": certificate });
            output.either(|| format!("{fingerprint}\n\n{certificate}"), &value)
        }
    }
}

async fn join_here(args: &JoinArgs, output: OutputFormat) -> Result<(), Failure> {
    let authority: Fingerprint =
        args.ca_fingerprint.parse().map_err(|error| Failure::usage(format!("--ca-fingerprint: {error}")))?;
    let reference = SecretRef::parse_allowing_stdin(&args.token).map_err(|error| match error {
        SecretRefError::Literal => Failure::usage(
            "--token takes a reference to the token, not the token: env:NAME, file:PATH, or - for the standard input",
        )
        .hint("a token on a command line ends up in the shell's history and in process lists"),
        other => Failure::usage(format!("--token: {other}")),
    })?;
    let token = reference.resolve().map_err(|error| Failure::refused(format!("--token: {error}")))?;
    let with =
        Join { url: &args.control_plane, token: &token, authority, directory: &args.data_dir, now: SystemClock.now() };
    let identity = Box::pin(join(with)).await.map_err(|error| match error {
        JoinError::Url(_) => Failure::usage(error),
        JoinError::Connect { .. } => Failure::refused(error).hint(
            "is [tls] listen configured at the control plane, and the fingerprint that of `keyforge node ca` there?",
        ),
        JoinError::Joined(..)
        | JoinError::Directory(_)
        | JoinError::Spool(_)
        | JoinError::Identity(_)
        | JoinError::Refused(_)
        | JoinError::Token
        | JoinError::Answer => Failure::refused(error),
    })?;
    output.one(&JoinedView {
        node: identity.node().to_string(),
        certificate_expires_at: identity.not_after().rfc3339(),
        data_dir: args.data_dir.display().to_string(),
        control_plane: args.control_plane.clone(),
    })
}

/// A time as a person writes it, such as `30m`, in seconds.
fn seconds(text: &str) -> Result<u64, Failure> {
    let wrong = || Failure::usage("--ttl: a number and s, m, h or d, such as 30m; from 1s to 7d");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text.strip_suffix(unit).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    let seconds = number.checked_mul(factor).ok_or_else(wrong)?;
    if (1..=604_800).contains(&seconds) { Ok(seconds) } else { Err(wrong()) }
}

#[derive(Serialize)]
struct TokenView {
    token: String,
    expires_at: String,
    ca_fingerprint: String,
}

impl Row for TokenView {
    const COLUMNS: &'static [&'static str] = &["token", "expires", "ca fingerprint"];

    fn cells(&self) -> Vec<String> {
        vec![self.token.clone(), self.expires_at.clone(), self.ca_fingerprint.clone()]
    }
}

#[derive(Serialize)]
struct JoinedView {
    node: String,
    certificate_expires_at: String,
    data_dir: String,
    control_plane: String,
}

impl Row for JoinedView {
    const COLUMNS: &'static [&'static str] = &["node", "certificate expires", "data directory", "control plane"];

    fn cells(&self) -> Vec<String> {
        vec![self.node.clone(), self.certificate_expires_at.clone(), self.data_dir.clone(), self.control_plane.clone()]
    }
}

#[derive(Serialize)]
struct NodeView {
    id: String,
    name: String,
    state: &'static str,
    joined_at: Option<String>,
    certificate_expires_at: Option<String>,
    removed_at: Option<String>,
    connected: bool,
    /// Where it is connected, if that is another control plane than the one that was asked.
    control_plane: Option<String>,
    acked_revision: u64,
    /// How many revisions it is behind; nothing for a node that is not connected.
    behind: Option<u64>,
    last_seen: Option<String>,
    version: String,
    region: String,
    /// Whose secrets it is given; none for all.
    providers: Vec<String>,
}

impl NodeView {
    fn of(node: proto::Node, revision: u64) -> Self {
        let when = |millis: i64| (millis != 0).then(|| moment(millis));
        let state = match (node.tampered, node.removed_at_ms != 0, node.connected) {
            (true, ..) => "tampered",
            (false, true, _) => "removed",
            (false, false, true) => "connected",
            (false, false, false) => "away",
        };
        Self {
            state,
            joined_at: when(node.joined_at_ms),
            certificate_expires_at: when(node.certificate_expires_at_ms),
            removed_at: when(node.removed_at_ms),
            behind: node.connected.then(|| revision.saturating_sub(node.acked_revision)),
            last_seen: when(node.last_seen_ms),
            id: node.id,
            name: node.name,
            connected: node.connected,
            control_plane: Some(node.control_plane).filter(|name| !name.is_empty()),
            acked_revision: node.acked_revision,
            version: node.version,
            region: node.region,
            providers: node.providers,
        }
    }
}

impl Row for NodeView {
    const COLUMNS: &'static [&'static str] = &[
        "id",
        "name",
        "state",
        "control plane",
        "certificate expires",
        "acked",
        "behind",
        "last seen",
        "region",
        "providers",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            or_dash(Some(&self.name).filter(|name| !name.is_empty())),
            self.state.to_owned(),
            or_dash(self.control_plane.as_ref()),
            or_dash(self.certificate_expires_at.as_ref()),
            self.acked_revision.to_string(),
            or_dash(self.behind),
            or_dash(self.last_seen.as_ref()),
            or_dash(Some(&self.region).filter(|region| !region.is_empty())),
            if self.providers.is_empty() { "all".to_owned() } else { self.providers.join(",") },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [("1s", 1), ("30m", 1_800), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
        for wrong in ["", "h", "0s", "8d", "1w", "-1h", "1.5h", "99999999999999999999d", "1ä"] {
            assert!(seconds(wrong).unwrap_err().to_string().contains("--ttl"), "{wrong}");
        }
    }

    #[test]
    fn a_node_is_shown_with_how_far_it_is_behind_and_a_removed_one_as_such() {
        let node = proto::Node { connected: true, acked_revision: 7, ..Default::default() };
        let view = NodeView::of(node.clone(), 9);
        assert_eq!((view.state, view.behind, view.certificate_expires_at.as_deref()), ("connected", Some(2), None));
        assert_eq!(view.cells().len(), NodeView::COLUMNS.len());
        let removed = NodeView::of(proto::Node { removed_at_ms: 1, connected: false, ..node }, 9);
        assert_eq!((removed.state, removed.behind), ("removed", None));
        let elsewhere = proto::Node { control_plane: "b:/data".to_owned(), connected: true, ..Default::default() };
        assert_eq!(NodeView::of(elsewhere.clone(), 9).cells()[2..4], ["connected", "b:/data"]);
        assert_eq!(NodeView::of(proto::Node { tampered: true, ..elsewhere }, 9).state, "tampered");
    }
}
