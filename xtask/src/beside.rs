//! Checks that Batchwright compiles together with other libraries whose versions must agree with its
//! dependencies.

use std::path::Path;

use crate::cargo;

/// A test crate: its name, the features of the store, and its dependency in addition to the engine and the store. SQLite can
/// be linked only once, so all libraries that link it must agree on its version, or the store leaves SQLite out.
type Beside = (&'static str, &'static [&'static str], &'static str);

const CRATES: [Beside; 4] = [
    ("beside-sqlx", &["default"], "sqlx = \"0.9\""),
    ("beside-oldest-rusqlite", &["default"], "rusqlite = \"=0.39.0\""),
    ("beside-newest-rusqlite", &["default"], "rusqlite = \">=0.41, <0.42\""),
    (
        "beside-older-sqlx",
        &["postgres"],
        "sqlx = { version = \"0.8\", features = [\"runtime-tokio\", \"sqlite\"] }",
    ),
];

const PROGRAM: &str = "\
//! Uses a name of each crate, so that all are linked.
pub fn used() -> (batchwright::error::ErrorKind, &'static str) {
    let _ = batchwright_store::StoreOptions::default();
    (batchwright::error::ErrorKind::DATA, \"compiled\")
}
";

/// Compiles each test crate from its manifest, in a shared target folder.
pub(crate) fn check() -> Result<(), String> {
    let root = std::env::current_dir().map_err(|error| error.to_string())?;
    let ours = |name: &str, features: &[&str]| {
        format!(
            "{name} = {{ path = \"{}/crates/{name}\", default-features = false, features = {features:?} }}\n",
            root.display()
        )
    };
    for (name, store, other) in CRATES {
        let folder = root.join("target/beside").join(name);
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{}{}{other}\n\n[workspace]\n",
            ours("batchwright", &["default"]),
            ours("batchwright-store", store),
        );
        write(&folder.join("Cargo.toml"), &manifest)?;
        write(&folder.join("src/lib.rs"), PROGRAM)?;
        // Without a lock file, so that the newest versions in the registry are used, as in a new project.
        let _ = std::fs::remove_file(folder.join("Cargo.lock"));
        let manifest = folder.join("Cargo.toml");
        let manifest = manifest.to_str().ok_or("the path is no text")?;
        cargo(
            &["check", "--manifest-path", manifest, "--target-dir", "target/beside/target"],
            &[],
        )?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    std::fs::create_dir_all(path.parent().unwrap_or(path)).map_err(failed)?;
    std::fs::write(path, text).map_err(failed)
}
