//! `keyforge key`: virtual keys are made, shown and rotated. A token is printed when it is made, and never again.
//!
//! * [`update`]: what changes of a key; [`standing`]: what stops it or lets it go on; [`receipt`]: which nodes have done it
//! * [`limits`], [`label`], [`template`]: how keys are described; [`raise`]: limits that are higher for a while
//! * [`explain`], [`view`]: what is shown of a key

mod explain;
mod label;
mod limits;
mod raise;
mod receipt;
mod standing;
mod template;
mod update;
mod view;

use std::time::Duration;

use clap::{Args, Subcommand};
use keyforge_proto::admin::v1 as proto;
use keyforge_shared::clock::{Clock as _, SystemClock, Timestamp};
use keyforge_shared::period::ZoneName;

use self::explain::{ExplainArgs, ExplainView};
use self::label::Label;
use self::limits::LimitArgs;
use self::raise::RaiseArgs;
use self::standing::{Standing, StandingArgs, StandingChange};
use self::template::{FileArgs, Preset, TemplateAction};
use self::update::UpdateArgs;
use self::view::{CreatedView, KeyRow, KeyView};
use super::{key_id, workspace_name};
use crate::client::{AdminArgs, AdminClient, pages};
use crate::errors::Failure;
use crate::limit_syntax;

/// What `keyforge key` takes.
#[derive(Args, Debug)]
pub struct KeyArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: KeyAction,
}

#[derive(Debug, Subcommand)]
enum KeyAction {
    /// Make a key and print its token, this once
    #[command(after_help = "Example:\n  keyforge key create ci --models 'gpt-5*,gpt-4o*' \
                      --requests 20000/month --spend 50/month --rpm 120 --time-zone Europe/Berlin")]
    Create(CreateArgs),
    /// Presets for `key create --template`
    Template {
        #[command(subcommand)]
        action: TemplateAction,
    },
    /// Show keys, newest first
    List(ListArgs),
    /// Show one key
    Show(IdArgs),
    /// Show what a key may do now, and why a request of it would be refused
    #[command(after_help = "Example:\n  keyforge key explain vk_0123456789ab --model gpt-5 --from 192.0.2.7")]
    Explain(ExplainArgs),
    /// Change a key; only what is named changes
    #[command(after_help = "Example:\n  keyforge key update vk_0123456789ab --spend 80/month --no-rpm")]
    Update(UpdateArgs),
    /// Raise limits of a key until a moment, at which they end by themselves
    #[command(after_help = "Example:\n  keyforge key raise vk_0123456789ab --spend +20/month --until 2026-12-01")]
    Raise(RaiseArgs),
    /// Give a key another token and print it, this once
    #[command(after_help = "Example:\n  keyforge key rotate vk_0123456789ab --grace 24h")]
    Rotate(RotateArgs),
    /// Stop a key until it is resumed, and cut its running streams
    #[command(alias = "freeze")]
    Pause(StandingArgs),
    /// Let a paused key work again
    #[command(alias = "unfreeze")]
    Resume(StandingArgs),
    /// Set what a key has left to nothing, and cut its running streams; undone by other request limits
    #[command(
        after_help = "The key gets a total limit of 0 requests beside its other limits. To undo it:\n  keyforge key update ID \
                      --requests, with all request limits that it is to have, or --no-requests for none;\n  with --no-raises, if a limit that goes was raised"
    )]
    Zero(StandingArgs),
    /// End a key for ever, and cut its running streams
    Revoke(StandingArgs),
}

#[derive(Args, Debug)]
struct IdArgs {
    /// The key's id: vk_ and 12 characters
    id: String,
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Show at most this many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only those with this label; may be repeated, for those with all of them
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<Label>,
    /// Only those that end within this time from now, such as 7d
    #[arg(long, value_name = "TIME", value_parser = limit_syntax::span)]
    expiring: Option<Duration>,
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// What the key is for, such as the agent's name
    name: String,
    /// The workspace whose limits it shares, for all its life [default: default]
    #[arg(long, value_name = "ID|NAME")]
    workspace: Option<String>,
    /// The time zone in which its days, weeks and months begin, for all its life, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<ZoneName>,
    /// What to sort it by, such as team=research; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<Label>,
    /// Options that are not given are this template's: see `key template list`
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    #[command(flatten)]
    templates: FileArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Args, Debug)]
