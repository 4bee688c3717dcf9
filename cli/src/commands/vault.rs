//! `keyforge vault`: under which keys the secrets are sealed, whether they can be opened, and the move to another key.

use std::io::Write as _;

use clap::{Args, Subcommand};
use keyforge_proto::admin::v1 as proto;
use serde::Serialize;
use tonic::{Code, Status};

use crate::client::{AdminArgs, AdminClient};
use crate::errors::Failure;
use crate::output::{OutputFormat, Row, moment, table};

/// How the control plane names the key of the nodes' authority among what cannot be opened.
const NODE_AUTHORITY: &str = "node_authority";

/// What `keyforge vault` takes.
#[derive(Args, Debug)]
pub struct VaultArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: VaultAction,
}

#[derive(Debug, Subcommand)]
enum VaultAction {
    /// Try every secret and show the vault's keys; exit code 1 when a secret cannot be opened
    Status,
    /// Seal everything anew under the key that the control plane's configuration names now
    #[command(after_help = "Before it, in the control plane's configuration file, without a restart:\n  \
        [vault]\n  \
        key = \"file:/etc/keyforge/vault-2.key\"          # made with: (umask 077; openssl rand -hex 32 > FILE)\n  \
        previous = [\"file:/etc/keyforge/vault.key\"]     # until nothing is sealed under it any more\n\n\
        With several control planes on one database, do so at each of them; the rotation is refused while one of them does not hold the new key.\n\n\
        Ctrl-C ends the watching, not the rotation. A control plane that is stopped goes on at its next start.")]
    Rotate,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; secrets that cannot be opened are one.
pub async fn run(args: VaultArgs) -> Result<(), Failure> {
    let output = args.admin.output;
    let client = AdminClient::find(&args.admin).await?;
    match args.action {
        VaultAction::Status => status(&client, output).await,
        VaultAction::Rotate => rotate(&client, output).await,
    }
}

async fn status(client: &AdminClient, output: OutputFormat) -> Result<(), Failure> {
    let answer = client.vault().get_vault_status(proto::GetVaultStatusRequest {}).await?.into_inner();
    let view = StatusView::of(answer);
    output.either(|| view.text(), &view)?;
    if view.unreadable.is_empty() { Ok(()) } else { Err(Failure::already_said()) }
}

async fn rotate(client: &AdminClient, output: OutputFormat) -> Result<(), Failure> {
    let mut progress = client.vault().rotate_vault(proto::RotateVaultRequest {}).await?.into_inner();
    let mut last = None;
    while let Some(now) = progress.message().await.map_err(lost)? {
        let now = ProgressView::of(now);
        if output == OutputFormat::Table && now.tenth() > last.as_ref().map_or(0, ProgressView::tenth) {
            // Who does not read the standard error does not want to know.
            drop(writeln!(std::io::stderr().lock(), "sealed anew: {} of {}", now.rewrapped, now.total));
        }
        last = Some(now);
    }
    let last = last.ok_or_else(|| lost(Status::new(Code::Aborted, "the rotation said nothing")))?;
    output.either(|| last.text(), &last)?;
    if last.state == "done" && last.unreadable == 0 { Ok(()) } else { Err(Failure::already_said()) }
}

/// The control plane went away while it was watched.
fn lost(status: Status) -> Failure {
    Failure::from(status).hint(
        "if the control plane was stopped, the rotation goes on at its next start: `keyforge vault status` shows how far it is, and \
         `keyforge vault rotate` watches it again",
    )
}

/// How the vault stands.
#[derive(Debug, Serialize)]
struct StatusView {
    secrets: u64,
    keys: Vec<KeyView>,
    unreadable: Vec<UnreadableView>,
    /// The last rotation since the control plane's start, or one that is unfinished.
    rotation: Option<ProgressView>,
    /// The control planes that share the database; none when it is not shared.
    control_planes: Vec<HolderView>,
}

/// A control plane and the vault keys that it holds.
#[derive(Debug, Serialize)]
struct HolderView {
    name: String,
    keys: Vec<String>,
    seen_at: String,
    /// Whether it is the one that answered.
    answered: bool,
}

/// A vault key.
#[derive(Debug, Serialize)]
struct KeyView {
    id: String,
    term: u32,
    /// The reference in the configuration; absent when it is not there.
    source: Option<String>,
    current: bool,
    secrets: u64,
    unreadable: u64,
    audit_root: bool,
    /// Whether the private key of the nodes' authority is sealed under it.
    node_authority: bool,
    /// Whether the configuration names it as the key, so that a rotation makes it the current one.
    wanted: bool,
    wraps: u64,
    most_wraps: u64,
    added_at: String,
}

