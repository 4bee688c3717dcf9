//! The way to a control plane: which one, with which token, over which channel.
//!
//! In this order: `--admin-url`, `--data`, `KEYFORGE_ADMIN_URL`, `KEYFORGE_DATA`, `./keyforge-data`. A data directory is that of a running
//! `keyforge dev` or control plane on this host, which left its address and its first operator's token there. The token is never part of a
//! command line, and never leaves this host in the clear: over http:// only loopback addresses are spoken to, and over https:// only a control
//! plane whose certificate authority is the one that was named.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use keyforge_data_plane::control::innermost;
use keyforge_proto::admin::v1::audit_service_client::AuditServiceClient;
use keyforge_proto::admin::v1::credential_service_client::CredentialServiceClient;
use keyforge_proto::admin::v1::key_service_client::KeyServiceClient;
use keyforge_proto::admin::v1::model_service_client::ModelServiceClient;
use keyforge_proto::admin::v1::node_service_client::NodeServiceClient;
use keyforge_proto::admin::v1::operator_service_client::OperatorServiceClient;
use keyforge_proto::admin::v1::usage_service_client::UsageServiceClient;
use keyforge_proto::admin::v1::vault_service_client::VaultServiceClient;
use keyforge_proto::admin::v1::workspace_service_client::WorkspaceServiceClient;
use keyforge_runtime::config::{SecretRef, env_var};
use keyforge_runtime::private_file;
use keyforge_runtime::tls::mutual;
use keyforge_runtime::tls::peer::Fingerprint;
use keyforge_shared::secret::SecretBytes;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use zeroize::Zeroizing;

use crate::errors::{CLOSED_HINT, Failure, is_closed};
use crate::output::OutputFormat;

/// Where a data directory says on which address its control plane listens.
pub const ADMIN_ADDR_FILE: &str = "admin.addr";
/// Where a data directory says on which address its control plane listens over TLS.
pub const TLS_ADDR_FILE: &str = "tls.addr";
/// Where a data directory says on which address agents connect.
pub const AGENTS_ADDR_FILE: &str = "agents.addr";
/// Where a data directory keeps its first operator's token.
const OPERATOR_TOKEN_FILE: &str = "operator.token";
/// The data directory of `keyforge dev` when none is named.
pub const DEFAULT_DATA: &str = "keyforge-data";

const URL_VARIABLE: &str = "KEYFORGE_ADMIN_URL";
const CA_VARIABLE: &str = "KEYFORGE_ADMIN_CA";
const TOKEN_VARIABLE: &str = "KEYFORGE_ADMIN_TOKEN";
/// Names the data directory when no option does.
pub const DATA_VARIABLE: &str = "KEYFORGE_DATA";

const UNREACHED_HINT: &str =
    "is `keyforge dev` running? start it, or name another server with --data DIR or --admin-url URL";
const CONNECT: Duration = Duration::from_secs(5);
const CALL: Duration = Duration::from_secs(60);
const PAGE: u32 = 500;
/// Bytes of a list of nodes at most.
const NODES: usize = 64 * 1024 * 1024;

/// What every admin command takes.
#[derive(Args, Clone, Debug, Default)]
pub struct AdminArgs {
    /// URL of the control plane: http:// on a loopback address, such as http://127.0.0.1:7070, or https:// with --admin-ca [env: KEYFORGE_ADMIN_URL]
    #[arg(long, global = true, value_name = "URL", help_heading = "Server")]
    pub admin_url: Option<String>,
    /// The control plane's certificate authority, for https://: its fingerprint as `keyforge node ca` shows it, or its PEM file
    /// [env: KEYFORGE_ADMIN_CA]
    #[arg(long, global = true, value_name = "SHA256:…|FILE", help_heading = "Server")]
    pub admin_ca: Option<String>,
    /// Operator token by reference: env:NAME or file:PATH, never itself [default: env:KEYFORGE_ADMIN_TOKEN]
    #[arg(long, global = true, value_name = "REF", help_heading = "Server")]
    pub admin_token: Option<String>,
    /// Data directory of a `keyforge dev` or control plane that runs on this host [env: KEYFORGE_DATA] [default: ./keyforge-data]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Server")]
    pub data: Option<PathBuf>,
    /// How to print the answer
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t, help_heading = "Server")]
    pub output: OutputFormat,
}

