//! The command line: which commands there are. What each one takes stands in its own file under `commands`.

use clap::{Parser, Subcommand};

use crate::commands::{
    audit, control_plane, credential, data_plane, dev, env, import, key, local_cluster, model, move_database, node,
    operator, usage, vault, workspace,
};

/// An AI-agent credential gateway: agents hold virtual keys with limits, real provider keys stay in the vault.
#[derive(Debug, Parser)]
#[command(
    name = "keyforge",
    version,
    disable_help_subcommand = true,
    after_help = "Begin with `keyforge dev`: it needs nothing and prints a key to try.\n\n\
                  Admin commands find the server by --admin-url, --data, KEYFORGE_ADMIN_URL, KEYFORGE_DATA, or ./keyforge-data.\n\
                  Exit codes: 0 done, 1 refused or failed, 2 the command line is wrong."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process: control plane, one node and, without a provider key, a sandbox provider.
    Dev(dev::DevArgs),
    /// Run a control plane, several nodes and Redis as processes of their own on this machine, and start again what dies.
    LocalCluster(local_cluster::LocalClusterArgs),
    /// Run the control plane.
    ControlPlane(control_plane::ControlPlaneArgs),
    /// Move what a control plane keeps in SQLite to PostgreSQL.
    MoveDatabase(move_database::MoveDatabaseArgs),
    /// Run a node.
    DataPlane(data_plane::DataPlaneArgs),
    /// Virtual keys: what agents hold, and what it lets them do.
    Key(key::KeyArgs),
    /// Workspaces: keys that share limits.
    Workspace(workspace::WorkspaceArgs),
    /// Operators: who may administer, in which role and until when.
    Operator(operator::OperatorArgs),
    /// Credentials: real provider keys in the vault.
    Credential(credential::CredentialArgs),
    /// The vault: its keys, whether its secrets can be opened, and the move to another key.
    Vault(vault::VaultArgs),
    /// The model catalogue: who serves a model, its limits and its prices.
    Model(model::ModelArgs),
    /// Take over what another gateway's configuration says.
    Import(import::ImportArgs),
    /// Nodes: machines that join with a token, and what became of them.
    Node(node::NodeArgs),
    /// What keys used and what it cost.
    Usage(usage::UsageArgs),
    /// Audit chains: read them, and verify that nothing was changed.
    Audit(audit::AuditArgs),
    /// Print the environment variables that point a client at KeyForge.
    Env(env::EnvArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_has_a_help_text() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} of {}", argument.get_id(), command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
