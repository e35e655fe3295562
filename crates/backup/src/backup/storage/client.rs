//! Access to the objects of a bucket, for sequential programs: requests that end within a bound, and errors that name
//! the remedy.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, stream};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{ClientConfigKey, HttpError};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    BackoffConfig, Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    RetryConfig,
};
use tokio::runtime::Runtime;

use crate::backup::Result;
use crate::disk::view::{Remote, Viewed};

/// Longest wait for the answer to a small request, retries included.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Time for which a failed request is retried.
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Longest time of a transfer of a part of a file, unless `AWS_TIMEOUT` is set.
const PART_MAX: &str = "120 seconds";

/// Bytes that are fetched ahead when a file is read in order.
const AHEAD_BYTES: u64 = 4 << 20;

/// Functions of a store that are used.
pub(super) trait Store: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Store for T {}

/// Objects below a prefix.
pub(super) struct Client {
    pub(super) runtime: Runtime,
    pub(super) store: Arc<dyn Store>,
    bucket: String,
    prefix: String,
    endpoint: String,
    /// Endpoint for credentials that no variable has.
    metadata_endpoint: String,
    window: RefCell<Window>,
}

/// The range that was fetched last.
#[derive(Default)]
struct Window {
    path: Path,
    offset: u64,
    bytes: Vec<u8>,
}

impl Client {
    /// The bucket and the prefix, with settings from environment variables.
    pub(super) fn of_environment(bucket: &str, prefix: &str) -> Result<Self> {
        // The first provider installed is used; there is only this one.
        let installed = rustls::crypto::ring::default_provider().install_default();
        tracing::debug!(?installed, "cryptography");
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
        if std::env::var_os("AWS_TIMEOUT").is_none() {
            builder = builder.with_config(timeout, PART_MAX);
        }
        let value = |key| builder.get_config_value(&key);
        let endpoint = value(AmazonS3ConfigKey::S3Endpoint)
            .or_else(|| value(AmazonS3ConfigKey::Endpoint))
            .unwrap_or_else(|| "the endpoint of AWS".into());
        let allow_http = value(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
        if endpoint.starts_with("http://") && allow_http.is_none_or(|value| value == "false") {
            return Err(format!(
                "{endpoint} has no TLS. Take one with https://, or allow it with \
                 AWS_ALLOW_HTTP=true where nobody else can listen."
            ));
        }
        let metadata_endpoint = value(AmazonS3ConfigKey::MetadataEndpoint)
            .unwrap_or_else(|| "http://169.254.169.254".into());
        let store = builder.with_retry(retries()).build().map_err(|error| {
            format!("s3://{bucket} can't be used: {error}. Check the AWS_ variables.")
        })?;
        let client = Self::over(Arc::new(store), bucket, prefix)?;
        Ok(Self { endpoint, metadata_endpoint, ..client })
    }

    /// Objects of any store.
    pub(super) fn over(store: Arc<dyn Store>, bucket: &str, prefix: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            runtime: runtime.map_err(|error| error.to_string())?,
            store,
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: String::new(),
            metadata_endpoint: String::new(),
            window: RefCell::default(),
        })
    }

    pub(super) fn shown(&self) -> String {
        match self.prefix.as_str() {
            "" => format!("s3://{}", self.bucket),
            prefix => format!("s3://{}/{prefix}", self.bucket),
        }
    }

    /// Path of the object of this name below the prefix.
    pub(super) fn path(&self, name: &str) -> Path {
        let parts = [self.prefix.as_str(), name];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Path::parse(parts.join("/")).expect("the prefix was checked, and names are plain")
    }

    /// Runs a request whose time depends on its bytes.
    pub(super) fn wait<T>(
        &self,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> std::result::Result<T, Error> {
        self.runtime.block_on(work)
    }

    /// Runs a request with a bounded time.
    fn ask<T>(
        &self,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> std::result::Result<T, Error> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(ANSWER_MAX, work).await });
        answer.unwrap_or_else(|elapsed| {
            Err(Error::Generic { store: "S3", source: Box::new(elapsed) })
        })
    }

    /// Reads a small object; `None` if it does not exist.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let found = self.ask(async { self.store.get(path).await?.bytes().await });
        self.if_found(found.map(Into::into))
    }

    /// Length of an object in bytes; `None` if it does not exist.
    pub(super) fn bytes(&self, path: &Path) -> Result<Option<u64>> {
        let found = self.ask(self.store.head(path));
        self.if_found(found.map(|meta| meta.size))
    }

    fn if_found<T>(&self, found: std::result::Result<T, Error>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { source, .. }) if !source.to_string().contains(NO_BUCKET) => {
                Ok(None)
            }
            Err(error) => Err(self.explain(&error)),
        }
    }

    /// Writes a small object.
    pub(super) fn put(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let payload = PutPayload::from(bytes.to_vec());
        self.ask(self.store.put(path, payload)).map(drop).map_err(|error| self.explain(&error))
    }

    /// Writes a small object if none exists; false if there is another one.
    pub(super) fn put_new(&self, path: &Path, bytes: &[u8]) -> Result<bool> {
        let payload = PutPayload::from(bytes.to_vec());
        let options = PutOptions::from(PutMode::Create);
        match self.ask(self.store.put_opts(path, payload, options)) {
            Ok(_) => Ok(true),
            // The object may be that of an attempt whose answer was lost.
            Err(Error::AlreadyExists { .. }) => Ok(self.read(path)?.is_some_and(|b| b == bytes)),
            Err(error) => Err(self.explain(&error)),
        }
    }

    /// Calls `take` for every object below a name, or for all.
    pub(super) fn each(&self, name: &str, mut take: impl FnMut(&str, &ObjectMeta)) -> Result<()> {
        let below = self.path(name);
        let mut listing = self.store.list(Some(&below));
        while let Some(meta) = self
            .ask(async { listing.next().await.transpose() })
            .map_err(|error| self.explain(&error))?
        {
            let path = meta.location.as_ref();
            let name = path.strip_prefix(&self.prefix).unwrap_or(path);
            take(name.trim_start_matches('/'), &meta);
        }
        Ok(())
    }

    /// Removes an object, if it exists.
    pub(super) fn remove(&self, path: &Path) -> Result<()> {
        self.if_found(self.ask(self.store.delete(path))).map(drop)
    }

    /// Removes every object below a name.
    pub(super) fn remove_below(&self, name: &str) -> Result<()> {
        let mut paths = Vec::new();
        self.each(name, |_, meta| paths.push(Ok(meta.location.clone())))?;
        let mut removed = self.store.delete_stream(stream::iter(paths).boxed());
        while let Some(one) = self.ask(async { Ok(removed.next().await) }).transpose() {
            self.if_found(one.and_then(|one| one))?;
        }
        Ok(())
    }

    /// Aborts the upload of a large object.
    pub(super) fn abort(&self, path: &Path, upload: &String) -> Result<()> {
        self.if_found(self.ask(self.store.abort_multipart(path, upload))).map(drop)
    }

    /// Opens an object of this length for reading.
    pub(super) fn open(self: &Rc<Self>, path: Path, name: &str, bytes: u64) -> Viewed {
        Viewed::remote(Rc::new(Object { client: Rc::clone(self), path, bytes }), name, bytes)
    }

    /// Describes why a request failed, and the remedy.
    pub(super) fn explain(&self, error: &Error) -> String {
        let (shown, endpoint, bucket) = (self.shown(), &self.endpoint, &self.bucket);
        let text = error.to_string();
        let code = tagged(&text, "Code").unwrap_or("no reason given");
        let (mut cause, mut is_network): (&dyn std::error::Error, bool) = (error, false);
        while let Some(source) = cause.source() {
            is_network |= source.is::<HttpError>();
            cause = source;
        }
        let mut why = cause.to_string();
        if cause.is::<tokio::time::error::Elapsed>() {
            is_network = true;
            why = format!("no answer within {} s", ANSWER_MAX.as_secs());
        }
        let metadata_endpoint = &self.metadata_endpoint;
        if !metadata_endpoint.is_empty() && text.contains(metadata_endpoint) {
            return format!(
                "there are no credentials for {shown}: set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY. (The service {metadata_endpoint}, which has those of a \
                 cloud's machines, does not give any: {why}.)"
            );
        }
        let is_elsewhere = text.contains("configured region")
            || ["PermanentRedirect", "AuthorizationHeaderMalformed"].contains(&code);
        // A denied listing has no error kind of its own.
        let is_denied = ["403 Forbidden", "401 Unauthorized"].iter().any(|s| text.contains(s))
            || matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. });
        match error {
            _ if text.contains(NO_BUCKET) => format!(
                "there is no bucket {bucket} at {endpoint}. Make it, or say another one with \
                 --backup-dir s3://BUCKET/PREFIX."
            ),
            _ if is_denied => format!(
                "{endpoint} denies access to {shown}: {code}. Check AWS_ACCESS_KEY_ID, \
                 AWS_SECRET_ACCESS_KEY and AWS_REGION, and that this key may list, read, write \
                 and delete there."
            ),
            _ if is_elsewhere => format!(
                "{shown} is not in the region that was asked: set AWS_REGION to that of the \
                 bucket. ({text})"
            ),
            _ if is_network => format!(
                "{endpoint} can't be reached: {why}. Check AWS_ENDPOINT_URL and the network."
            ),
            _ => format!("{shown}: {text}"),
        }
    }
}

