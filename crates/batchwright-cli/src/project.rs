//! Finds the configuration of the working folder, whose store every verb uses.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use batchwright_server::{Config, ConfigError};

use crate::args::Global;
use crate::error::CliError;

/// The configuration file that is searched in the working folder and its parents when no other file is named.
const CONFIG_FILE: &str = "batchwright.toml";

/// Completes `global` with the path of the configuration, and with the store that it names unless the command
/// line or the environment names another.
///
/// # Errors
///
/// When the named configuration does not exist, even if its store is not used.
pub(crate) fn resolve(global: &mut Global) -> Result<(), CliError> {
    match &global.config {
        Some(file) => {
            std::fs::metadata(file)
                .map_err(|error| ConfigError { file: file.clone(), problem: error.to_string() })?;
        }
        None => global.config = find(&std::env::current_dir()?)?,
    }
    if let (None, Some(file)) = (&global.store, &global.config) {
        let url = Config::store_url(file)?;
        global.store = url.map(|url| beside(&url, file.parent().unwrap_or(Path::new(""))));
    }
    Ok(())
}

/// Returns the nearest configuration file.
///
/// A file that another user could have written is refused: it names the store, whose rows name job files,
/// which run programs.
fn find(folder: &Path) -> Result<Option<PathBuf>, CliError> {
    let file = folder.ancestors().map(|folder| folder.join(CONFIG_FILE)).find(|one| one.is_file());
    let Some(file) = file else { return Ok(None) };
    let about = std::fs::metadata(&file)?;
    let ours = [rustix::process::geteuid().as_raw(), 0].contains(&about.uid());
    if !ours || about.mode() & 0o002 != 0 {
        return Err(CliError::Usage(format!(
            "the configuration `{}` is not used, because it belongs to another user or is writable by all users; name the configuration \
             with --config, or the store with --store",
            file.display()
        )));
    }
    Ok(Some(file))
}

/// Returns `url` with the path of a SQLite file resolved relative to `folder`.
fn beside(url: &str, folder: &Path) -> String {
    match url.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest)) {
        Some(path) if !path.starts_with('/') && !folder.as_os_str().is_empty() => {
            format!("sqlite://{}", folder.join(path).display())
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_of_a_project_lies_beside_its_configuration() {
        let folder = Path::new("/srv/app");
        assert_eq!(
            beside("sqlite://s.db?synchronous=normal", folder),
            "sqlite:///srv/app/s.db?synchronous=normal"
        );
        assert_eq!(beside("sqlite:///var/s.db", folder), "sqlite:///var/s.db");
        assert_eq!(beside("postgres://a@h/d", folder), "postgres://a@h/d");
    }

    #[test]
    fn the_nearest_configuration_is_found_from_any_folder_below() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        let (outer, inner) = (dir.path().join(CONFIG_FILE), dir.path().join("a").join(CONFIG_FILE));
        std::fs::write(&outer, "").unwrap();
        assert_eq!(find(&below).unwrap().as_deref(), Some(&*outer));
        std::fs::write(&inner, "").unwrap();
        assert_eq!(find(&below).unwrap().as_deref(), Some(&*inner));
        let writable_by_all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&inner, writable_by_all).unwrap();
        let refused = find(&below).unwrap_err().to_string();
        assert!(refused.contains("writable by all users"), "{refused}");
    }
}