/// A secret that cannot be opened.
#[derive(Debug, Serialize)]
struct UnreadableView {
    credential: String,
    reason: String,
}

/// How far a rotation is.
#[derive(Debug, Serialize)]
struct ProgressView {
    state: &'static str,
    key: String,
    total: u64,
    rewrapped: u64,
    unreadable: u64,
    /// Why it was interrupted.
    reason: Option<String>,
    /// References of configured keys that seal nothing any more.
    retired: Vec<String>,
}

impl StatusView {
    fn of(status: proto::VaultStatus) -> Self {
        let unreadable =
            |found: proto::UnreadableSecret| UnreadableView { credential: found.credential_id, reason: found.reason };
        Self {
            secrets: status.secrets,
            keys: status.keys.into_iter().map(KeyView::of).collect(),
            unreadable: status.unreadable.into_iter().map(unreadable).collect(),
            rotation: status.rotation.map(ProgressView::of),
            control_planes: status.holders.into_iter().map(HolderView::of).collect(),
        }
    }

    fn text(&self) -> String {
        // The key of the nodes' authority is named among what cannot be opened, but is nobody's secret at a provider.
        let unreadable = self.unreadable.iter().filter(|found| found.credential != NODE_AUTHORITY).count();
        let readable = self.secrets.saturating_sub(u64::try_from(unreadable).unwrap_or(u64::MAX));
        let mut parts = vec![table(&self.keys), format!("{readable} of {} secrets can be opened", self.secrets)];
        if !self.unreadable.is_empty() {
            parts.push(table(&self.unreadable));
        }
        if !self.control_planes.is_empty() {
            parts.push(table(&self.control_planes));
        }
        if let Some(next) = self.keys.iter().find(|key| key.wanted && !key.current) {
            parts.push(format!("the configuration names {} as the key: `keyforge vault rotate` moves to it", next.id));
        }
        match &self.rotation {
            Some(rotation) => parts.push(format!("rotation: {}", rotation.text())),
            None => {
                let keys = self.keys.iter().filter(|key| key.is_retired());
                parts.extend(keys.filter_map(|key| key.source.as_deref()).map(retired));
            }
        }
        parts.join("\n\n")
    }
}

impl KeyView {
    fn of(key: proto::VaultKey) -> Self {
        Self {
            id: key.id,
            term: key.term,
            source: Some(key.source).filter(|source| !source.is_empty()),
            current: key.current,
            secrets: key.secrets,
            unreadable: key.unreadable,
            audit_root: key.audit_root,
            node_authority: key.node_authority,
            wanted: key.wanted,
            wraps: key.wraps,
            most_wraps: key.most_wraps,
            added_at: moment(key.added_at_ms),
        }
    }

    const fn is_retired(&self) -> bool {
        self.source.is_some() && !self.current && !self.wanted && self.seals_nothing()
    }

    const fn seals_nothing(&self) -> bool {
        self.secrets == 0 && !self.audit_root && !self.node_authority
    }

    const fn stands(&self) -> &'static str {
        match self {
            Self { current: true, .. } => "current",
            Self { wanted: true, .. } => "next",
            Self { source: None, .. } if self.seals_nothing() => "retired",
            Self { source: None, .. } => "missing",
            Self { .. } if self.seals_nothing() => "no longer needed",
            Self { .. } => "for reading",
        }
    }
}

impl Row for KeyView {
    const COLUMNS: &'static [&'static str] =
        &["id", "term", "state", "source", "secrets", "unreadable", "beside them", "sealed", "added"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.term.to_string(),
            self.stands().to_owned(),
            self.source.clone().unwrap_or_else(|| "-".to_owned()),
            self.secrets.to_string(),
            self.unreadable.to_string(),
            match (self.audit_root, self.node_authority) {
                (true, true) => "audit root, nodes' authority",
                (true, false) => "audit root",
                (false, true) => "nodes' authority",
                (false, false) => "-",
            }
            .to_owned(),
            format!("{} of {}", self.wraps, self.most_wraps),
            self.added_at.clone(),
        ]
    }
}

impl HolderView {
    fn of(holder: proto::VaultHolder) -> Self {
        let proto::VaultHolder { name, key_ids, seen_at_ms, is_this } = holder;
        Self { name, keys: key_ids, seen_at: moment(seen_at_ms), answered: is_this }
    }
}

