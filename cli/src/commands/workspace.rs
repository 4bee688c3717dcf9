//! `keyforge workspace`: keys that share limits. A workspace is made, shown with what its keys used, renamed, given other limits, and deleted.

use clap::{Args, Subcommand, ValueEnum};
use keyforge_proto::admin::v1 as proto;
use prost_types::FieldMask;
use serde::Serialize;
use serde_json::json;

use super::balance::BalanceView;
use super::period_limits::{self, NoPeriodLimitArgs, PeriodLimitArgs, RequestLimitView, SpendLimitView};
use super::workspace_name;
use crate::client::{AdminArgs, AdminClient, pages};
use crate::errors::Failure;
use crate::output::{Row, lines, moment, table};

/// What `keyforge workspace` takes.
#[derive(Args, Debug)]
pub struct WorkspaceArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: WorkspaceAction,
}

#[derive(Debug, Subcommand)]
enum WorkspaceAction {
    /// Make a workspace, whose keys share its limits
    #[command(after_help = "Example:\n  keyforge workspace create team --requests 20000/month --spend 50/month")]
    Create(CreateArgs),
    /// Show all workspaces, by name
    List {
        /// Show at most this many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show one workspace, and how much of its limits its keys have used
    Show(WorkspaceArg),
    /// Change the name, the limits or the plan of a workspace; only what is named changes
    #[command(after_help = "Example:\n  keyforge workspace update team --spend 80/month --no-requests")]
    Update(UpdateArgs),
    /// Delete a workspace that has no keys, not even revoked ones; what was done with it stays in the audit chain
    Delete(WorkspaceArg),
}

#[derive(Args, Debug)]
struct WorkspaceArg {
    /// The workspace's name, or its id: ws_ and 32 hexadecimal digits
    #[arg(value_name = "ID|NAME")]
    workspace: String,
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// What it is called, such as the team's name; no other workspace has this name
    name: String,
    /// What bounds it, whatever its own limits say
    #[arg(long, value_enum, default_value_t)]
    plan: PlanArg,
    #[command(flatten)]
    limits: PeriodLimitArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PlanArg {
    /// At most 3 virtual keys that are not revoked, and 1,000 requests a month over all keys
    Free,
    /// No bounds
    #[default]
    Unlimited,
}

impl From<PlanArg> for proto::Plan {
    fn from(plan: PlanArg) -> Self {
        match plan {
            PlanArg::Free => Self::Free,
            PlanArg::Unlimited => Self::Unlimited,
        }
    }
}

#[derive(Args, Debug)]
struct UpdateArgs {
    #[command(flatten)]
    which: WorkspaceArg,
    /// A new name, which looks like that of no other workspace
    #[arg(long)]
    name: Option<String>,
    /// What bounds it, whatever its own limits say
    #[arg(long, value_enum)]
    plan: Option<PlanArg>,
    #[command(flatten)]
    limits: PeriodLimitArgs,
    #[command(flatten)]
    remove: NoPeriodLimitArgs,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: WorkspaceArgs) -> Result<(), Failure> {
    let output = args.admin.output;
    let call = Call::of(args.action)?;
    let client = AdminClient::find(&args.admin).await?;
    let mut workspaces = client.workspaces();
    let mut limits = None;
    let workspace = match call {
        Call::Create(request) => workspaces.create_workspace(request).await?,
        Call::List(limit) => {
            let found = pages(limit, async |page_size, page_token| {
                let request = proto::ListWorkspacesRequest { page_size, page_token };
                let answer = workspaces.list_workspaces(request).await?.into_inner();
                Ok((answer.workspaces, answer.next_page_token))
            });
            let views: Vec<WorkspaceView> = found.await?.into_iter().map(WorkspaceView::of).collect();
            return output.list(&views);
        }
        Call::Show(workspace) => {
            let found = workspaces.get_workspace(proto::GetWorkspaceRequest { workspace }).await?;
            // By its id: the name may be another's by now.
            let request = proto::GetWorkspaceBalanceRequest { workspace: found.get_ref().id.clone() };
            limits = Some(client.usage().get_workspace_balance(request).await?.into_inner().balances);
            found
        }
        Call::Update(request) => workspaces.update_workspace(request).await?,
        Call::Delete(workspace) => {
            workspaces.delete_workspace(proto::DeleteWorkspaceRequest { workspace: workspace.clone() }).await?;
            return output.either(|| format!("{workspace} is deleted"), &json!({ "deleted": workspace }));
        }
    };
    let workspace = WorkspaceView::of(workspace.into_inner());
    let Some(limits) = limits else { return output.one(&workspace) };
    let shown = ShownView { workspace, limits: limits.into_iter().map(BalanceView::of).collect() };
    output.either(|| shown.text(), &shown)
}

/// What to ask the server for.
#[derive(Debug)]
enum Call {
    Create(proto::CreateWorkspaceRequest),
    List(Option<usize>),
    Show(String),
    Update(proto::UpdateWorkspaceRequest),
    Delete(String),
}

impl Call {
    /// Everything that can be wrong with a command line is found before a server is looked for.
    fn of(action: WorkspaceAction) -> Result<Self, Failure> {
        Ok(match action {
            WorkspaceAction::Create(CreateArgs { name, plan, limits }) => {
                let (request_limits, spend_limits) = limits.into_messages();
                let plan = proto::Plan::from(plan).into();
                Self::Create(proto::CreateWorkspaceRequest { name, request_limits, spend_limits, plan })
            }
            WorkspaceAction::List { limit } => Self::List(limit),
            WorkspaceAction::Show(WorkspaceArg { workspace }) => Self::Show(workspace_name(workspace)?),
            WorkspaceAction::Update(args) => Self::Update(update(args)?),
            WorkspaceAction::Delete(WorkspaceArg { workspace }) => Self::Delete(workspace_name(workspace)?),
        })
    }
}

fn update(args: UpdateArgs) -> Result<proto::UpdateWorkspaceRequest, Failure> {
    let (requests, spend) = args.limits.given();
    let paths = [
        ("name", args.name.is_some()),
        ("plan", args.plan.is_some()),
        ("request_limits", requests || args.remove.no_requests),
        ("spend_limits", spend || args.remove.no_spend),
    ];
    let paths: Vec<String> = paths.into_iter().filter(|(_, given)| *given).map(|(path, _)| path.to_owned()).collect();
    if paths.is_empty() {
        return Err(Failure::usage("nothing to change")
            .hint("name what is to change, such as --spend 80/month or --no-requests"));
    }
    let (request_limits, spend_limits) = args.limits.into_messages();
    let workspace = workspace_name(args.which.workspace)?;
    Ok(proto::UpdateWorkspaceRequest {
        workspace,
        request_limits,
        spend_limits,
        update_mask: Some(FieldMask { paths }),
        name: args.name.unwrap_or_default(),
        plan: args.plan.map_or(proto::Plan::Unspecified, proto::Plan::from).into(),
    })
}

/// A workspace and the limits that its keys share.
#[derive(Clone, Debug, Serialize)]
struct WorkspaceView {
    id: String,
    name: String,
    plan: &'static str,
    request_limits: Vec<RequestLimitView>,
    spend_limits: Vec<SpendLimitView>,
    created_at: String,
    revision: u64,
}

impl WorkspaceView {
    fn of(workspace: proto::Workspace) -> Self {
        let plan = match workspace.plan() {
            proto::Plan::Free => "free",
            proto::Plan::Unlimited | proto::Plan::Unspecified => "unlimited",
        };
        Self {
            plan,
            id: workspace.id,
            name: workspace.name,
            request_limits: workspace.request_limits.into_iter().map(Into::into).collect(),
            spend_limits: workspace.spend_limits.into_iter().map(Into::into).collect(),
            created_at: moment(workspace.created_at_ms),
            revision: workspace.revision,
        }
    }
}

/// A workspace, and how much of its limits its keys have used in their current periods.
#[derive(Serialize)]
struct ShownView {
    #[serde(flatten)]
    workspace: WorkspaceView,
    limits: Vec<BalanceView>,
}

impl ShownView {
    fn text(&self) -> String {
        let workspace = lines(&self.workspace);
        match self.limits.as_slice() {
            [] => workspace,
            limits => format!("{workspace}\n\nLimits in their current periods\n{}", table(limits)),
        }
    }
}

impl Row for WorkspaceView {
    const COLUMNS: &'static [&'static str] = &["id", "name", "plan", "requests", "spend", "created"];

