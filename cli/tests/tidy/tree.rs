//! The repository's text files, as they lie in the working tree; what building, running and version control leave there is not read.

use std::fs;
use std::path::Path;

/// Directories, by name, that hold nothing of ours.
const SKIPPED: [&str; 6] = ["target", ".git", ".venv", "node_modules", "keyforge-data", "__pycache__"];

/// A text file.
pub struct File {
    /// Its path below the repository, with `/`.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// Every text file.
pub struct Tree {
    /// By path.
    pub files: Vec<File>,
}

impl Tree {
    /// Reads the repository that this test was built in.
    pub fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let mut files = Vec::new();
        walk(root, "", &mut files);
        files.sort_by(|one, other| one.path.cmp(&other.path));
        assert!(files.iter().any(|file| file.path == "Cargo.toml"), "{} is not the repository", root.display());
        Self { files }
    }

    /// The text of a file that must exist.
    pub fn text(&self, path: &str) -> &str {
        self.files
            .iter()
            .find(|file| file.path == path)
            .map_or_else(|| panic!("{path} is missing"), |file| file.text.as_str())
    }

    /// Whether there is a file or directory of this path.
    pub fn has(&self, path: &str) -> bool {
        let directory = format!("{path}/");
        path.is_empty() || self.files.iter().any(|file| file.path == path || file.path.starts_with(&directory))
    }

    /// Names below a directory that ends in `/`.
    pub fn under<'a>(&'a self, directory: &'a str) -> impl Iterator<Item = &'a str> {
        self.files.iter().filter_map(move |file| file.path.strip_prefix(directory))
    }
}

fn walk(directory: &Path, prefix: &str, files: &mut Vec<File>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().unwrap_or_else(|error| panic!("{path}: {error}"));
        if kind.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(&entry.path(), &format!("{path}/"), files);
            }
        } else if kind.is_file()
            && let Some(text) = fs::read(entry.path()).ok().and_then(|bytes| String::from_utf8(bytes).ok())
        {
            // A file that vanished meanwhile, or holds no text, has nothing to say.
            files.push(File { path, text });
        }
    }
}