struct RotateArgs {
    /// The key's id: vk_ and 12 characters
    id: String,
    /// How long the token so far goes on to work, such as 24h, at most 30d [default: it ends at once]
    #[arg(long, value_name = "TIME", value_parser = limit_syntax::span)]
    grace: Option<Duration>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: KeyArgs) -> Result<(), Failure> {
    let output = args.admin.output;
    if let KeyAction::Template { action } = args.action {
        return template::run(action, output);
    }
    let call = Call::of(args.action, SystemClock.now())?;
    let client = AdminClient::find(&args.admin).await?;
    let mut keys = client.keys();
    let key = match call {
        Call::Create(request) => {
            let created = CreatedView::of(keys.create_key(request).await?.into_inner());
            return output.either(|| created.text(), &created);
        }
        Call::Explain(request) => {
            let explained = ExplainView::of(keys.explain_key(request).await?.into_inner());
            return output.either(|| explained.text(), &explained);
        }
        Call::Rotate(request) => {
            let rotated = CreatedView::of_rotated(keys.rotate_key(request).await?.into_inner());
            return output.either(|| rotated.text(), &rotated);
        }
        Call::List(limit, wanted) => {
            let found = pages(limit, async |page_size, page_token| {
                let request = proto::ListKeysRequest { page_size, page_token, ..wanted.clone() };
                let answer = keys.list_keys(request).await?.into_inner();
                Ok((answer.keys, answer.next_page_token))
            });
            let views: Vec<KeyRow> = found.await?.into_iter().map(KeyRow::of).collect();
            return output.list(&views);
        }
        Call::Show(id) => keys.get_key(proto::GetKeyRequest { id }).await?,
        Call::Update(request) => keys.update_key(request).await?,
        Call::Raise(request) => keys.raise_key(request).await?,
        Call::Standing(change) => {
            let receipt = change.carry_out(&client).await?;
            return output.either(|| receipt.text(), &receipt);
        }
    };
    output.one(&KeyView::of(key.into_inner()))
}

/// What to ask the server for.
#[derive(Debug)]
enum Call {
    Create(proto::CreateKeyRequest),
    /// At most so many of those that the request is for.
    List(Option<usize>, proto::ListKeysRequest),
    Show(String),
    Explain(proto::ExplainKeyRequest),
    Update(proto::UpdateKeyRequest),
    Raise(proto::RaiseKeyRequest),
    Rotate(proto::RotateKeyRequest),
    Standing(StandingChange),
}