/// Which control plane to speak to, and where its token is.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// At this URL, with the token from here.
    Url(String, SecretRef),
    /// The one that runs on this data directory, with its first operator's token.
    Data(PathBuf),
    /// The one that runs on this data directory, with the token from here.
    DataWithToken(PathBuf, SecretRef),
    /// The one at this URL, with the token of this data directory.
    UrlWithData(String, PathBuf),
}

impl Target {
    fn find(args: &AdminArgs, env: impl Fn(&str) -> Option<String>, default: Option<PathBuf>) -> Result<Self, Failure> {
        // A token that is named is the one that is used, also where a data directory has one: another operator may do less than the first one.
        let named = args.admin_token.as_deref().map(token_reference).transpose()?;
        let url = args.admin_url.clone();
        // Beside a URL in the environment the token there is for that URL, and goes to no data directory that is named in its place.
        let is_elsewhere = url.is_none() && args.data.is_some() && env(URL_VARIABLE).is_some();
        let from_env =
            || env(TOKEN_VARIABLE).filter(|_| !is_elsewhere).map(|_| SecretRef::Env(TOKEN_VARIABLE.to_owned()));
        let token = named.or_else(from_env);
        let on = |data: PathBuf| match &token {
            Some(token) => Self::DataWithToken(data, token.clone()),
            None => Self::Data(data),
        };
        if let (None, Some(data)) = (&url, &args.data) {
            return Ok(on(data.clone()));
        }
        let data = args.data.clone().or_else(|| env(DATA_VARIABLE).map(PathBuf::from)).or(default);
        match (url.or_else(|| env(URL_VARIABLE)), token.clone(), data) {
            (Some(url), Some(token), _) => Ok(Self::Url(url, token)),
            (Some(url), None, Some(data)) => Ok(Self::UrlWithData(url, data)),
            (Some(_), None, None) => Err(Failure::usage("an admin URL is given, but no operator token").hint(
                "set KEYFORGE_ADMIN_TOKEN, or name the token with --admin-token file:PATH; \
                 the control plane wrote it to operator.token in its data directory",
            )),
            (None, _, Some(data)) => Ok(on(data)),
            (None, _, None) => Err(Failure::usage("no control plane to speak to")
                .hint("start one with `keyforge dev`, or name a running one with --data DIR or --admin-url URL")),
        }
    }
}

fn resolved(token: &SecretRef) -> Result<SecretBytes, Failure> {
    let source = if *token == SecretRef::Env(TOKEN_VARIABLE.to_owned()) { TOKEN_VARIABLE } else { "--admin-token" };
    token.resolve().map_err(|error| Failure::refused(format!("{source}: {error}")))
}

fn token_reference(text: &str) -> Result<SecretRef, Failure> {
    SecretRef::parse(text).map_err(|error| Failure::usage(format!("--admin-token: {error}")))
}

/// The data directory that exists where none is named.
fn default_data() -> Option<PathBuf> {
    let path = PathBuf::from(DEFAULT_DATA);
    path.is_dir().then_some(path)
}

