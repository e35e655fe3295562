//! What the programs that ask a server bring along: an API key, from a file or a variable. None of
//! them has an option for the key itself, since others on the machine could read it there.

use std::path::Path;

/// The variable that has a key where no file is named.
pub const KEY_VARIABLE: &str = "KYRODB_API_KEY";

/// The key in the file, or else that of [`KEY_VARIABLE`], if it has one.
///
/// # Errors
/// If the file can't be read, or there is no key in it.
pub fn api_key(key_file: Option<&Path>) -> Result<Option<String>, String> {
    let Some(path) = key_file else {
        let key = std::env::var(KEY_VARIABLE).unwrap_or_default();
        return Ok(Some(key.trim().to_owned()).filter(|key| !key.is_empty()));
    };
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|error| format!("{} can't be read: {error}", path.display()))?;
    match text.trim() {
        "" => Err(format!("there is no key in {}", path.display())),
        key => Ok(Some(key.to_owned())),
    }
}