impl Call {
    /// Everything that can be wrong with a command line is found before a server is looked for.
    fn of(action: KeyAction, now: Timestamp) -> Result<Self, Failure> {
        Ok(match action {
            KeyAction::Create(CreateArgs { name, workspace, time_zone, label, template, templates, limits }) => {
                let preset = template.map_or_else(|| Ok(Preset::default()), |name| templates.preset(&name))?;
                let (limits, _) = limits.over(preset.limits).policy(now)?;
                let labels = preset.labels.into_iter().chain(label::all(label)).collect();
                let policy = Some(proto::Policy { time_zone: time_zone.map(Into::into), ..limits });
                let workspace = workspace.map(workspace_name).transpose()?.unwrap_or_default();
                Self::Create(proto::CreateKeyRequest { name, policy, workspace, labels })
            }
            KeyAction::List(ListArgs { limit, label, expiring }) => {
                let expires_before_ms = expiring.map(|time| now.saturating_add(time).millis());
                let labels = label::all(label);
                Self::List(limit, proto::ListKeysRequest { labels, expires_before_ms, ..Default::default() })
            }
            KeyAction::Template { .. } => return Err(Failure::usage("templates are shown without a server")),
            KeyAction::Show(IdArgs { id }) => Self::Show(key_id(&id)?),
            KeyAction::Update(args) => Self::Update(args.request(now)?),
            KeyAction::Explain(args) => Self::Explain(args.request()?),
            KeyAction::Raise(args) => Self::Raise(args.request(now)?),
            KeyAction::Rotate(RotateArgs { id, grace }) => {
                let grace_ms = u64::try_from(grace.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
                Self::Rotate(proto::RotateKeyRequest { id: key_id(&id)?, grace_ms })
            }
            KeyAction::Pause(args) => Self::Standing(args.change(Standing::Pause)?),
            KeyAction::Resume(args) => Self::Standing(args.change(Standing::Resume)?),
            KeyAction::Zero(args) => Self::Standing(args.change(Standing::Zero)?),
            KeyAction::Revoke(args) => Self::Standing(args.change(Standing::Revoke)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use keyforge_proto::admin::v1::raise::Amount;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        key: KeyArgs,
    }

    pub(super) fn call(words: &str) -> Result<Call, Failure> {
        let words = std::iter::once("key").chain(words.split(' '));
        let line = Line::try_parse_from(words).map_err(|error| Failure::usage(error.to_string()))?;
        Call::of(line.key.action, Timestamp::from_millis(1_795_327_200_000))
    }

    /// The paths that an update names, and the policy it carries.
    pub(super) fn updated(words: &str) -> (Vec<String>, proto::Policy) {
        match call(&format!("update vk_0123456789ab {words}")).unwrap() {
            Call::Update(request) => (request.update_mask.unwrap().paths, request.policy.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_list_of_models_with_nothing_in_it_does_not_allow_every_model() {
        for models in [",", "gpt-5*,", ",gpt-5*", "a,,b"] {
            let error = call(&format!("create n --models {models}")).err().map(|failure| failure.to_string());
            assert!(error.is_some_and(|error| error.contains("--models: a pattern is empty")), "{models}");
        }
    }

    #[test]
    fn a_raise_has_an_end_and_limits_to_raise() {
        let Call::Raise(request) =
            call("raise vk_0123456789ab --spend +20/month --requests 500/day --until 2026-12-01").unwrap()
        else {
            panic!("not a raise")
        };
        let told: Vec<_> = request.raises.into_iter().map(|raise| (raise.amount.unwrap(), raise.until_ms)).collect();
        let until = 1_796_083_200_000;
        assert_eq!(told, [(Amount::Requests(500), until), (Amount::NanoUsd(20_000_000_000), until)]);
        for (wrong, option) in [
            ("raise vk_0123456789ab --until 2026-12-01", "--requests"),
            ("raise vk_0123456789ab --spend 5", "--until"),
            ("raise vk_0123456789ab --spend ++5/day --until 1d", "--spend"),
            ("raise vk_0123456789ab --spend 5 --until 2020-01-01", "--until"),
        ] {
            let error = call(wrong).unwrap_err().to_string();
            assert!(error.contains(option), "{wrong}: {error}");
        }
    }

    #[test]
    fn what_is_given_takes_the_place_of_what_the_template_says() {
        let Call::Create(request) =
            call("create n --template ci-bot --spend 9/week --rpm 3 --label kind=x --label team=a").unwrap()
        else {
            panic!("not a creation")
        };
        let policy = request.policy.unwrap();
        let week = proto::Window::Week.into();
        assert_eq!(policy.spend_limits, [proto::SpendLimit { nano_usd: 9_000_000_000, window: week }]);
        assert_eq!((policy.requests_per_minute, policy.concurrent_requests), (Some(3), Some(4)));
        assert_eq!((request.labels["kind"].as_str(), request.labels["team"].as_str()), ("x", "a"));
    }

    #[test]
    fn labels_are_given_changed_and_taken_away_by_their_names() {
        let Call::Create(request) = call("create n --label team=research --label env=").unwrap() else {
            panic!("not a creation")
        };
        assert_eq!((request.labels["team"].as_str(), request.labels["env"].as_str()), ("research", ""));
        let Call::Update(request) = call("update vk_0123456789ab --label a=b=c --no-label team").unwrap() else {
            panic!("not an update")
        };
        assert_eq!(request.update_mask.unwrap().paths, ["labels.a", "labels.team"]);
        assert_eq!((request.labels.len(), request.labels["a"].as_str()), (1, "b=c"));
        for wrong in ["team", "=x", ""] {
            assert!(call(&format!("create n --label {wrong}")).unwrap_err().to_string().contains("--label"), "{wrong}");
        }
    }

    #[test]
    fn a_list_is_of_those_with_all_labels_that_end_in_time() {
        let Call::List(limit, request) = call("list --limit 3 --label a=1 --label b=2 --expiring 7d").unwrap() else {
            panic!("not a list")
        };
        assert_eq!((limit, request.labels.len()), (Some(3), 2));
        assert_eq!(request.expires_before_ms, Some(1_795_327_200_000 + 7 * 86_400_000));
        assert!(call("list --expiring soon").unwrap_err().to_string().contains("--expiring"));
    }

    #[test]
    fn a_key_is_made_in_a_workspace_and_a_time_zone_and_an_update_names_them_for_the_server_to_refuse() {
        let Call::Create(request) = call("create n --workspace team --time-zone europe/berlin").unwrap() else {
            panic!("not a creation")
        };
        assert_eq!(request.workspace, "team");
        assert_eq!(request.policy.unwrap().time_zone.as_deref(), Some("Europe/Berlin"));
        let (paths, policy) = updated("--workspace team --time-zone Asia/Tokyo");
        assert_eq!(paths, ["workspace", "policy.time_zone"]);
        assert_eq!(policy.time_zone.as_deref(), Some("Asia/Tokyo"));
    }

    #[test]
    fn limits_that_cannot_be_read_are_refused_by_the_name_of_their_option() {
        for (words, option) in [
            ("create n --requests many", "--requests"),
            ("create n --spend 5/year", "--spend"),
            ("create n --rpm -5", "--rpm"),
            ("create n --rpm 0.5", "--rpm"),
            ("create n --max-output-tokens x", "--max-output-tokens"),
            ("create n --expires soon", "--expires"),
            ("create n --expires 2020-01-01", "--expires"),
            ("create n --tpm -5", "--tpm"),
            ("create n --tpm 1k", "--tpm"),
            ("create n --concurrency 5000000000", "--concurrency"),
            ("create n --time-zone Mars/Olympus", "--time-zone"),
            ("create n --workspace ws_1", "workspace"),
            ("create n --daily 5", "--daily"),
            ("create n --network 10.0.0.0/40", "--network"),
            ("create n --network ,", "--network"),
            ("create n --endpoints chat,images", "--endpoints"),
        ] {
            let error = call(words).unwrap_err().to_string();
            assert!(error.contains(option), "{words}: {error}");
        }
    }
}
