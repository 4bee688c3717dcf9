//! One server for all test processes of a user: started by the first that asks, stopped some seconds after the last has ended, however it ended.
//!
//! Every process holds a lock for as long as it lives; a keeper, which is a shell of its own, looks at that lock. Databases are named after the process
//! that made them, and the keeper drops those whose process is gone. What such a server commits need not survive a crash of the host.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

use super::{Place, programs};

/// Runs the server and looks, every two seconds, which databases and whether the server are still needed. Its arguments: the directory, the port, the
/// programs, and the server's command.
const KEEPER: &str = r#"
directory=$1; port=$2; programs=$3; shift 3
"$@" & server=$!
ask() { "$programs/psql" -X -A -t -h 127.0.0.1 -p "$port" -U keyforge -d postgres -c "$1" 2>/dev/null; }
idle=0
while kill -0 "$server" 2>/dev/null; do
    sleep 2
    for name in $(ask "SELECT datname FROM pg_database WHERE datname LIKE 't\_%'"); do
        owner=${name#t_}; owner=${owner%%_*}
        [ -d "/proc/$owner" ] || ask "DROP DATABASE IF EXISTS \"$name\" WITH (FORCE)" >/dev/null
    done
    if flock -n -x "$directory/users" true; then idle=$((idle + 1)); else idle=0; fi
    if [ "$idle" -ge 5 ]; then
        exec 9>"$directory/start"
        flock -x 9
        if flock -n -x "$directory/users" true; then
            rm -f "$directory/port"
            kill -INT "$server"
            wait "$server"
            rm -rf "$directory/data"
            exit 0
        fi
        exec 9>&-
        idle=0
    fi
done
"#;

/// The shared server, and the proof that this process needs it.
pub struct Shared {
    place: Place,
    _user: File,
    made: AtomicU32,
}

/// The server that this process shares with others.
///
/// # Errors
/// PostgreSQL is not installed, or does not start.
pub fn shared() -> anyhow::Result<&'static Shared> {
    static SHARED: OnceLock<Result<Shared, String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| Shared::join().map_err(|error| format!("{error:#}")));
    shared.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

impl Shared {
    fn join() -> anyhow::Result<Self> {
        let directory = directory()?;
        let lock = |name: &str| File::options().create(true).append(true).open(directory.join(name));
        let (starting, user) = (lock("start")?, lock("users")?);
        starting.lock()?;
        user.lock_shared()?;
        let programs = programs()?;
        let port = std::fs::read_to_string(directory.join("port")).ok().and_then(|port| port.parse().ok());
        if let Some(port) = port {
            let place = Place::at(programs.clone(), directory.clone(), port);
            if place.answers()? {
                return Ok(Self { place, _user: user, made: AtomicU32::new(0) });
            }
        }
        let _gone = std::fs::remove_dir_all(directory.join("data"));
        let place = Place::new(directory.clone())?;
        place.initialise()?;
        let server = place.command(&["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "autovacuum=off"])?;
        Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&directory)
            .arg(place.port().to_string())
            .arg(&programs)
            .arg(server.get_program())
            .args(server.get_args())
            .current_dir(&directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("the keeper of the shared server")?;
        place.wait()?;
        std::fs::write(directory.join("port"), place.port().to_string())?;
        Ok(Self { place, _user: user, made: AtomicU32::new(0) })
    }

    /// Makes an empty database, which is dropped when this process ends, and gives its URL.
    ///
    /// # Errors
    /// The server does not make it.
    pub fn database(&self) -> anyhow::Result<String> {
        self.copy_of("template1")
    }

    /// Makes a copy of a database that nobody uses at the moment, and gives its URL.
    ///
    /// # Errors
    /// Somebody uses it, or the server does not make the copy.
    pub fn copy_of(&self, template: &str) -> anyhow::Result<String> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.place.create(&format!("t_{}_{number}", std::process::id()), template)
    }

    /// Drops a database, whoever uses it.
    ///
    /// # Errors
    /// The server does not.
    pub fn forget(&self, name: &str) -> anyhow::Result<()> {
        self.place.tell(&format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)"))
    }
}

/// One per user and tree, so that trees of other versions have servers of their own.
fn directory() -> anyhow::Result<PathBuf> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    use std::os::unix::fs::MetadataExt as _;
    let mut hasher = DefaultHasher::new();
    env!("CARGO_MANIFEST_DIR").hash(&mut hasher);
    let user = std::fs::metadata("/proc/self")?.uid();
    let path = std::env::temp_dir().join(format!("keyforge-postgres-{user}-{:x}", hasher.finish()));
    std::fs::create_dir_all(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(path)
}