/// Error code of an answer.
const NO_BUCKET: &str = "NoSuchBucket";

fn retries() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries: 8, retry_timeout: RETRY_MAX }
}

/// The text between two tags.
fn tagged<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>")).map(|(inside, _)| inside)
}

/// Time since an object last changed.
pub(super) fn age(meta: &ObjectMeta) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_secs(meta.last_modified.timestamp().max(0) as u64))
}

/// An object that is read in pieces.
struct Object {
    client: Rc<Client>,
    path: Path,
    bytes: u64,
}

impl Remote for Object {
    fn read(&self, mut offset: u64, bytes: usize, target: &mut Vec<u8>) -> Result<()> {
        let end = offset + bytes as u64;
        let mut window = self.client.window.borrow_mut();
        while offset < end {
            let window_end = window.offset + window.bytes.len() as u64;
            let is_same = window.path == self.path;
            if is_same && (window.offset..window_end).contains(&offset) {
                let from = (offset - window.offset) as usize;
                let to = (end.min(window_end) - window.offset) as usize;
                target.extend_from_slice(&window.bytes[from..to]);
                offset += (to - from) as u64;
                continue;
            }
            // A reader that continues at the end of the last range will read on.
            let is_in_order = is_same && offset == window_end;
            let least = if is_in_order { AHEAD_BYTES } else { 0 };
            let range = offset..offset.saturating_add(least).max(end).min(self.bytes);
            let wanted = range.end - range.start;
            let found = self.client.wait(self.client.store.get_range(&self.path, range));
            let found = found.map_err(|error| self.client.explain(&error))?;
            if found.len() as u64 != wanted || wanted == 0 {
                return Err("it has become shorter".into());
            }
            *window = Window { path: self.path.clone(), offset, bytes: found.into() };
        }
        Ok(())
    }
}
