//! Crates of users that have other libraries beside ours: those whose versions must agree with what we depend on.

use std::path::Path;

use crate::cargo;

/// Name of the crate, and what it depends on beside our three crates. SQLite can be linked only once, so the
/// versions of everything that brings it must agree.
const CRATES: [(&str, &str); 3] = [
    ("beside-sqlx", "sqlx = \"0.9\""),
    ("beside-oldest-rusqlite", "rusqlite = \"=0.39.0\""),
    ("beside-newest-rusqlite", "rusqlite = \">=0.41, <0.42\""),
];

const PROGRAM: &str = "\
//! Uses a name of each crate, so that none is left out.
pub fn used() -> (batchwright::ErrorKind, &'static str) {
    let _ = batchwright_store::StoreOptions::default();
    let _: Option<batchwright_server::Worker> = None;
    (batchwright::ErrorKind::DATA, \"compiled\")
}
";

/// Compiles each of them from nothing but its manifest, in one target folder of their own.
pub(crate) fn check() -> Result<(), String> {
    let root = std::env::current_dir().map_err(|error| error.to_string())?;
    let ours = |name: &str| format!("{name} = {{ path = \"{}/crates/{name}\" }}\n", root.display());
    for (name, other) in CRATES {
        let folder = root.join("target/beside").join(name);
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{}{}{}{other}\n\n[workspace]\n",
            ours("batchwright"),
            ours("batchwright-store"),
            ours("batchwright-server"),
        );
        write(&folder.join("Cargo.toml"), &manifest)?;
        write(&folder.join("src/lib.rs"), PROGRAM)?;
        // As somebody has it who starts today: what resolves is what the registry has now.
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
    let told = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    std::fs::create_dir_all(path.parent().unwrap_or(path)).map_err(told)?;
    std::fs::write(path, text).map_err(told)
}
