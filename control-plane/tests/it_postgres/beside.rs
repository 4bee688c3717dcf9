//! Another control plane on the same database.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use keyforge_control_plane::audit::Audit;
use keyforge_control_plane::audit::intake::Intake;
use keyforge_control_plane::ledger::Ledger;
use keyforge_control_plane::store::Store;
use keyforge_runtime::private_file::private_dir;
use keyforge_shared::secret::Key256;
use tempfile::TempDir;

use crate::plane::Plane;
use crate::rig::{ADMIN_CHAIN, DEPLOYMENT, Rig};
use crate::stores::{self, URL_FILE};

/// Lets a directory use the database at `url`.
pub fn use_database(directory: &Path, url: &str) {
    fs::write(directory.join(URL_FILE), url).unwrap();
}

/// Lets a directory use the database of another one.
pub fn share_database(of: &Path, with: &Path) {
    fs::copy(of.join(URL_FILE), with.join(URL_FILE)).unwrap();
}

/// A directory for another control plane, with the files that both must have.
pub fn directory_beside(of: &Path) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    share_database(of, directory.path());
    let data = directory.path().join("data");
    private_dir(&data).unwrap();
    for file in ["vault.key", "fleet.token", "operator.token"] {
        fs::copy(of.join("data").join(file), data.join(file)).unwrap();
    }
    directory
}

/// Another control plane.
pub async fn plane_beside(plane: &Plane) -> Plane {
    Plane::start_again(directory_beside(plane.directory.path())).await
}

/// The same books, as another control plane on the same database has them.
pub async fn rig_beside(rig: &Rig) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let database = stores::database_of(rig.directory.path()).unwrap();
    let data = directory.path().join("data");
    let store = Store::open_configured(&data, Some(&database), rig.clock.clone()).await.unwrap();
    let audit = Arc::new(Audit::new(Key256::new([7; 32]), DEPLOYMENT, ADMIN_CHAIN, rig.clock.clone()));
    Rig {
        ledger: Ledger::new(store.clone(), rig.clock.clone()),
        intake: Intake::new(store.clone(), audit.clone()),
        store,
        clock: rig.clock.clone(),
        audit,
        directory,
    }
}
