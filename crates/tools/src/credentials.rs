//! Credentials of the client programs: an API key, from a file or a variable. None of the programs has an option for
//! the key itself, since others on the machine could read it there.

use std::path::Path;

use tonic::metadata::AsciiMetadataValue;
use tonic::metadata::errors::InvalidMetadataValue;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Environment variable with the key, used if no file is named.
pub const KEY_VARIABLE: &str = "KYRODB_API_KEY";

/// The key in the file, or else that of [`KEY_VARIABLE`], if it is set.
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

/// Adds the API key, if there is one, to each request.
#[derive(Clone)]
pub(crate) struct WithKey(Option<AsciiMetadataValue>);

impl WithKey {
    /// An interceptor with this key.
    ///
    /// # Errors
    /// If it has characters that no key has.
    pub(crate) fn new(key: Option<&str>) -> Result<Self, InvalidMetadataValue> {
        let mut key = key.map(AsciiMetadataValue::try_from).transpose()?;
        if let Some(key) = &mut key {
            key.set_sensitive(true);
        }
        Ok(Self(key))
    }
}

impl Interceptor for WithKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("x-api-key", key.clone());
        }
        Ok(request)
    }
}
