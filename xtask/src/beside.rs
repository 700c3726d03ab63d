//! Checks that Batchwright compiles together with other libraries whose versions must agree with its
//! dependencies.

use std::path::Path;

use crate::cargo;

/// A test crate: its name, the features of the store and, if it depends on the server, those of the server, and its
/// dependency in addition to Batchwright's crates. SQLite can be linked only once, so all libraries that link it must agree
/// on its version, or the store leaves SQLite out.
type Beside =
    (&'static str, &'static [&'static str], Option<&'static [&'static str]>, &'static str);

const CRATES: [Beside; 6] = [
    ("beside-sqlx", &["default"], None, "sqlx = \"0.9\""),
    ("beside-oldest-rusqlite", &["default"], None, "rusqlite = \"=0.39.0\""),
    ("beside-newest-rusqlite", &["default"], None, "rusqlite = \">=0.41, <0.42\""),
    (
        "beside-older-sqlx",
        &["postgres"],
        None,
        "sqlx = { version = \"0.8\", features = [\"runtime-tokio\", \"sqlite\"] }",
    ),
    ("without-servers", &["sqlite"], Some(&[]), ""),
    ("only-mysql", &["mysql"], None, ""),
];

const PROGRAM: &str = "\
//! Uses a name of each crate, so that all are linked.
pub fn used() -> (batchwright::error::ErrorKind, &'static str) {
    let _ = batchwright_store::StoreOptions::default();
    (batchwright::error::ErrorKind::DATA, \"compiled\")
}
";
const PROGRAM_OF_SERVER: &str = "pub type Used = batchwright_server::Worker;\n";

/// Compiles each test crate from its manifest, in a shared target folder.
pub(crate) fn check() -> Result<(), String> {
    let root = std::env::current_dir().map_err(|error| error.to_string())?;
    let ours = |name: &str, features: &[&str]| {
        format!(
            "{name} = {{ path = \"{}/crates/{name}\", default-features = false, features = {features:?} }}\n",
            root.display()
        )
    };
    for (name, store, server, other) in CRATES {
        let folder = root.join("target/beside").join(name);
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{}{}{}{other}\n\n[workspace]\n",
            ours("batchwright", &["default"]),
            ours("batchwright-store", store),
            server.map_or_else(String::new, |features| ours("batchwright-server", features)),
        );
        write(&folder.join("Cargo.toml"), &manifest)?;
        let used = if server.is_some() { PROGRAM_OF_SERVER } else { "" };
        write(&folder.join("src/lib.rs"), &format!("{PROGRAM}{used}"))?;
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