impl Row for HolderView {
    const COLUMNS: &'static [&'static str] = &["control plane", "holds", "seen", "answered"];

    fn cells(&self) -> Vec<String> {
        let answered = if self.answered { "yes" } else { "-" };
        vec![self.name.clone(), self.keys.join(" "), self.seen_at.clone(), answered.to_owned()]
    }
}

impl Row for UnreadableView {
    const COLUMNS: &'static [&'static str] = &["credential", "reason"];

    fn cells(&self) -> Vec<String> {
        vec![self.credential.clone(), self.reason.clone()]
    }
}

impl ProgressView {
    fn of(progress: proto::RotationProgress) -> Self {
        let state = match progress.state() {
            proto::RotationState::Unspecified => "unknown",
            proto::RotationState::Running => "running",
            proto::RotationState::Done => "done",
            proto::RotationState::Interrupted => "interrupted",
        };
        Self {
            state,
            key: progress.key_id,
            total: progress.total,
            rewrapped: progress.rewrapped,
            unreadable: progress.unreadable,
            reason: Some(progress.reason).filter(|reason| !reason.is_empty()),
            retired: progress.retired,
        }
    }

    /// Tenths that are done.
    const fn tenth(&self) -> u64 {
        match self.rewrapped.saturating_mul(10).checked_div(self.total) {
            Some(tenth) => tenth,
            None => 0,
        }
    }

    fn text(&self) -> String {
        let Self { key, total, rewrapped, unreadable, .. } = self;
        let mut lines = vec![match (self.state, total) {
            ("done", 0) => format!(
                "everything is sealed under {key}. To change the key, name a new one as vault.key in the control plane's configuration and \
                 this one in vault.previous"
            ),
            ("done", _) => format!("done: {rewrapped} of {total} secrets were sealed anew under {key}"),
            (state, _) => format!("{state}: {rewrapped} of {total} secrets are sealed anew under {key}"),
        }];
        lines.extend(self.reason.as_ref().map(|reason| format!("reason: {reason}")));
        if *unreadable > 0 {
            lines.push(format!(
                "{unreadable} cannot be opened and stay as they are; `keyforge vault status` names them"
            ));
        }
        lines.extend(self.retired.iter().map(|source| retired(source)));
        lines.join("\n")
    }
}

fn retired(source: &str) -> String {
    format!(
        "{source} seals nothing any more: take it out of vault.previous in the control plane's configuration, and keep the key for as long as \
         you keep backups of the database that were made before"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(state: proto::RotationState, total: u64, rewrapped: u64) -> proto::RotationProgress {
        proto::RotationProgress {
            state: state.into(),
            key_id: "kek_2".to_owned(),
            total,
            rewrapped,
            ..proto::RotationProgress::default()
        }
    }

    #[test]
    fn the_end_of_a_rotation_says_what_to_do_with_the_old_key() {
        let ended = proto::RotationProgress {
            retired: vec!["file:/old".to_owned()],
            ..progress(proto::RotationState::Done, 3, 3)
        };
        let text = ProgressView::of(ended).text();
        assert!(
            text.starts_with("done: 3 of 3 secrets were sealed anew under kek_2\nfile:/old seals nothing"),
            "{text}"
        );
        let nothing = ProgressView::of(progress(proto::RotationState::Done, 0, 0)).text();
        assert!(nothing.contains("To change the key, name a new one as vault.key"), "{nothing}");
    }

    #[test]
    fn an_interrupted_rotation_says_why_and_how_far_it_came() {
        let broken = proto::RotationProgress {
            reason: "the disk is full".to_owned(),
            unreadable: 1,
            ..progress(proto::RotationState::Interrupted, 9, 4)
        };
        let view = ProgressView::of(broken);
        assert_eq!(view.tenth(), 4);
        let text = view.text();
        assert!(
            text.starts_with("interrupted: 4 of 9 secrets are sealed anew under kek_2\nreason: the disk"),
            "{text}"
        );
        assert!(text.contains("1 cannot be opened"), "{text}");
    }

    #[test]
    fn a_key_stands_by_what_it_seals_and_whether_it_is_configured() {
        let key = |source: &str, current: bool, secrets: u64| {
            let source = source.to_owned();
            KeyView::of(proto::VaultKey { source, current, secrets, ..proto::VaultKey::default() }).stands()
        };
        assert_eq!([key("file:/k", true, 0), key("file:/k", false, 1)], ["current", "for reading"]);
        assert_eq!(
            [key("file:/k", false, 0), key("", false, 0), key("", false, 1)],
            ["no longer needed", "retired", "missing"]
        );
        assert_eq!(KeyView::of(proto::VaultKey::default()).cells().len(), KeyView::COLUMNS.len());
    }
}