    fn cells(&self) -> Vec<String> {
        let [requests, spend] = period_limits::cells(&self.request_limits, &self.spend_limits);
        vec![self.id.clone(), self.name.clone(), self.plan.to_owned(), requests, spend, self.created_at.clone()]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        workspace: WorkspaceArgs,
    }

    fn call(words: &str) -> Result<Call, Failure> {
        let words = std::iter::once("workspace").chain(words.split(' '));
        let line = Line::try_parse_from(words).map_err(|error| Failure::usage(error.to_string()))?;
        Call::of(line.workspace.action)
    }

    #[test]
    fn an_update_names_what_was_given_and_nothing_else() {
        for (words, paths, limits) in [
            ("--spend 80/month", &["spend_limits"][..], (0, 1)),
            ("--requests 1/day --requests 9/month", &["request_limits"], (2, 0)),
            ("--no-requests --spend 1", &["request_limits", "spend_limits"], (0, 1)),
            ("--name other", &["name"], (0, 0)),
            ("--plan free", &["plan"], (0, 0)),
        ] {
            let Call::Update(request) = call(&format!("update team {words}")).unwrap() else { panic!("{words}") };
            assert_eq!(request.update_mask.unwrap().paths, paths, "{words}");
            assert_eq!((request.request_limits.len(), request.spend_limits.len()), limits, "{words}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_a_server_is_looked_for() {
        for (words, part) in [
            ("create", "<NAME>"),
            ("create n --requests 20k/month", "--requests"),
            ("create n --spend 5/year", "50/month"),
            ("create n --rpm 5", "--rpm"),
            ("show ws_123", "32 hexadecimal digits"),
            ("update team", "nothing to change"),
            ("update team --spend 5/day --no-spend", "--no-spend"),
            ("update team --name", "--name"),
            ("update team --plan gold", "--plan"),
            ("delete", "ID|NAME"),
            ("delete ws_123", "32 hexadecimal digits"),
        ] {
            let error = call(words).unwrap_err().to_string();
            assert!(error.contains(part), "{words}: {error}");
        }
    }

    #[test]
    fn limits_are_shown_as_they_are_written() {
        let view = WorkspaceView::of(proto::Workspace {
            name: "team".to_owned(),
            spend_limits: vec![proto::SpendLimit { nano_usd: 10_500_000_000, window: proto::Window::Month.into() }],
            ..Default::default()
        });
        assert_eq!(view.cells()[1..5], ["team", "unlimited", "-", "$10.50/month"]);
        assert_eq!(view.cells().len(), WorkspaceView::COLUMNS.len());
    }
}
