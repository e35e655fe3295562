//! An S3 server over loopback, inside this process, with its objects as files of a directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::runtime::Runtime;

use crate::common::{PATIENCE, runtime};

const BUCKET: &str = "backups";
const KEY: &str = "somebody";
const SECRET: &str = "a secret";

/// The server; it ends when it is dropped.
pub(crate) struct S3 {
    root: PathBuf,
    address: SocketAddr,
    held: Arc<Held>,
    _runtime: Runtime,
}

/// Requests that are left unanswered.
#[derive(Default)]
struct Held {
    method_and_part: Mutex<Option<[String; 2]>>,
    has_come: AtomicBool,
}

impl S3 {
    pub(crate) fn start(root: &Path) -> Self {
        std::fs::create_dir_all(root.join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let (service, held, runtime) = (builder.build(), Arc::<Held>::default(), runtime());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(listener, service, held.clone()));
        Self { root: root.into(), address, held, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("s3://{BUCKET}/of/this")
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Directory of the objects below the URL.
    pub(crate) fn directory(&self) -> PathBuf {
        self.root.join(BUCKET).join("of/this")
    }

    /// Number of files of parts that belong to no object yet.
    pub(crate) fn parts(&self) -> usize {
        let entries = std::fs::read_dir(&self.root).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains(".part-")).count()
    }

    /// Gives a program access to it.
    pub(crate) fn allow(&self, command: &mut Command) {
        set(command, &self.endpoint(), KEY, SECRET);
    }

    /// From now on leaves requests of this method that name such an object unanswered.
    pub(crate) fn hold(&self, method: &str, part: &str) {
        self.held.has_come.store(false, Ordering::SeqCst);
        *self.held.method_and_part.lock().unwrap() = Some([method.into(), part.into()]);
    }

    /// Waits for such a request, and answers later ones.
    pub(crate) fn wait_held(&self) {
        let begun = Instant::now();
        while !self.held.has_come.load(Ordering::SeqCst) {
            assert!(begun.elapsed() < PATIENCE, "no such request comes");
            std::thread::sleep(Duration::from_millis(2));
        }
        *self.held.method_and_part.lock().unwrap() = None;
    }
}

/// Sets the variables of a program, and removes others.
pub(crate) fn set(command: &mut Command, endpoint: &str, key: &str, secret: &str) {
    let others = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_"));
    for (name, _) in others {
        command.env_remove(name);
    }
    command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_ALLOW_HTTP", "true");
    command.env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret);
}

async fn serve(listener: tokio::net::TcpListener, service: S3Service, held: Arc<Held>) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let (service, held) = (service.clone(), held.clone());
        let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (by, uri) = (request.method().as_str(), request.uri().to_string());
            let asked = held.method_and_part.lock().unwrap().clone();
            let is_held = asked.is_some_and(|[method, part]| by == method && uri.contains(&part));
            let (service, held) = (service.clone(), held.clone());
            async move {
                if is_held {
                    held.has_come.store(true, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                }
                service.call(request.map(s3s::Body::from)).await
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}