/// Reads an address file of a data directory; `None` when nothing runs there.
#[must_use]
pub fn read_address(data: &Path, file: &str) -> Option<String> {
    let text = private_file::read(&data.join(file)).ok()?;
    text.expose_str().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Names the data directory that a command without a server of its own should look into.
#[must_use]
pub fn data_dir(named: Option<PathBuf>) -> Option<PathBuf> {
    named.or_else(|| env_var(DATA_VARIABLE).map(PathBuf::from)).or_else(default_data)
}

/// Adds the operator's token to a call.
#[derive(Clone)]
pub struct OperatorToken(MetadataValue<Ascii>);

impl Interceptor for OperatorToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Service = InterceptedService<Channel, OperatorToken>;

/// A control plane that answers.
#[derive(Clone)]
pub struct AdminClient {
    service: Service,
}

impl AdminClient {
    /// Finds the control plane that the arguments and the environment name, and connects to it.
    ///
    /// # Errors
    /// There is none, it does not answer, or there is no token for it.
    pub async fn find(args: &AdminArgs) -> Result<Self, Failure> {
        let authority = args.admin_ca.clone().or_else(|| env_var(CA_VARIABLE));
        let authority = authority.as_deref().map(pinned).transpose()?;
        match Target::find(args, env_var, default_data())? {
            Target::Url(url, token) => {
                let token = resolved(&token)?;
                Self::connect_pinned(&url, &token, authority).await
            }
            Target::UrlWithData(url, data) => Self::connect_pinned(&url, &operator_token(&data)?, authority).await,
            Target::Data(data) => Self::connect(&url_of(&data)?, &operator_token(&data)?).await,
            Target::DataWithToken(data, token) => {
                let token = resolved(&token)?;
                Self::connect(&url_of(&data)?, &token).await
            }
        }
    }

    /// Connects to the control plane at `url`, a loopback address, as the operator with this token.
    ///
    /// # Errors
    /// The URL or the token cannot be used, or nothing answers there.
    pub async fn connect(url: &str, token: &SecretBytes) -> Result<Self, Failure> {
        Self::connect_pinned(url, token, None).await
    }

    /// The same, also over TLS to a control plane with this authority.
    async fn connect_pinned(url: &str, token: &SecretBytes, authority: Option<Fingerprint>) -> Result<Self, Failure> {
        let endpoint =
            Endpoint::from(trusted(url, authority)?).connect_timeout(CONNECT).timeout(CALL).tcp_nodelay(true);
        let connected = match authority.filter(|_| endpoint.uri().scheme_str() == Some("https")) {
            Some(authority) => {
                let tls = mutual::client(authority, None, None).map_err(Failure::refused)?;
                endpoint.connect_with_connector(mutual::connector(tls)).await
            }
            None => endpoint.connect().await,
        };
        let channel = connected.map_err(|error| {
            let hint = if is_closed(&error) { CLOSED_HINT } else { UNREACHED_HINT };
            Failure::refused(format!("cannot reach the control plane at {url}: {}", innermost(&error))).hint(hint)
        })?;
        let unusable = || {
            Failure::refused(
                "the operator token holds characters that cannot be sent: use the content of operator.token",
            )
        };
        let text = token.expose_str().ok_or_else(unusable)?;
        let bearer = Zeroizing::new(format!("Bearer {}", text.trim()));
        let mut value: MetadataValue<Ascii> = bearer.parse().map_err(|_| unusable())?;
        value.set_sensitive(true);
        Ok(Self { service: InterceptedService::new(channel, OperatorToken(value)) })
    }

    /// Virtual keys.
    #[must_use]
    pub fn keys(&self) -> KeyServiceClient<Service> {
        KeyServiceClient::new(self.service.clone())
    }

    /// The vault.
    #[must_use]
    pub fn vault(&self) -> VaultServiceClient<Service> {
        VaultServiceClient::new(self.service.clone())
    }

    /// Workspaces.
    #[must_use]
    pub fn workspaces(&self) -> WorkspaceServiceClient<Service> {
        WorkspaceServiceClient::new(self.service.clone())
    }

    /// Operators.
    #[must_use]
    pub fn operators(&self) -> OperatorServiceClient<Service> {
        OperatorServiceClient::new(self.service.clone())
    }

    /// Credentials.
    #[must_use]
    pub fn credentials(&self) -> CredentialServiceClient<Service> {
        CredentialServiceClient::new(self.service.clone())
    }

    /// The model catalogue.
    #[must_use]
    pub fn models(&self) -> ModelServiceClient<Service> {
        ModelServiceClient::new(self.service.clone())
    }

    /// Nodes.
    #[must_use]
    pub fn nodes(&self) -> NodeServiceClient<Service> {
        // Their list has no pages: 20,000 nodes are some 4 MiB.
        NodeServiceClient::new(self.service.clone()).max_decoding_message_size(NODES)
    }

    /// Usage and balances.
    #[must_use]
    pub fn usage(&self) -> UsageServiceClient<Service> {
        UsageServiceClient::new(self.service.clone())
    }

    /// Audit chains.
    #[must_use]
    pub fn audit(&self) -> AuditServiceClient<Service> {
        AuditServiceClient::new(self.service.clone())
    }
}

/// Reads a list page by page until its end, or until there are `limit` entries. `fetch` takes a page size and a page token.
///
/// # Errors
/// What the server answers instead of a page.
pub async fn pages<T>(
    limit: Option<usize>,
    mut fetch: impl AsyncFnMut(u32, String) -> Result<(Vec<T>, String), Status>,
) -> Result<Vec<T>, Failure> {
    let limit = limit.unwrap_or(usize::MAX);
    let (mut found, mut token) = (Vec::new(), String::new());
    while found.len() < limit {
        let size = u32::try_from(limit - found.len()).unwrap_or(PAGE).min(PAGE);
        let (page, next) = fetch(size, token).await?;
        found.extend(page);
        token = next;
        if token.is_empty() {
            break;
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// Where the control plane of a data directory listens.
fn url_of(data: &Path) -> Result<String, Failure> {
    let addr = read_address(data, ADMIN_ADDR_FILE).ok_or_else(|| {
        let data = data.display();
        Failure::refused(format!("no control plane runs on the data directory {data}")).hint(format!(
            "is `keyforge dev` running? start it with `keyforge dev --data {data}`, \
             or name another server with --admin-url URL"
        ))
    })?;
    Ok(format!("http://{addr}"))
}

fn operator_token(data: &Path) -> Result<SecretBytes, Failure> {
    private_file::read(&data.join(OPERATOR_TOKEN_FILE))
        .map_err(|error| Failure::refused(error).hint("name the operator token with --admin-token file:PATH"))
}

/// The authority that `--admin-ca` names.
fn pinned(text: &str) -> Result<Fingerprint, Failure> {
    if text.starts_with("SHA256:") {
        return text.parse().map_err(|error| Failure::usage(format!("--admin-ca: {error}")));
    }
    Fingerprint::of_file(Path::new(text)).map_err(|error| Failure::refused(format!("--admin-ca: {error}")))
}

/// A URL that a token may be sent to.
fn trusted(url: &str, authority: Option<Fingerprint>) -> Result<Uri, Failure> {
    let wrong = |what: &str| Failure::usage(format!("--admin-url: {what}"));
    let uri: Uri = url.parse().map_err(|_| wrong("not a URL such as http://127.0.0.1:7070"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match (uri.scheme_str(), local, authority) {
        (Some("http"), true, _) | (Some("https"), _, Some(_)) => Ok(uri),
        (Some("https"), _, None) => Err(wrong("over https:// the control plane is known by its certificate authority")
            .hint("name it with --admin-ca or KEYFORGE_ADMIN_CA, as `keyforge node ca` shows it on the control plane's host")),
        _ => Err(wrong(
            "must be http:// on a loopback address, such as http://127.0.0.1:7070, or https://: \
             the operator token would cross the network in the clear",
        )
        .hint("use the control plane's [tls] listen address with --admin-ca, or run the command on the control plane's host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(args: &AdminArgs, env: &[(&str, &str)], default: Option<&str>) -> Result<Target, Failure> {
        let get = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Target::find(args, get, default.map(PathBuf::from))
    }

    fn args(url: Option<&str>, token: Option<&str>, data: Option<&str>) -> AdminArgs {
        AdminArgs {
            admin_url: url.map(str::to_owned),
            admin_ca: None,
            admin_token: token.map(str::to_owned),
            data: data.map(PathBuf::from),
            output: OutputFormat::Table,
        }
    }

    #[test]
    fn options_come_before_the_environment_and_the_environment_before_the_default() {
        let env = [(URL_VARIABLE, "http://e"), (TOKEN_VARIABLE, "t"), (DATA_VARIABLE, "/env")];
        let from_env = SecretRef::Env(TOKEN_VARIABLE.to_owned());
        let data = |path: &str| Ok(Target::Data(PathBuf::from(path)));
        let as_named = |path: &str| Ok(Target::DataWithToken(PathBuf::from(path), from_env.clone()));
        assert_eq!(find(&args(None, None, Some("/d")), &env, Some("/x")), data("/d"));
        assert_eq!(find(&args(None, None, Some("/d")), &env[1..], Some("/x")), as_named("/d"));
        assert_eq!(find(&args(None, None, None), &env[1..], Some("/x")), as_named("/env"));
        assert_eq!(find(&args(None, None, None), &env[1..2], Some("/x")), as_named("/x"));
        assert_eq!(find(&args(None, None, Some("/d")), &env[2..], Some("/x")), data("/d"));
        let at_url = Ok(Target::Url("http://a".into(), from_env.clone()));
        assert_eq!(find(&args(Some("http://a"), None, None), &env, None), at_url);
        let file = SecretRef::File(PathBuf::from("/t"));
        let own = || Ok(Target::DataWithToken(PathBuf::from("/d"), file.clone()));
        assert_eq!(find(&args(None, Some("file:/t"), Some("/d")), &env, Some("/x")), own());
        assert_eq!(find(&args(None, Some("file:/t"), None), &[], Some("/d")), own());
        let named = args(Some("http://a"), Some("file:/t"), None);
        assert_eq!(find(&named, &env, None), Ok(Target::Url("http://a".into(), file)));
        assert_eq!(find(&args(None, None, None), &env[2..], Some("/x")), data("/env"));
        assert_eq!(find(&args(None, None, None), &[], Some("/x")), data("/x"));
        let with_data = args(Some("http://a"), None, Some("/d"));
        assert_eq!(find(&with_data, &[], None), Ok(Target::UrlWithData("http://a".into(), PathBuf::from("/d"))));
    }

    #[test]
    fn a_missing_server_or_token_is_a_usage_error_that_says_what_to_do() {
        let error = find(&args(None, None, None), &[], None).unwrap_err().to_string();
        assert!(error.contains("keyforge dev"), "{error}");
        let error = find(&args(Some("http://a"), None, None), &[], None).unwrap_err().to_string();
        assert!(error.contains("KEYFORGE_ADMIN_TOKEN"), "{error}");
    }

    #[test]
    fn a_literal_operator_token_is_refused_without_repeating_it() {
        let error = find(&args(Some("http://a"), Some("kfo_secret"), None), &[], None).unwrap_err().to_string();
        assert!(error.contains("--admin-token") && !error.contains("kfo_secret"), "{error}");
    }

    #[test]
    fn tokens_are_sent_to_this_host_or_to_a_pinned_authority_only() {
        let pin: Fingerprint = format!("SHA256:{}", "ab".repeat(32)).parse().unwrap();
        for good in ["http://127.0.0.1:7070", "http://localhost:1", "http://[::1]:7070"] {
            assert!(trusted(good, None).is_ok() && trusted(good, Some(pin)).is_ok(), "{good}");
        }
        for bad in ["http://10.0.0.1:7070", "http://keyforge.example", "127.0.0.1:7070", "nonsense", ""] {
            assert!(trusted(bad, Some(pin)).unwrap_err().to_string().contains("--admin-url"), "{bad}");
        }
        assert!(trusted("https://keyforge.example:7443", Some(pin)).is_ok());
        let error = trusted("https://127.0.0.1:7443", None).unwrap_err().to_string();
        assert!(error.contains("--admin-url") && error.contains("--admin-ca"), "{error}");
        assert_eq!(pinned(&pin.to_string()), Ok(pin));
        for wrong in ["SHA256:12", "/no/such/file.pem"] {
            assert!(pinned(wrong).unwrap_err().to_string().contains("--admin-ca"), "{wrong}");
        }
    }

    #[tokio::test]
    async fn pages_are_read_to_the_end_or_to_the_limit() {
        let fetch = async |size: u32, token: String| {
            let from: u32 = if token.is_empty() { 0 } else { token.parse().unwrap() };
            let to = (from + size.min(4)).min(10);
            Ok(((from..to).collect::<Vec<_>>(), if to == 10 { String::new() } else { to.to_string() }))
        };
        assert_eq!(pages(None, fetch).await.unwrap(), (0..10).collect::<Vec<_>>());
        assert_eq!(pages(Some(6), fetch).await.unwrap(), (0..6).collect::<Vec<_>>());
        assert_eq!(pages(Some(0), fetch).await.unwrap(), Vec::<u32>::new());
    }
}
